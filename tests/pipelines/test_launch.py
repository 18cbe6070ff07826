"""torchrun with the job's own exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ranking.errors import EXIT_INPUT
from tests.workspace import Workspace

ROOT = Path(__file__).parents[2]


def test_bad_input_is_one_line_and_exit_code_2_under_torchrun_too(workspace: Workspace, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.launch", "--standalone", "--nproc-per-node=2"]
    command += ["--max-restarts=2", "-m", "pipelines.train"]  # which the same bad input does not use up
    command += ["-c", str(workspace.yaml), f"--output={tmp_path}", "--data.train=nowhere/*.parquet"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == EXIT_INPUT, ended.stderr
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert errors == ["error: data.train: got 'nowhere/*.parquet', which matches no file; expected Parquet files"]
    assert "Traceback" not in ended.stderr
