"""A fault of one rank ends all ranks with one line that names it, and the same command resumes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest

from ranking.errors import EXIT_FAILURE, EXIT_INPUT, EXIT_STOPPED
from ranking.training.commits import read_commits
from tests.launch import Ended, Job
from tests.pipelines.test_train import OFFLINE
from tests.workspace import Workspace

ROOT = Path(__file__).parents[2]
SOON = 60  # s; a collective would wait for 900


def arguments(workspace: Workspace, output: Path, *more: str) -> list[str]:
    return workspace.arguments(*OFFLINE, f"--output={output}", *more)


def faulty(workspace: Workspace, folder: Path, faults: str, *more: str) -> Job:
    """Two ranks, one of them with a fault."""
    return Job(folder, "tests.faulty", [faults, *arguments(workspace, folder / "run", *more)], size=2)


def the_line(ended: list[Ended]) -> str:
    """The one line that the user reads, whichever rank says it."""
    (line,) = [line for rank in ended for line in rank.errors]
    assert not any("Traceback" in rank.err for rank in ended)
    return line


def torchrun(size: int, faults: str, options: list[str], *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines.launch", "--standalone", f"--nproc-per-node={size}", *more]
    command += ["-m", "tests.faulty", faults, *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(launched: subprocess.Popen[str], code: int) -> str:
    """What a torchrun job that ended with a code wrote to stderr."""
    _, err = launched.communicate(timeout=180)
    assert launched.returncode == code, err
    return err


def rows_of_steps(folder: Path) -> dict[int, list[list[int]]]:
    """The rows that each process took a step on, by step."""
    found: dict[int, list[list[int]]] = defaultdict(list)
    for file in (folder / "ids").glob("*.jsonl"):
        for step, rows in map(json.loads, file.read_text().splitlines()):
            found[step].append(rows)
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("rank", "place"), [(0, "lead"), (1, "input"), (0, "evaluation"), (1, "checkpoint")])
def test_an_unforeseen_error_of_one_rank_ends_all(workspace, tmp_path, rank, place) -> None:
    ended = faulty(workspace, tmp_path, f"{rank}:fail:{place}:{1 if place == 'lead' else 2}").wait(SOON)
    assert [each.code for each in ended] == [EXIT_FAILURE] * 2
    stack = tmp_path / "run" / "stacks" / f"rank-{rank}.txt"
    assert the_line(ended) == f"error: rank {rank}: KeyError: 'injected' (stack in {stack})"
    assert "in fail\n    raise KeyError" in stack.read_text()


def test_the_stack_of_the_rank_that_failed_in_a_step_is_shown_on_demand(workspace, tmp_path) -> None:
    leader, follower = faulty(workspace, tmp_path, "1:fail:step:3", "--debug").wait(SOON)
    assert [*leader.errors, *follower.errors][0].startswith("error: rank 1: KeyError")
    assert "raise KeyError" in follower.err


@pytest.mark.parametrize(
    ("fault", "where"),
    [("1:hang:input:9", "training (input)"), ("0:hang:evaluation:1", "evaluation (step)")],
)
def test_a_rank_that_hangs_is_named_and_all_leave_their_stacks(workspace, tmp_path, fault, where) -> None:
    metrics = tmp_path / "job.prom"
    ended = faulty(workspace, tmp_path, fault, "--training.hang_timeout=3", f"--metrics.textfile={metrics}").wait(SOON)
    assert [each.code for each in ended] == [EXIT_FAILURE] * 2
    assert 'ranking_job_exit_code{model="ranker",pipeline="train"} 1.0' in metrics.read_text()
    stacks = tmp_path / "run" / "stacks"
    line = (
        rf"error: rank {fault[0]} \(host .*, pid \d+\) hangs in {re.escape(where)} after step \d+: no progress for 3 s "
    )
    assert re.match(line, the_line(ended))
    assert the_line(ended).endswith(f"(stacks in {stacks})")
    assert sorted(file.name for file in stacks.iterdir()) == ["rank-0.txt", "rank-1.txt"]
    assert "tests/faulty.py" in (stacks / f"rank-{fault[0]}.txt").read_text()


def test_a_stopped_rank_is_named_and_does_not_wake_up(workspace, tmp_path) -> None:
    leader, follower = faulty(workspace, tmp_path, "1:stop:step:5", "--training.hang_timeout=2").wait(SOON)
    assert (leader.code, follower.code) == (EXIT_FAILURE, -signal.SIGKILL)
    line = r"error: rank 1 \(host .*, pid \d+\) hangs: no sign of life for 2 s; last seen in .* after step \d"
    assert re.match(line, the_line([leader]))
    assert "in train" in (tmp_path / "run" / "stacks" / "rank-0.txt").read_text()


def test_a_killed_rank_is_named(workspace, tmp_path) -> None:
    job = faulty(workspace, tmp_path, "1:die:step:5")
    leader, follower = job.wait(SOON)
    assert (leader.code, follower.code) == (EXIT_FAILURE, -signal.SIGKILL)
    assert re.match(rf"error: rank 1 \(host .*, pid {job.ranks[1].pid}\) died; last seen in ", the_line([leader]))


def test_a_second_launch_is_refused_and_the_first_goes_on(workspace, tmp_path) -> None:
    first = faulty(workspace, tmp_path, "1:hang:checkpoint:2")
    wait_until(lambda: bool(list((tmp_path / "run" / "checkpoints").glob("commits/*.json"))))
    (second,) = Job(tmp_path, "pipelines.train", arguments(workspace, tmp_path / "run")).wait(SOON)
    assert second.code == EXIT_INPUT
    assert f"run: another launch (host {os.uname().nodename}, pid {first.ranks[0].pid}) trains here" in the_line(
        [second]
    )
    assert first.ranks[0].is_alive()
    first.signal(signal.SIGKILL)
    first.wait()


def test_a_launch_that_was_overtaken_commits_nothing(workspace, tmp_path) -> None:
    ended = faulty(workspace, tmp_path, "0:overtake:commit:2").wait(SOON)
    assert {each.code for each in ended} == {EXIT_FAILURE}
    assert "run: this launch (token 1) lost the run directory: host " in the_line(ended)
    assert [commit.step for commit in read_commits(tmp_path / "run" / "checkpoints")] == [6]


def test_a_wrong_configuration_is_told_once(workspace, tmp_path) -> None:
    ended = Job(tmp_path, "pipelines.train", workspace.arguments("--model.experts=many"), size=2).wait(SOON)
    assert [each.code for each in ended] == [EXIT_INPUT] * 2
    assert "model.experts: got 'many'" in the_line(ended)


def test_other_world_sizes_take_every_step_on_the_same_rows(workspace, tmp_path) -> None:
    sizes = ("--data.lanes=6", "--data.batch_size=120", "--evaluation.batch_size=240")
    stops = []

    def train(folder: str, size: int, faults: str = "") -> int:
        (tmp_path / folder).mkdir(exist_ok=True)
        run = tmp_path / folder / "run"
        ended = Job(tmp_path, "tests.faulty", [faults, *arguments(workspace, run, *sizes)], size).wait()
        assert len({each.code for each in ended}) == 1, [each.err for each in ended]
        assert [file.suffix for file in (run / "lease").iterdir()] == [".released"]
        stops.append(read_commits(run / "checkpoints")[-1].step)
        return ended[0].code

    assert train("once", 1) == 0
    for size in (3, 2, 1):
        assert train("often", size, f"{size - 1}:term:step:4") == EXIT_STOPPED
    assert train("often", 3) == 0
    once, often = (rows_of_steps(tmp_path / folder) for folder in ("once", "often"))
    assert once.keys() == often.keys() == set(range(18))
    for step, (rows,) in once.items():
        assert sorted(chain(*often[step])) == sorted(rows), f"step {step} was replayed or took other rows"
    spooled = "".join(file.read_text() for file in (tmp_path / "often" / "run" / "tracking").glob("*.jsonl"))
    assert set(re.findall(r'"resumed_at\.(\d+)"', spooled)) == {str(step) for step in stops[1:4]}


def test_torchrun_replaces_a_killed_and_a_stopped_rank(workspace, tmp_path) -> None:
    options = arguments(workspace, tmp_path / "run", "--training.hang_timeout=5")
    err = end(torchrun(2, "1:die:step:7,0:stop:step:4:1", options, "--max-restarts=2"), 0)
    killed, stopped = [line for line in err.splitlines() if line.startswith("error:")]
    assert killed.startswith("error: rank 1 (host ")
    assert stopped.startswith("error: rank 0 (host ")
    assert read_commits(tmp_path / "run" / "checkpoints")[-1].step == 16
    rows = rows_of_steps(tmp_path)
    assert rows.keys() == set(range(16))
    assert len({tuple(sorted(part)) for part in rows[6]}) == 2, "the replayed step took the rows of the lost one"


def test_the_workers_of_a_dead_agent_die_with_it(workspace, tmp_path) -> None:
    launched = torchrun(2, "1:hang:step:4", arguments(workspace, tmp_path / "run"))
    ids = tmp_path / "ids"
    wait_until(lambda: len(list(ids.glob("*.jsonl"))) == 2)
    workers = [int(file.stem) for file in ids.iterdir()]
    assert all(Path(f"/proc/{pid}").exists() for pid in workers)
    launched.kill()
    launched.communicate()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
