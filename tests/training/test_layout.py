"""What one sharding plan saves, any other loads: every pair of plan and world size."""

from __future__ import annotations

import json
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter

from pipelines.assembly import Assembly
from ranking.distributed.world import World
from ranking.training.checkpoint import Checkpoints, read_tensors
from ranking.training.commits import CheckpointConfig
from ranking.training.layout import LayoutLoadPlanner, LayoutSavePlanner, Part, RowWiseLayout, TensorLayout
from ranking.training.state import Progress
from tests.launch import launch
from tests.ranked import Tensors, assembly, batch_of, encoded, step, whole
from tests.workspace import Workspace

PLANS = ("table_wise", "column_wise", "table_column_wise", "row_wise", "data_parallel")
SIZES = (1, 2, 3)
SAVED = [f"{plan}-{size}" for plan, size in product(PLANS, SIZES)]
SUMS = "/sum"


def build(world: World, files: list[Path], plan: str) -> Assembly:
    """Columns are cut in two: with row-wise Adagrad, Adagrad and none."""
    tables = {
        "users": {"sharding": plan, "dim": 256},
        "videos": {"sharding": plan, "dim": 256, "rows": 40, "optimizer": "adagrad"},
        "tab": {"sharding": plan, "dim": 256, "rows": 5, "optimizer": "sgd"},
    }
    overrides = [f"--schema.tables={json.dumps(tables)}", "--model.dropout=0", f"--device={world.device.type}"]
    return assembly(world, files, overrides)


def canonical(tensors: Tensors) -> Tensors:
    """A row's sum is the mean of its column blocks'."""
    rowwise = [name for name in tensors if name.endswith(SUMS) and "videos" not in name]
    return tensors | {name: tensors[name].double().mean(1) for name in rowwise}


def save_all(world: World, files: list[Path], folder: Path) -> dict[str, tuple[Tensors, float]]:
    """Two steps under every plan, a checkpoint of it, and the loss of the third."""
    found = {}
    for plan in PLANS:
        parts = build(world, files, plan)
        rows, state = encoded(parts, 96), parts.state(10)
        for number in range(2):
            step(state, batch_of(parts, rows, world, number))
        state.progress = Progress(step=2)
        Checkpoints(folder / f"{plan}-{world.size}", CheckpointConfig(), world).save(state, None)
        saved = whole(state.tensors(), world)
        found[f"{plan}-{world.size}"] = saved, step(state, batch_of(parts, rows, world, 2))
    return found


