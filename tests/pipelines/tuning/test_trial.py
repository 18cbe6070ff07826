"""A trial after another in one process."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipelines.tuning import trial
from ranking.config import load
from ranking.distributed.world import World
from ranking.tracking.runs import NullRun
from tests.launch import launch


def held() -> tuple[int, int]:
    """Open files and threads of this process, as few as there are within a second: threads take their time to end."""
    files, threads = set(), set()
    for _ in range(10):
        time.sleep(0.1)
        files.add(len(list(Path("/proc/self/fd").iterdir())))
        threads.add(len(list(Path("/proc/self/task").iterdir())))
    return min(files), min(threads)


def several(world: World, files: list[Path], folder: Path) -> list[tuple[int, int]]:
    """What is held after each of four trials."""
    trial.open_run = lambda *_: NullRun()  # MLflow's client opens what it likes
    config = load(files, ["--training.steps=4"])
    found = []
    for number in range(4):
        values = {"optimizer.dense.learning_rate": 0.01 * (number + 1)}
        trial.run_trial(config, trial.TrialAssignment(number, values, ""), world, folder, lambda _step, _value: False)
        found.append(held())
    return found


@pytest.mark.parametrize("size", [1, 2])
def test_a_trial_leaves_no_open_file_and_no_thread_behind(workspace, tmp_path, size) -> None:
    for _, second, _, last in launch(several, size, [workspace.yaml], tmp_path):  # the first opens what lasts
        assert last[0] <= second[0]
        assert last[1] <= second[1] + 1  # a library's pool may still grow
