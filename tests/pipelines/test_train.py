"""The training job: what it leaves behind, and that nothing can make it forget where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader

from ranking.errors import EXIT_STOPPED
from ranking.training.commits import Commit, attempt_path, read_commits, verify
from tests.launch import Ended, Job, run
from tests.workspace import Workspace

OFFLINE = ("--tracking.uri=http://127.0.0.1:9", "--tracking.drain_seconds=0", "--tracking.request_timeout=1")
STEPS = 24
BATCHES = 7
"""Of an evaluation."""


def arguments(workspace: Workspace, output: Path, *more: str) -> list[str]:
    settings = ("--training.epochs=3", "--evaluation.batch_size=64")
    return workspace.arguments(*OFFLINE, *settings, f"--output={output}", *more)


def contents(output: Path, commit: Commit) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Every tensor of a checkpoint (weights, optimizers, random state) and its progress."""
    path = attempt_path(output / "checkpoints", commit)
    reader = FileSystemReader(path)
    entries = reader.read_metadata().state_dict_metadata
    tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in entries.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one process loads what several saved
        dcp.load(tensors, storage_reader=reader, no_dist=True)
    return tensors, json.loads((path / "progress.json").read_text())


def newest(output: Path) -> Commit:
    return read_commits(output / "checkpoints")[-1]


def assert_same_end(output: Path, reference: Path) -> None:
    """Bit by bit: the last checkpoint, the history and the report."""
    (found, progress), (expected, wanted) = (contents(path, newest(path)) for path in (output, reference))
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert {key: progress[key] for key in wanted if key != "config"} == {k: wanted[k] for k in wanted if k != "config"}
    reports = [json.loads((path / "report.json").read_text()) for path in (output, reference)]
    assert {k: v for k, v in reports[0].items() if k != "checkpoint"} == {
        k: v for k, v in reports[1].items() if k != "checkpoint"
    }


def loss_curve(output: Path) -> list[tuple[int, dict[str, float]]]:
    """Every training loss that was logged, in order."""
    lines = "".join(file.read_text() for file in sorted((output / "tracking").rglob("*.jsonl"))).splitlines()
    events = [event for event in map(json.loads, lines) if event["kind"] == "metrics"]
    losses = [(e["step"], {k: v for k, v in e["values"].items() if k.startswith("train/loss/")}) for e in events]
    return [(step, values) for step, values in losses if values]


def validation_curve(output: Path) -> list[tuple[int, dict[str, float]]]:
    """Every checkpoint that was logged with its metrics, in order."""
    lines = "".join(file.read_text() for file in sorted((output / "tracking").rglob("*.jsonl"))).splitlines()
    events = [event for event in map(json.loads, lines) if event["kind"] == "checkpoint"]
    return [(event["step"], event["values"]) for event in events]


def statuses(output: Path) -> list[str]:
    """How the processes of a run began and ended its MLflow run, in order."""
    lines = (output / "tracking/spool.jsonl").read_text().splitlines()
    return [event["status"] for event in map(json.loads, lines) if event["kind"] == "status"]


def wait_for(job: Job, condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert job.ranks[0].is_alive(), job.err(0)
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture(scope="module")
def reference(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Ended]]:
    """An uninterrupted run on two ranks, with dropout, warm-up and decay."""
    output = tmp_path_factory.mktemp("reference")
    return output, run(output, "pipelines.train", arguments(workspace, output), size=2)


def test_a_run_ends_with_tables_a_report_and_verified_checkpoints(reference) -> None:
    output, (leader, follower) = reference
    assert (leader.code, follower.code) == (0, 0), leader.err
    assert "AUC@N-steps on validation, best at step" in leader.out
    assert follower.out == ""
    assert follower.err == ""
    report = json.loads((output / "report.json").read_text())
    assert [entry["step"] for entry in report["history"]] == [6, 12, 18, 24]
    assert report["tasks"].keys() == {"click", "like", "watch"}
    click = report["tasks"]["click"]
    assert click["sample_space"]["rows"] == click["entire_space"]["rows"] == 400
    assert report["tasks"]["like"]["sample_space"]["rows"] < report["tasks"]["like"]["entire_space"]["rows"]
    assert {"auc", "auc_interval", "positives"} <= click["sample_space"].keys()
    commits = read_commits(output / "checkpoints")
    assert {18, 24} <= {commit.step for commit in commits}
    assert all(verify(output / "checkpoints", commit) is None for commit in commits)
    assert (output / "figures" / "auc_at_n_steps.png").stat().st_size > 1000
    assert report["experts"]["architecture"]["gates"].keys() == {"click", "like", "watch"}
    assert all(entry["experts"]["architecture"]["similarity"] is not None for entry in report["history"])
    assert (output / "figures" / "experts_architecture.png").stat().st_size > 1000


def test_a_tracking_server_out_of_reach_stops_nothing_and_loses_nothing(reference) -> None:
    output, (leader, _) = reference
    assert "MLflow is out of reach: nothing is registered" in leader.err
    assert leader.errors == []
    spooled = "".join(file.read_text() for file in (output / "tracking").rglob("*.jsonl"))
    for key in ("validation/", "train/loss/click", "test/"):
        assert key in spooled