def load_all(world: World, files: list[Path], folder: Path) -> dict[tuple[str, str], tuple[Tensors, float]]:
    """Everything that was saved, under every plan, and the loss of the third step."""
    found = {}
    for plan in PLANS:
        parts = build(world, [*files], plan)
        rows, state = encoded(parts, 96), parts.state(10)
        for name in SAVED:
            checkpoints = Checkpoints(folder / name, CheckpointConfig(), world)
            checkpoints.load(state, checkpoints.commits()[-1])
            loaded = whole(state.tensors(), world)
            found[name, f"{plan}-{world.size}"] = loaded, step(state, batch_of(parts, rows, world, 2))
    return found if world.is_rank_zero else {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("layout")


@pytest.fixture(scope="module")
def saved(workspace: Workspace, folder: Path) -> dict[str, tuple[Tensors, float]]:
    runs = [launch(save_all, size, [workspace.yaml], folder)[0] for size in SIZES]
    return {name: entry for run in runs for name, entry in run.items()}


@pytest.fixture(scope="module")
def loaded(workspace: Workspace, saved, folder: Path) -> dict[tuple[str, str], tuple[Tensors, float]]:
    runs = [launch(load_all, size, [workspace.yaml], folder, seconds=300)[0] for size in SIZES]
    return {name: entry for run in runs for name, entry in run.items()}


def test_every_plan_has_the_same_names(saved) -> None:
    names = {name: set(tensors) for name, (tensors, _) in saved.items()}
    assert all(found == names["table_wise-1"] for found in names.values())
    table = "optimizer/model.embeddings.collection.embedding_bags.users.weight"
    assert {name for name in names["table_wise-1"] if name.startswith(table)} == {table + SUMS}


def test_column_shards_keep_their_own_sums(saved) -> None:
    """Otherwise the pairs below would prove little."""
    (users,) = {name for name in saved["table_wise-1"][0] if name.endswith("users.weight/sum")}
    sums = {name: tensors[users] for name, (tensors, _) in saved.items()}
    columns = {name: values.shape[1] for name, values in sums.items()}
    assert columns == {name: 2 if "column_wise" in name else 1 for name in SAVED}
    assert not torch.equal(sums["column_wise-2"][:, 0], sums["column_wise-2"][:, 1])


@pytest.mark.parametrize("name", SAVED)
def test_a_commit_holds_every_tensor_whole(saved, folder, name) -> None:
    commit = Checkpoints(folder / name, CheckpointConfig(), World(0, 1, torch.device("cpu"))).commits()[-1]
    found = read_tensors(folder / name, commit)
    assert found.keys() == saved[name][0].keys()
    assert all(torch.equal(found[key], value) for key, value in saved[name][0].items())


@pytest.mark.parametrize("target", SAVED)
@pytest.mark.parametrize("name", SAVED)
def test_what_one_plan_saved_another_loads(saved, loaded, name, target) -> None:
    (before, expected), (after, loss) = saved[name], loaded[name, target]
    if name == target:
        assert all(torch.equal(after[key], value) for key, value in before.items())
    before, after = canonical(before), canonical(after)
    assert before.keys() == after.keys()
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=1e-6, atol=0)
    assert loss == pytest.approx(expected, abs=1e-5)


def pass_on(world: World, files: list[Path], plan: str, source: Path, target: Path) -> tuple[Tensors, float]:
    """Load what another plan saved, save it as it is under this one; the loss of the third step."""
    parts = build(world, files, plan)
    rows, state = encoded(parts, 96), parts.state(10)
    before = Checkpoints(source, CheckpointConfig(), world)
    before.load(state, before.commits()[-1])
    state.progress = Progress(step=2)
    Checkpoints(target, CheckpointConfig(), world).save(state, None)
    return whole(state.tensors(), world), step(state, batch_of(parts, rows, world, 2))


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("name", ["table_wise-1", "column_wise-2", "data_parallel-3"])
@pytest.mark.parametrize(
    ("device", "plan"),
    [
        *(("cpu", plan) for plan in ("table_wise", "table_row_wise")),
        *(pytest.param("cuda", plan, marks=GPU) for plan in ("table_wise", "row_wise", "table_row_wise")),
    ],
)
def test_what_one_device_saved_another_loads(saved, workspace, folder, tmp_path, device, plan, name) -> None:
    expected, loss = saved[name]
    there, files = tmp_path / "there", [workspace.yaml]
    size = max(1, torch.cuda.device_count()) if device == "cuda" else 2
    passed, found = launch(pass_on, size, files, plan, folder / name, there, device=device)[0]
    back, again = launch(pass_on, 1, files, "table_wise", there, tmp_path / "back")[0]
    for tensors in (passed, back):
        found_sums, expected_sums = canonical(tensors), canonical(expected)
        assert found_sums.keys() == expected_sums.keys()
        for key, value in expected_sums.items():
            torch.testing.assert_close(found_sums[key], value, rtol=1e-6, atol=0)
    assert found == pytest.approx(loss, abs=1e-4)
    assert again == pytest.approx(loss, abs=1e-5)


CUTS = {  # of 7 rows and 6 columns
    "table_wise": ((0, 7), (0, 6)),
    "column_wise": ((0, 7), (0, 2, 6)),
    "row_wise": ((0, 3, 7), (0, 6)),
    "grid": ((0, 5, 7), (0, 4, 6)),
}


def shards(plan: str) -> list[tuple[slice, slice]]:
    rows, columns = ([slice(*pair) for pair in pairwise(cuts)] for cuts in CUTS[plan])
    return list(product(rows, columns))


