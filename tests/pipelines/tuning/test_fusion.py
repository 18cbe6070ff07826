"""Powers of the score: searched on the predictions of a run or of a registered model."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from optuna.trial import TrialState

from pipelines.tuning.fusion import Judge, _settings, lengths, weights
from pipelines.tuning.study import open_study
from ranking.config import load, revise
from ranking.errors import InputError
from ranking.metrics import Predictions, gauc
from ranking.serving.fusion import fuse
from tests.launch import Ended, Job, run
from tests.workspace import Workspace, build

pytestmark = pytest.mark.filterwarnings("ignore")  # of MLflow, SQLAlchemy and optuna, about their own code
OFFLINE = ("--tracking.uri=http://127.0.0.1:9", "--tracking.drain_seconds=0", "--tracking.request_timeout=1")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a finished run, its challenger, and powers of its own."""
    workspace = build(tmp_path_factory.mktemp("fusion"))
    content = yaml.safe_load(workspace.yaml.read_text())
    content["fusion"] = {"powers": {"click": 1.0, "watch": 0.5}}
    content["tune"] = {"target": "fusion", "startup_trials": 6, "trials": 8}
    content["tune"]["fusion"] = {
        "weights": {"click": 1, "like": 0.5},
        "powers": {name: {"low": 0.0, "high": 2.0} for name in ("click", "like")},
    }
    workspace.yaml.write_text(yaml.safe_dump(content))
    (ended,) = run(workspace.folder, "pipelines.train", workspace.arguments("--training.epochs=1"))
    assert ended.code == 0, ended.err
    return workspace


def tune(home: Workspace, *options: str) -> Ended:
    (ended,) = run(home.folder, "pipelines.tune", home.arguments(*options))
    return ended


