"""A warm-started run begins exactly where the earlier one ended, row by row, on real ranks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.fit import Fit
from ranking.config import load
from ranking.data.growth import extended
from ranking.data.transforms import Transforms
from ranking.distributed.world import World
from ranking.errors import InputError
from ranking.tracking.runs import NullRun
from tests.launch import launch
from tests.ranked import Tensors, whole
from tests.workspace import Workspace, build, impressions

KNOWN = pa.array(np.arange(30))  # the users of the first day; the second day has 10 to 39


@dataclass(frozen=True)
class Days:
    """Two days of a tiny log: a run trained on the first, and what the second brings."""

    workspace: Workspace
    tensors: Tensors
    scores: npt.NDArray[np.float32]
    fitted: dict[str, Transforms]

    @property
    def run(self) -> Path:
        return self.workspace.folder / "first"

    def overrides(self, output: Path, transforms: str, *more: str) -> list[str]:
        data = [f"--data.{split}={self.workspace.folder}/second/*.parquet" for split in ("train", "validation")]
        return [
            *data,
            f"--output={output}",
            f"--data.transforms={self.workspace.folder}/{transforms}",
            f"--warm_start.run={self.run}",
            *more,
        ]


def trained(world: World, files: list[Path], overrides: list[str]) -> tuple[Tensors, Any]:
    """A run to its end; its tensors whole, and its scores of the second day's rows of known users."""
    fit = Fit(load(files, overrides), world)
    assert fit.train(NullRun())
    return whole(fit.state.tensors(), world), scores(fit)


def begun(world: World, files: list[Path], overrides: list[str]) -> tuple[Tensors, Any, dict[str, Any]]:
    """As `trained`, before the first step."""
    fit = Fit(load(files, overrides), world)
    return whole(fit.state.tensors(), world), scores(fit), fit.state.progress.model_dump()


def scores(fit: Fit) -> npt.NDArray[np.float32] | None:
    found = fit.parts.evaluate(fit.parts.manifest("test"), fit.state, 0).predictions
    return None if found is None else found.scores[np.argsort(found.rows)]


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Days:
    workspace = build(tmp_path_factory.mktemp("days"))
    folder, schema = workspace.folder, workspace.config().schema
    second = impressions(600, 77)
    users = pc.add(second["user_id"], 10)
    second = second.set_column(0, "user_id", users)
    (folder / "second").mkdir()
    pq.write_table(second, folder / "second/part-0.parquet", row_group_size=100, write_page_checksum=True)
    known = second.filter(pc.is_in(users, KNOWN))
    pq.write_table(known, workspace.files("test")[0], row_group_size=100, write_page_checksum=True)

    first, own = Transforms.load(str(folder / "transforms")), Transforms.fit(schema, [second])
    fitted = {"transforms": first, "refitted": own, "extended": extended(schema, own, first)}
    for name, transforms in fitted.items():
        transforms.save(str(folder / name))
    tensors, found = launch(trained, 2, [workspace.yaml], [f"--output={folder / 'first'}", "--training.epochs=1"])[0]
    return Days(workspace, tensors, found, fitted)


def begin(days: Days, output: Path, size: int, transforms: str, *more: str) -> Any:
    return launch(begun, size, [days.workspace.yaml], days.overrides(output, transforms, *more))[0]