def live(plan: str, seed: int) -> tuple[RowWiseLayout, torch.Tensor]:
    """Sums of a plan's shards, and the same `[7, 6]` by cell."""
    draw, cells, parts = torch.Generator().manual_seed(seed), torch.empty(7, 6), []
    for rows, columns in shards(plan):
        values = torch.rand(rows.stop - rows.start, generator=draw)
        cells[rows, columns] = values.unsqueeze(1)
        blocks = (columns.stop - columns.start) // 2
        parts.append(Part(values.unsqueeze(1).expand(-1, blocks), (rows.start, columns.start // 2)))
    return RowWiseLayout((7, 3), tuple(parts), columns=6), cells


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("target", CUTS)
@pytest.mark.parametrize("source", CUTS)
def test_sums_of_any_cut_of_rows_and_columns_reach_any_other(tmp_path: Path, source: str, target: str) -> None:
    saved, cells = live(source, 1)
    found, _ = live(target, 2)
    dcp.save({"sum": saved}, storage_writer=FileSystemWriter(tmp_path), planner=LayoutSavePlanner(), no_dist=True)
    read, carry = found.target(saved.shape)
    dcp.load({"sum": read}, storage_reader=FileSystemReader(tmp_path), planner=LayoutLoadPlanner(), no_dist=True)
    carry()
    for part, (rows, columns) in zip(found.parts, shards(target), strict=True):
        expected = cells[rows, columns].double().mean(1).float()
        torch.testing.assert_close(part.tensor[:, 0], expected, rtol=0 if source == target else 1e-6, atol=0)


def test_sums_are_averaged_by_columns_as_far_as_shards_differ() -> None:
    """Saved in blocks of 2, 2 and 2 columns; live in shards of 3 and 3."""
    values = torch.zeros(4), torch.zeros(4)
    parts = tuple(Part(v.unsqueeze(1), (0, n)) for n, v in enumerate(values))
    target, carry = RowWiseLayout((4, 2), parts, columns=6).target((4, 3))
    assert [(part.offsets, tuple(part.tensor.shape)) for part in target.parts] == [((0, 0), (4, 2)), ((0, 1), (4, 2))]
    saved = torch.tensor([[3.0, 6.0, 9.0]]).expand(4, 3)
    for part in target.parts:
        part.tensor.copy_(saved[:, part.offsets[1] : part.offsets[1] + 2])
    carry()
    assert values[0].tolist() == [(2 * 3.0 + 6.0) / 3] * 4
    assert values[1].tolist() == [(6.0 + 2 * 9.0) / 3] * 4


def test_rows_and_columns_must_be_those_of_the_table() -> None:
    layout = RowWiseLayout((4, 2), (), columns=6)
    assert [layout.fits(shape) for shape in [(4, 1), (4, 2), (4, 6), (4, 4), (5, 2), (4,)]] == [True] * 3 + [False] * 3
    assert not TensorLayout((4, 6), ()).fits((4, 1))


def test_a_copy_no_longer_follows_the_live_tensor() -> None:
    live = torch.ones(3)
    copy = RowWiseLayout((3, 2), (Part(live.unsqueeze(1).expand(-1, 2), (0, 0)),), columns=4).copied()
    live.zero_()
    assert copy.parts[0].tensor.tolist() == [[1.0, 1.0]] * 3


def test_a_copy_takes_the_memory_of_an_earlier_one_that_was_laid_the_same_way() -> None:
    live = torch.ones(3, requires_grad=True)
    first = TensorLayout((4,), (Part(live, (0,)),)).copied()
    moved, wider = (
        TensorLayout((4,), (Part(live, (1,)),)).copied(first),
        TensorLayout((4,), (Part(live.double(), (0,)),)).copied(first),
    )
    live.data.fill_(2.0)
    again = TensorLayout((4,), (Part(live, (0,)),)).copied(first)
    assert again.parts[0].tensor is first.parts[0].tensor
    assert again.parts[0].tensor.tolist() == [2.0] * 3
    assert not again.parts[0].tensor.requires_grad
    assert moved.parts[0].tensor.tolist() == wider.parts[0].tensor.tolist() == [1.0] * 3
