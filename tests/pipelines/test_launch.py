"""torchrun with the job's own exit code."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ranking.errors import EXIT_FAILURE, EXIT_INPUT, EXIT_STOPPED
from tests.launch import Ended, Job, free_port
from tests.workspace import Workspace

ROOT = Path(__file__).parents[2]
WORKER = """
import os, pathlib, signal, sys, time
answer = sys.argv[1 + int(os.environ["RANK"])]
answers = {"dies": signal.SIG_DFL, "ignores": signal.SIG_IGN}
signal.signal(signal.SIGTERM, answers.get(answer, lambda *_: sys.exit(int(answer))))
pathlib.Path(f"{os.getpid()}.ready").touch()
time.sleep(60)
"""


def stopped(folder: Path, *answers: str) -> Ended:
    """The launcher after SIGTERM, to which its workers have their answers: an exit code, to die of it, to ignore it."""
    (folder / "worker.py").write_text(WORKER)
    launcher = ["--standalone", f"--nproc-per-node={len(answers)}", "--shutdown-timeout=1", "worker.py"]
    job = Job(folder, "pipelines.launch", [*launcher, *answers])
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*.ready"))) < len(answers):
        assert time.monotonic() < deadline, job.err(0)
        time.sleep(0.02)
    job.signal(signal.SIGTERM)
    (ended,) = job.wait()
    return ended


@pytest.mark.parametrize("answers", [("75", "0"), ("dies", "75")])
def test_workers_that_stop_on_demand_are_a_job_that_was_stopped(tmp_path: Path, answers: tuple[str, ...]) -> None:
    ended = stopped(tmp_path, *answers)
    assert (ended.code, ended.errors) == (EXIT_STOPPED, []), ended.err


def test_a_worker_that_had_to_be_killed_is_a_failure_and_named(tmp_path: Path) -> None:
    ended = stopped(tmp_path, "75", "ignores")
    assert ended.code == EXIT_FAILURE
    (line,) = ended.errors
    assert re.fullmatch(r"error: rank 1 \(pid \d+\) was ended by SIGKILL", line)


def test_a_worker_that_fails_while_it_stops_is_a_failure(tmp_path: Path) -> None:
    ended = stopped(tmp_path, "75", "2")
    assert (ended.code, ended.errors) == (EXIT_INPUT, [])  # it has said why


def unmet(*options: str) -> str:
    """What the launcher says of ranks that could not meet: one line, before it ends with 1."""
    command = [sys.executable, "-m", "pipelines.launch", "--nproc-per-node=1", *options, "-m", "pipelines.train"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == EXIT_FAILURE, ended.stderr
    assert "Traceback" not in ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    return line


def test_a_busy_port_is_one_line_and_a_failure() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = unmet(f"--master-port={port}")
    assert re.match(rf"error: rendezvous: .*port: {port}.*; expected a free port, ", line)


def test_a_rendezvous_that_nobody_hosts_is_one_line_and_a_failure() -> None:
    port = free_port()
    away = [f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-conf=is_host=false,read_timeout=1"]
    line = unmet("--nnodes=2", "--rdzv-backend=c10d", *away)
    assert re.match(rf"error: rendezvous: .*\(127.0.0.1, {port}\).*; expected a free port, ", line)


def test_bad_input_is_one_line_and_exit_code_2_under_torchrun_too(workspace: Workspace, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.launch", "--standalone", "--nproc-per-node=2"]
    command += ["--max-restarts=2", "-m", "pipelines.train"]  # which the same bad input does not use up
    command += ["-c", str(workspace.yaml), f"--output={tmp_path}", "--data.train=nowhere/*.parquet"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == EXIT_INPUT, ended.stderr
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    missing = f"data.train: got 'nowhere/*.parquet', which matches no file in {ROOT}; expected Parquet files"
    assert errors == [f"error: {missing}"]
    assert "Traceback" not in ended.stderr