def of_users(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Weights and optimizer state of the vocabulary's table, by what follows the table's name."""
    found = {name.split("users", 1)[1]: value for name, value in tensors.items() if "embedding_bags.users" in name}
    return {name: value for name, value in found.items() if value.dim()}


def sharding(users: str, videos: str) -> str:
    tables = {"users": {"sharding": users}, "videos": {"rows": 40, "sharding": videos}, "tab": {"rows": 5, "dim": 4}}
    return f"--schema.tables={json.dumps(tables)}"


@pytest.mark.parametrize("transforms", ["extended", "refitted"])
@pytest.mark.parametrize("size", [1, 2])
def test_rows_of_known_keys_are_the_old_ones_and_those_of_new_keys_fresh(
    days: Days, tmp_path: Path, transforms: str, size: int
) -> None:
    now, _, _ = begin(days, tmp_path, size, transforms)
    keys = [days.fitted[name].vocabularies["users"].to_pylist() for name in ("transforms", transforms)]
    before, after = ({key: row for row, key in enumerate(each, start=1)} for each in keys)
    old = [0, *(before[key] for key in keys[1] if key in before)]
    carried = [0, *(after[key] for key in keys[1] if key in before)]
    new = [after[key] for key in keys[1] if key not in before]
    assert len(new) == 10
    assert (carried == old) == (transforms == "extended")

    cold = launch(
        begun, 1, [days.workspace.yaml], [*days.overrides(tmp_path / "cold", transforms), "--warm_start.run="]
    )
    mine, theirs, drawn = of_users(now), of_users(days.tensors), of_users(cold[0][0])
    assert len(mine) == 2
    for name, value in mine.items():
        torch.testing.assert_close(value[carried], theirs[name][old], rtol=0, atol=0)
        torch.testing.assert_close(value[new], drawn[name][new], rtol=0, atol=0)
    momentum = next(value for name, value in mine.items() if "/" in name)
    assert momentum[carried].count_nonzero() > 10
    assert momentum[new].count_nonzero() == 0


def test_everything_but_grown_tables_is_the_same_to_the_bit(days: Days, tmp_path: Path) -> None:
    now, scored, progress = begin(days, tmp_path, 1, "extended")
    same = {name for name in now if "embedding_bags.users" not in name}
    assert any("exp_avg_sq" in name for name in same)
    assert {name for name in same if not torch.equal(now[name], days.tensors[name])} == set()
    np.testing.assert_allclose(scored, days.scores, atol=1e-6)
    assert (progress["step"], progress["epoch"], progress["history"]) == (0, 0, ())
    assert progress["warm_start"]["run"] == str(days.run)
    assert progress["warm_start"]["step"] == 8


@pytest.mark.parametrize("plan", [sharding("column_wise", "data_parallel"), sharding("data_parallel", "column_wise")])
def test_the_sharding_plan_and_the_number_of_ranks_may_be_others(days: Days, tmp_path: Path, plan: str) -> None:
    batches = ["--data.lanes=3", "--data.batch_size=96", "--evaluation.batch_size=96"]
    now, scored, _ = begin(days, tmp_path, 3, "extended", plan, *batches)
    for name, value in of_users(days.tensors).items():
        mine = of_users(now)[name][: len(value)]  # row-wise state has as many columns as the plan has blocks
        torch.testing.assert_close(mine, value.expand_as(mine), rtol=0, atol=0)
    np.testing.assert_allclose(scored, days.scores, atol=1e-6)


def test_weights_alone_leave_the_optimizer_fresh(days: Days, tmp_path: Path) -> None:
    now, scored, _ = begin(days, tmp_path, 1, "extended", "--warm_start.optimizer=false")
    assert not any(value.count_nonzero() for name, value in now.items() if name.startswith("optimizer/"))
    np.testing.assert_allclose(scored, days.scores, atol=1e-6)


def test_a_resumed_run_does_not_begin_again(days: Days, tmp_path: Path) -> None:
    files, options = [days.workspace.yaml], days.overrides(tmp_path, "extended", "--training.epochs=1")
    ended, _ = launch(trained, 1, files, options)[0]
    gone = [*options, f"--warm_start.run={tmp_path / 'gone'}"]
    again, _, progress = launch(begun, 1, files, gone)[0]
    assert {name for name in ended if not torch.equal(ended[name], again[name])} == set()
    assert progress["warm_start"]["run"] == str(days.run)


def refusal(world: World, files: list[Path], overrides: list[str]) -> str:
    with pytest.raises(InputError) as caught:
        Fit(load(files, overrides), world)
    return str(caught.value)


MORE_ROWS = "--schema.tables=" + json.dumps({"videos": {"rows": 50}, "tab": {"rows": 5, "dim": 4}})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--warm_start.run=nowhere", "nowhere: no committed checkpoint; expected the directory of an earlier run"),
        (
            "--model.experts=2",
            r"model/model\..*: got shape \(2, .*; expected \(3, .* as in that run: keep its",
        ),
        ("--optimizer.sparse.type=sgd", "/sum: got shape none; .*, or with warm_start.optimizer=false"),
        ("--optimizer.dense.type=sgd", "/exp_avg: got shape none; .*, or with warm_start.optimizer=false"),
        (MORE_ROWS, "feature 'video_id': its rows in table 'videos' follow .*'rows': 50.*; expected .*'rows': 40"),
    ],
)
def test_what_does_not_fit_is_one_line_on_all_ranks(days: Days, tmp_path: Path, option: str, message: str) -> None:
    options = days.overrides(tmp_path, "extended", option)
    leader, follower = launch(refusal, 2, [days.workspace.yaml], options)
    assert leader.startswith("warm_start.run: ")
    assert "\n" not in leader
    assert re.search(message, leader), leader
    assert follower == leader