def test_killed_at_any_moment_the_same_command_ends_in_the_same_bits(workspace, reference, tmp_path) -> None:
    job = Job(tmp_path, "pipelines.train", arguments(workspace, tmp_path), size=2)
    first = tmp_path / "checkpoints" / "commits" / f"{6:020d}.json"
    wait_for(job, first.exists)
    job.signal(signal.SIGKILL)
    assert [ended.code for ended in job.wait()] == [-signal.SIGKILL] * 2
    killed_at = newest(tmp_path).step
    assert 6 <= killed_at < STEPS
    torn = tmp_path / "checkpoints" / "attempts" / f"{23:020d}-deadbeef"
    torn.mkdir()
    (torn / "__0_0.distcp").write_bytes(b"half")

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "pipelines.train", *arguments(workspace, tmp_path)]
    again = subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=Path(__file__).parents[2])
    assert again.returncode == 0, again.stderr
    assert f"step {killed_at // 3 * 3 + 3}/{STEPS}" in again.stderr
    assert f"step {killed_at}/{STEPS}" not in again.stderr
    assert_same_end(tmp_path, reference[0])


def test_sigterm_on_one_rank_commits_on_all_and_loses_no_step(workspace, reference, tmp_path) -> None:
    job = Job(tmp_path, "pipelines.train", arguments(workspace, tmp_path), size=2)
    wait_for(job, lambda: f"step 9/{STEPS}" in job.err(0))
    os.kill(job.ranks[1].pid or 0, signal.SIGTERM)
    leader, follower = job.wait()
    assert (leader.code, follower.code) == (EXIT_STOPPED, EXIT_STOPPED), leader.err
    stopped_at = newest(tmp_path).step
    assert f"stopped at step {stopped_at} after a commit" in leader.err
    assert stopped_at < STEPS
    _, progress = contents(tmp_path, newest(tmp_path))
    assert (progress["step"], progress["epoch"], progress["step_in_epoch"]) == (stopped_at, *divmod(stopped_at, 8))

    ended = run(tmp_path, "pipelines.train", arguments(workspace, tmp_path), size=2)
    assert [rank.code for rank in ended] == [0, 0], ended[0].err
    assert_same_end(tmp_path, reference[0])
    assert loss_curve(tmp_path) == loss_curve(reference[0])
    assert statuses(tmp_path) == ["KILLED", "RUNNING", "FINISHED"]


def test_sigterm_in_an_evaluation_abandons_it_and_it_comes_first_on_resuming(workspace, reference, tmp_path) -> None:
    """On one rank, once more while the evaluation is made up for, and in the last one."""
    output, options = tmp_path / "run", arguments(workspace, tmp_path / "run")
    for step, call in ((12, BATCHES + 2), (12, 2), (STEPS, 2 * BATCHES + 2)):
        ended = Job(tmp_path, "tests.faulty", [f"1:term:evaluation:{call}", *options], size=2).wait()
        assert [rank.code for rank in ended] == [EXIT_STOPPED] * 2, ended[0].err
        assert f"stopped at step {step} after a commit" in ended[0].err
        assert (newest(output).step, newest(output).score) == (step, None)
        assert [report["step"] for report in contents(output, newest(output))[1]["history"]] == [*range(6, step, 6)]

    ended = run(tmp_path, "pipelines.train", options, size=2)
    assert [rank.code for rank in ended] == [0, 0], ended[0].err
    assert_same_end(output, reference[0])
    assert loss_curve(output) == loss_curve(reference[0])
    assert validation_curve(output) == validation_curve(reference[0])
    scores = [[commit.score for commit in read_commits(path / "checkpoints")] for path in (output, reference[0])]
    assert scores[0] == scores[1]


def test_a_finished_run_started_again_only_reports(workspace, reference) -> None:
    output, _ = reference
    before = newest(output)
    report = (output / "report.json").read_text()
    ended = run(output, "pipelines.train", arguments(workspace, output), size=2)
    assert [rank.code for rank in ended] == [0, 0], ended[0].err
    assert "step " not in ended[0].err
    assert newest(output) == before
    assert (output / "report.json").read_text() == report


def test_a_run_directory_belongs_to_one_order_of_examples(workspace, reference) -> None:
    output, _ = reference
    wrong = arguments(workspace, output, "--data.batch_size=256")
    leader, follower = run(output, "pipelines.train", wrong, size=2)
    assert (leader.code, follower.code) == (2, 2)
    (line,) = leader.errors
    assert "the run was started on plan" in line
    assert follower.err == ""


def test_one_rank_trains_the_model_that_two_train(workspace, tmp_path) -> None:
    ends = []
    for size in (1, 2):
        output = tmp_path / str(size)
        options = arguments(workspace, output, "--training.epochs=1", "--model.dropout=0", "--evaluation.every=8")
        ended = run(tmp_path, "pipelines.train", options, size=size)
        assert ended[0].code == 0, ended[0].err
        ends.append(contents(output, newest(output)))
    (alone, before), (together, after) = ends
    for name in (name for name in alone if name.startswith("model/")):
        torch.testing.assert_close(together[name], alone[name], rtol=1e-3, atol=1e-4)
    one, other = (end["history"][0]["tasks"]["click"]["sample_space"]["auc"] for end in (before, after))
    assert other == pytest.approx(one, abs=2e-3)
