"""Committed and verified, or not there at all."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ranking.distributed.world import World
from ranking.errors import InputError
from ranking.training.checkpoint import Checkpoints, read_model, read_tensors
from ranking.training.commits import CheckpointConfig
from ranking.training.state import Progress, TrainState
from tests.launch import launch
from tests.ranked import assembly, batch_of, encoded, step, whole
from tests.workspace import Workspace

DATA_PARALLEL = "--schema.tables=" + json.dumps(
    {"users": {"sharding": "data_parallel"}, "videos": {"rows": 40}, "tab": {"rows": 5, "dim": 4}}
)
SETTINGS = {
    "adam": [DATA_PARALLEL],
    "momentum": ["--optimizer.dense.type=sgd", "--optimizer.dense.momentum=0.9", "--optimizer.sparse.type=adagrad"],
}


def tensors(state: TrainState) -> dict[str, torch.Tensor]:
    return whole(state.tensors(), state.world)


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def saved(world: World, files: list[Path], folder: Path, name: str) -> dict:
    """Three steps, a checkpoint, a fourth step; then the fourth again from the checkpoint, in other modules."""
    parts = assembly(world, files, SETTINGS[name])
    rows, state = encoded(parts, 96), parts.state(10)
    checkpoints = Checkpoints(folder, CheckpointConfig(), world)
    for number in range(3):
        step(state, batch_of(parts, rows, world, number))
    state.progress = Progress(step=3, epoch=1, step_in_epoch=1, window=((2.0, 0.1), (2.0, 0.2)))
    commit = checkpoints.save(state, 0.6)
    at_three = tensors(state)
    step(state, batch_of(parts, rows, world, 3))
    at_four = tensors(state)

    again = assembly(world, files, [*SETTINGS[name], "--seed=9"]).state(10)
    assert difference(tensors(again), at_three)
    progress = checkpoints.restore(again)
    assert progress == state.progress
    assert not difference(tensors(again), at_three)
    step(again, batch_of(parts, rows, world, 3))
    assert not difference(tensors(again), at_four), "dropout, momentum or rates differ"
    assert not difference(read_tensors(folder, commit), at_three)
    plain = read_model(folder, commit)
    assert not difference(plain, {k.removeprefix("model/"): v for k, v in at_three.items() if k.startswith("model/")})
    return at_three


def loaded(world: World, files: list[Path], folder: Path, name: str) -> dict:
    state = assembly(world, files, [*SETTINGS[name], "--seed=9"]).state(10)
    progress = Checkpoints(folder, CheckpointConfig(), world).restore(state)
    assert progress is not None
    assert progress.step == 3
    return tensors(state)


@pytest.mark.parametrize(("name", "sizes"), [("adam", (1, 3)), ("momentum", ())])
def test_everything_comes_back_and_the_next_step_is_the_same_at_any_world_size(
    workspace: Workspace, tmp_path: Path, name: str, sizes: tuple[int, ...]
) -> None:
    at_three = launch(saved, 2, [workspace.yaml], tmp_path, name)[0]
    for size in sizes:
        for found in launch(loaded, size, [workspace.yaml], tmp_path, name):
            assert not difference(found, at_three)


class Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        logging.getLogger("ranking").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def refusal(work: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(InputError) as caught:
        work()
    return type(caught.value).__name__, str(caught.value)


def incidents(world: World, files: list[Path], folder: Path) -> dict:
    """A run directory to which one thing after the other happens."""
    heard, found = Heard(), {}
    state = assembly(world, files).state(10)
    checkpoints = Checkpoints(folder, CheckpointConfig(keep_last=2, keep_best=1), world)
    found["empty"] = checkpoints.restore(state), checkpoints.best()

    def save(number: int, score: float | None) -> None:
        state.progress = Progress(step=number)
        checkpoints.save(state, score)

    for number, score in enumerate([0.5, 0.9, None, 0.7, 0.9, 0.6], start=1):
        save(number, score)
    commits = checkpoints.commits()
    found["kept"] = [commit.step for commit in commits]
    found["best"] = checkpoints.best().step
    found["directories"] = sorted(path.name for path in (folder / "attempts").iterdir()) == sorted(
        commit.attempt for commit in commits
    )
    found["twice"] = refusal(lambda: save(6, 0.6))
    found["drafts"] = [path.name for path in (folder / "commits").iterdir() if path.suffix != ".json"]

    newest = checkpoints.path(commits[-1])
    if world.is_rank_zero:
        torn = folder / "attempts" / f"{7:020d}-torn"
        torn.mkdir()
        (torn / ".metadata").write_bytes(b"half")
        damage = max(newest.iterdir(), key=lambda file: file.stat().st_size)
        content = bytearray(damage.read_bytes())
        content[len(content) // 2] ^= 1
        damage.write_bytes(content)
    found["damaged"] = refusal(lambda: checkpoints.load(state, commits[-1]))
    found["restored"] = checkpoints.restore(state).step
    found["warned"] = [line for line in heard.lines if "set aside" in line]
    save(6, 0.6)  # the step that was damaged can be committed again
    found["again"] = checkpoints.restore(state).step

    wider = assembly(world, files, ["--model.experts=4"]).state(10)
    found["shape"] = refusal(lambda: checkpoints.restore(wider))
    other = assembly(world, files, ["--optimizer.sparse.type=sgd"]).state(10)
    found["names"] = refusal(lambda: checkpoints.restore(other))

    marker = folder / "commits" / f"{6:020d}.json"
    outside = checkpoints.commits()[-1].model_copy(update={"attempt": "../../elsewhere"}).text
    checkpoints.commits()  # nobody still reads while rank 0 writes
    torch.distributed.barrier(world.control)
    if world.is_rank_zero:
        marker.write_text(outside)
    found["outside"] = refusal(lambda: checkpoints.restore(state))
    if world.is_rank_zero:
        marker.write_text("{")
    found["not a commit"] = refusal(lambda: checkpoints.restore(state))
    return found


@pytest.fixture(scope="module")
def found(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return launch(incidents, 2, [workspace.yaml], tmp_path_factory.mktemp("incidents"))


def test_an_empty_directory_holds_no_checkpoint(found) -> None:
    assert all(answer["empty"] == (None, None) for answer in found)


def test_the_newest_and_the_best_are_kept_with_their_files_and_nothing_else(found) -> None:
    for answer in found:
        assert (answer["kept"], answer["best"], answer["directories"]) == ([2, 5, 6], 2, True)


def _all_ranks_are_told(found: list[dict], key: str, message: str) -> None:
    kinds, lines = zip(*(answer[key] for answer in found), strict=True)
    assert kinds == ("InputError", "RankZeroReportsError")
    assert len(set(lines)) == 1
    assert message in lines[0]
    assert "\n" not in lines[0]


def test_a_step_is_committed_once(found) -> None:
    _all_ranks_are_told(found, "twice", "step 6 is already committed by another process")
    assert found[0]["drafts"] == []


def test_damage_is_named_and_the_checkpoint_before_is_used_with_a_warning(found) -> None:
    _all_ranks_are_told(found, "damaged", "bytes with SHA-256")
    for answer in found:
        assert (answer["restored"], answer["again"]) == (5, 6)
    (line,) = found[0]["warned"]
    assert line.startswith("checkpoint of step 6 is set aside: ")
    assert not found[1]["warned"]


def test_another_model_is_refused_by_the_tensor_that_differs(found) -> None:
    _all_ranks_are_told(found, "shape", "checkpoint of step 6: model/")
    assert "got shape (3," in found[0]["shape"][1]
    assert "expected (4," in found[0]["shape"][1]
    _all_ranks_are_told(found, "names", "weight/sum: got shape (5, 1); expected none")


def test_a_commit_that_leads_elsewhere_or_nowhere_is_refused(found) -> None:
    _all_ranks_are_told(found, "outside", "commit of step 6 points to '../../elsewhere'; expected a plain name")
    _all_ranks_are_told(
        found, "not a commit", "Invalid JSON: EOF while parsing an object at line 1 column 1); expected a commit"
    )
