"""Saving beside the training: what is saved is the moment it was asked for, and a save that fails costs only itself."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pipelines.fit import Fit
from ranking.config import load
from ranking.distributed.world import World
from ranking.errors import EXIT_FAILURE, EXIT_INPUT, InputError
from ranking.tracking.runs import NullRun
from ranking.training.checkpoint import Checkpoints, SaveError, read_tensors
from ranking.training.commits import CheckpointConfig, Commit, orphans, read_commits, sweep, verify
from ranking.training.saving import Saves
from ranking.training.state import Progress
from tests.launch import launch
from tests.ranked import assembly, batch_of, encoded, step, whole
from tests.workspace import Workspace

SMALL = 8 << 10
"""Bytes: a checkpoint's progress fits, its tensors do not."""


def difference(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


@contextmanager
def no_larger_files(size: int) -> Iterator[None]:
    """Writes past the limit fail as on a full disk (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def beside_training(world: World, files: list[Path], folder: Path) -> dict:
    """A save that is held back until two more steps are done, and another that waits for it."""
    go_on, order = threading.Event(), []

    class Held(Checkpoints):
        def publish(self, *arguments) -> Commit:
            assert go_on.wait(60)
            return super().publish(*arguments)

    parts = assembly(world, files)
    rows, state = encoded(parts, 96), parts.state(10)
    step(state, batch_of(parts, rows, world, 0))
    state.progress = Progress(step=1)
    saves = Saves(Held(folder, CheckpointConfig(), world))
    at_one = whole(state.tensors(), world)
    with saves:
        saves.save(state, None, lambda commit: order.append(commit.step))
        for number in (1, 2):
            step(state, batch_of(parts, rows, world, number))
        order.append("two steps on")
        early = len(read_commits(folder))
        torch.distributed.barrier(world.control)
        threading.Timer(0.5, go_on.set).start()  # not before the next save is asked for: it takes the same memory
        state.progress = Progress(step=3)
        at_three = whole(state.tensors(), world)
        saves.save(state, 0.5, lambda commit: order.append(commit.step))
        order.insert(len(order) - order.count(3), "asked for 3")
        saves.finish()
    torch.distributed.barrier(world.control)
    return {"order": order, "early": early, "states": {1: at_one, 3: at_three}}


def test_a_save_holds_the_moment_it_was_asked_for_and_the_next_waits_for_it(workspace, tmp_path) -> None:
    for found in launch(beside_training, 2, [workspace.yaml], tmp_path):
        assert found["early"] == 0
        assert found["order"] == ["two steps on", 1, "asked for 3", 3]
    commits = read_commits(tmp_path)
    assert [(commit.step, commit.score, commit.world_size) for commit in commits] == [(1, None, 2), (3, 0.5, 2)]
    for commit in commits:
        assert not difference(read_tensors(tmp_path, commit), found["states"][commit.step])


def killed_inside(world: World, files: list[Path], folder: Path, after: str) -> None:
    """Rank 0 dies inside its second save, right before the commit."""

    def fence() -> None:
        if read_commits(folder):
            os.kill(os.getpid(), signal.SIGKILL)

    parts = assembly(world, files)
    state = parts.state(10)
    saves = Saves(Checkpoints(folder, CheckpointConfig(), world, fence))
    for number in (1, 2):
        state.progress = Progress(step=number)
        saves.save(state, None, lambda commit: None)
    saves.settle()


def test_killed_inside_a_save_leaves_only_what_nobody_finds_and_a_sweep_removes(workspace, tmp_path) -> None:
    with pytest.raises(EOFError):
        launch(killed_inside, 2, [workspace.yaml], tmp_path, "second")
    (commit,) = read_commits(tmp_path)
    assert (commit.step, verify(tmp_path, commit)) == (1, None)
    (orphan,) = orphans(tmp_path)
    assert orphan.name.startswith(f"{2:020d}-")
    assert list(orphan.glob("*.distcp"))
    assert sweep(tmp_path) == 1
    assert [path.name for path in (tmp_path / "attempts").iterdir()] == [commit.attempt]


def lost_lease(world: World, files: list[Path], folder: Path) -> list[str]:
    def fence() -> None:
        raise InputError("another launch took over")

    state = assembly(world, files).state(10)
    saves = Saves(Checkpoints(folder, CheckpointConfig(), world, fence))
    saves.save(state, None, lambda commit: None)
    with pytest.raises(InputError) as caught:
        saves.settle()
    return [type(caught.value).__name__, str(caught.value), caught.value.code]


def test_who_lost_the_directory_commits_nothing_whatever_the_policy(workspace, tmp_path) -> None:
    found = launch(lost_lease, 2, [workspace.yaml], tmp_path)
    assert found == [[kind, "another launch took over", EXIT_INPUT] for kind in ("InputError", "RankZeroReportsError")]
    assert list((tmp_path / "commits").iterdir()) == list((tmp_path / "attempts").iterdir()) == []


def unforeseen(world: World, files: list[Path], folder: Path) -> str:
    def then(commit: Commit | None) -> None:
        raise ValueError("a bug")

    saves = Saves(Checkpoints(folder, CheckpointConfig(), world))
    saves.save(assembly(world, files).state(10), None, then)
    with pytest.raises(ValueError, match="a bug"):
        saves.settle()
    return world.heartbeat.trouble


def test_what_nobody_foresaw_ends_the_job_without_waiting_for_the_next_save(workspace, tmp_path) -> None:
    assert launch(unforeseen, 1, [workspace.yaml], tmp_path) == ["step 0: the save failed: ValueError: a bug"]


def on_a_full_disk(world: World, files: list[Path], folder: Path, mode: str) -> dict:
    """The disk of one rank is full at the second save; then it is not; then at the last again."""
    parts = assembly(world, files)
    state = parts.state(10)
    saves = Saves(Checkpoints(folder, CheckpointConfig(mode=mode), world))
    ends: list[Commit | None] = []

    def save(number: int, size: int) -> None:
        state.progress = Progress(step=number)
        with no_larger_files(size if world.rank == 1 else resource.RLIM_INFINITY):
            saves.save(state, None, ends.append)
            saves.settle()

    found = {}
    for number, size in ((1, resource.RLIM_INFINITY), (2, SMALL), (3, resource.RLIM_INFINITY)):
        save(number, size)
        attempts = sorted(path.name for path in (folder / "attempts").iterdir())
        found[number] = [commit.step for commit in read_commits(folder)], len(attempts), saves.failures
        torch.distributed.barrier(world.control)
    saves.finish()
    save(4, SMALL)
    with pytest.raises(InputError) as caught:
        saves.finish()
    strict = Saves(Checkpoints(folder, CheckpointConfig(mode=mode, on_failure="stop"), world))
    with no_larger_files(SMALL):
        strict.save(state, None, ends.append) if mode == "async" else None
        with pytest.raises(InputError) as stopped:
            strict.settle() if mode == "async" else strict.save(state, None, ends.append)
    codes = caught.value.code, stopped.value.code
    ended = [end and end.step for end in ends]
    return found | {"ends": ended, "last": str(caught.value), "stop": str(stopped.value), "codes": codes}


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_a_full_disk_on_one_rank_fails_the_save_on_all_and_nothing_else(workspace, tmp_path, mode) -> None:
    for found in launch(on_a_full_disk, 2, [workspace.yaml], tmp_path, mode):
        assert found[1] == ([1], 1, 0)
        assert found[2] == ([1], 1, 1)
        assert found[3] == ([1, 3], 2, 1)
        assert found["ends"] == [1, None, 3, None, None]
        assert found["codes"] == (EXIT_FAILURE, EXIT_FAILURE), "the machine's fault: a restart may help"
        for line in (found["last"], found["stop"]):
            assert f"{tmp_path}: step 4 was not saved: rank " in line
            assert "earlier checkpoints are intact: run the same command again to resume" in line
            assert "\n" not in line
    commits = read_commits(tmp_path)
    assert [(commit.step, verify(tmp_path, commit)) for commit in commits] == [(1, None), (3, None)]


class Lifting(NullRun):
    """Makes room on the disk as soon as a failure is logged."""

    def __init__(self, lift: bool) -> None:
        self.lift, self.logged = lift, {}

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        if "checkpoint/failures" in values:
            self.logged[step] = values
            if self.lift:
                subprocess.run(["rm", *self.ballast], check=True)

    def log_checkpoint(self, step: int, uri: str, metrics: Mapping[str, float]) -> None:
        self.logged[step] = dict(metrics) | {"uri": uri}


def trained(world: World, files: list[Path], output: Path, overrides: list[str], ballast: Path | None) -> dict:
    """A training on a file system that is full until the ballast goes."""
    tracker = Lifting(ballast is not None)
    tracker.ballast = ["-f", str(ballast)]
    fit = Fit(load(files, [f"--output={output}", *overrides]), world, lambda: None)
    try:
        ended = fit.train(tracker)
    except InputError as error:
        ended = f"{type(error).__name__}: {error}"
    return {"ended": ended, "logged": tracker.logged, "state": whole(fit.state.tensors(), world)}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB: room for the checkpoints that stay and one more, not for a ballast beside them."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_training_outlasts_a_full_disk_and_ends_in_the_same_bits(workspace: Workspace, tmp_path, disk) -> None:
    output = disk / "run"
    ballast = disk / "ballast"
    ballast.write_bytes(bytes((2 << 20) - (64 << 10)))
    (first, _) = launch(trained, 2, [workspace.yaml], output, [], ballast)
    (reference, _) = launch(trained, 2, [workspace.yaml], tmp_path / "reference", [], None)
    assert first["ended"] is reference["ended"] is True
    assert not difference(first["state"], reference["state"])
    failed = first["logged"][6]
    assert failed["checkpoint/failures"] == 1
    assert {name: value for name, value in failed.items() if name.startswith("validation/")} == {
        name: value for name, value in reference["logged"][6].items() if name.startswith("validation/")
    }
    assert [step for step, values in first["logged"].items() if "uri" in values] == [12, 16]
    assert [commit.step for commit in read_commits(output / "checkpoints")] == [12, 16]


def test_a_run_whose_last_save_fails_ends_with_one_line_and_goes_on_once_there_is_room(workspace, disk) -> None:
    output = disk / "run"
    ballast = disk / "ballast"
    ballast.write_bytes(bytes((2 << 20) - (64 << 10)))
    found = launch(trained, 2, [workspace.yaml], output, [], None)
    assert [each["ended"].split(":")[0] for each in found] == ["ServiceError", "RankZeroReportsError"]
    assert "step 16 was not saved: rank" in found[0]["ended"]
    assert read_commits(output / "checkpoints") == []
    ballast.unlink()
    assert [each["ended"] for each in launch(trained, 2, [workspace.yaml], output, [], None)] == [True, True]
    assert read_commits(output / "checkpoints")[-1].step == 16


def test_a_save_error_is_no_input_error() -> None:
    """A policy decides about it; nobody else may take it for bad input."""
    assert not issubclass(SaveError, InputError)