def trials(home: Workspace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((home.folder / "run/tune/fusion/trials.json").read_text())
    return found


@pytest.fixture(scope="module")
def searched(home: Workspace) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Every trial on the run's own predictions, and the powers of the best."""
    ended = tune(home, *OFFLINE)
    assert ended.code == 0, ended.err
    return trials(home), load([home.yaml, home.folder / "run/tune/fusion/best.yaml"]).fusion.powers


def test_it_begins_with_the_powers_as_they_stand_and_gains(searched) -> None:
    found, powers = searched
    assert [trial["state"] for trial in found] == ["complete"] * 8
    assert found[0]["values"] == {"fusion.powers.click": 1.0, "fusion.powers.like": 0.0}
    best = max(found, key=lambda trial: trial["value"])
    assert best["value"] >= found[0]["value"]
    own = {path.rsplit(".", 1)[1]: power for path, power in best["values"].items()}
    assert powers == pytest.approx({"watch": 0.5} | own)


def test_a_registered_model_gives_the_same_answer(home: Workspace, searched) -> None:
    options = ("--tune.study=registered", "--tune.trials=1", "--tune.fusion.source=challenger")
    ended = tune(home, *options)
    assert ended.code == 0, ended.err
    assert trials(home)[0]["value"] == pytest.approx(searched[0][0]["value"], abs=1e-5)


def test_another_question_is_another_study(home: Workspace, searched) -> None:
    ended = tune(home, "--tune.fusion.space=sample", *OFFLINE)
    assert ended.code == 2
    assert ended.errors[0].startswith("error: tune.fusion: got ")
    assert "or another tune.study" in ended.errors[0]


def test_without_a_trained_run_the_output_is_named_and_nothing_is_written(home: Workspace) -> None:
    output = home.folder / "nothing"
    ended = tune(home, f"--output={output}", *OFFLINE)
    assert ended.code == 2
    assert ended.errors == [
        f"error: output: {output}: no committed checkpoint; expected the directory of a trained run"
    ]
    assert not output.exists()


def test_the_trial_of_a_worker_that_died_is_waited_for_and_taken_over(home: Workspace, searched) -> None:
    options = ("--tune.study=shared", "--tune.trials=2", "--tune.heartbeat=1", *OFFLINE)
    config = home.config(*options)
    found = open_study(_settings(config), config.name, config.seed, config.output / "tune/fusion")
    other, job = found.ask(), Job(home.folder, "pipelines.tune", home.arguments(*options))
    deadline = time.monotonic() + 60
    while not found.get_trials(states=(TrialState.COMPLETE,)):  # it lives as long as that takes
        assert time.monotonic() < deadline, job.err(0)
        found._storage.record_heartbeat(other._trial_id)  # type: ignore[attr-defined]  # of RDBStorage
        time.sleep(0.2)
    (ended,) = job.wait()
    assert ended.code == 0, ended.err
    assert [trial["state"] for trial in trials(home)] == ["fail", "complete", "complete"]


def predictions() -> Predictions:
    draw = np.random.default_rng(0)
    click = draw.integers(0, 2, 300)
    return Predictions(
        names=("click", "like", "watch"),
        kinds=("binary", "binary", "regression"),
        scores=draw.random((300, 3)),
        labels=np.stack([click, click * draw.integers(0, 2, 300), draw.random(300)], axis=1).astype(float),
        in_space=np.stack([np.ones(300, bool), click == 1, click == 1], axis=1),
        observed=np.ones((300, 3), bool),
        rows=draw.permutation(300),
        groups=draw.integers(0, 20, 300),
    )


Reader = Callable[[int], list[float]]
"""Lengths of 300 rows from the row of that number on, in an order of their own."""


@pytest.fixture
def damaged(
    new_workspace: Callable[[], Workspace], damage: Callable[[str, int, int], None]
) -> Callable[[str], tuple[Reader, Reader]]:
    """Damages the first 100 rows of a column; reads lengths, and what they should be."""

    def spoil(column: str) -> tuple[Reader, Reader]:
        home = new_workspace()
        (file,) = home.files("validation")
        table = pq.read_table(file)
        damage(str(file), 0, pq.read_metadata(file).schema.names.index(column))
        config = home.config('--fusion.length={"column": "duration"}', "--data.quarantine.max_share=0.5")
        rows = config.data.manifest(config.data.validation, ["is_like", "duration"], "data.validation")

        def read(first: int) -> list[float]:
            found = lengths(config, rows, dataclasses.replace(predictions(), rows=predictions().rows + first))
            assert found is not None
            return found.tolist()

        return read, lambda first: table["duration"].take(predictions().rows + first).to_pylist()

    return spoil


@pytest.mark.parametrize("column", ["is_like", "duration"])
def test_every_row_has_its_own_length_whatever_is_damaged_elsewhere(damaged, column: str) -> None:
    read, expected = damaged(column)
    assert read(100) == expected(100)


def test_a_row_that_was_scored_without_its_length_is_an_error(damaged) -> None:
    read, _ = damaged("duration")
    with pytest.raises(InputError, match=r"^fusion\.length\.column: 'duration' is damaged in 1 of 300 rows that were"):
        read(99)


@pytest.mark.parametrize("space", ["entire", "sample"])
def test_the_objective_is_the_weighted_gauc_of_the_score_that_is_served(workspace: Workspace, space: str) -> None:
    config, found = workspace.config(f"--tune.fusion.space={space}"), predictions()
    judge = Judge(config, found, {"click": 1.0, "like": 3.0}, None)
    fusion = config.fusion.model_copy(update={"powers": {"click": 0.3, "like": 1.2}})
    score = fuse(torch.from_numpy(found.scores), config.schema.tasks, fusion).numpy()
    areas = []
    for task in range(2):
        mask = (found.observed if space == "entire" else found.in_space)[:, task]
        areas.append(gauc(score[mask], found.labels[mask, task], found.groups[mask]).value)
    assert judge({"fusion.powers.click": 0.3, "fusion.powers.like": 1.2}) == pytest.approx(areas[0] + 3 * areas[1])


def test_a_regression_task_has_no_gauc(workspace: Workspace) -> None:
    assert weights(workspace.config()) == {"click": 1, "like": 1}
    with pytest.raises(InputError, match=r"tune\.fusion\.weights: 'watch' is a regression task"):
        weights(revise(workspace.config(), {"tune.fusion.weights": {"watch": 1}}))
