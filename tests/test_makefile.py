"""The Makefile's recipes, with a Python that only notes what it is asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ranking.errors import EXIT_FAILURE, EXIT_INPUT, EXIT_NOT_PROMOTED, EXIT_OK, EXIT_WAITING

ROOT = Path(__file__).parents[1]
PYTHON = """#!/bin/sh
echo "ran $2"
case "$2" in {job}) exit {code} ;; esac
"""

Made = subprocess.CompletedProcess[str]
Make = Callable[..., Made]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """`make` in a directory whose environment was just installed; a job of it may end with a code of its own."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / "data/kuairand/days").mkdir(parents=True)
    python = tmp_path / ".venv/bin/python"

    def run(*words: str, device: str = "cpu", installed: str = "cpu", job: str = "none", code: int = 0) -> Made:
        (tmp_path / f".venv/{installed}").touch()
        python.write_text(PYTHON.format(job=job, code=code))
        python.chmod(0o755)
        command = ["make", "-C", str(tmp_path), f"DEVICE={device}", *words]
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
        return subprocess.run(command, env=outside, capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize(
    ("target", "job", "last"),
    [("train", "pipelines.promote", "pipelines.report"), ("demo-retrain", "pipelines.retrain", "pipelines.registry")],
)
@pytest.mark.parametrize(
    ("code", "goes_on"),
    [(EXIT_OK, True), (EXIT_NOT_PROMOTED, True), (EXIT_WAITING, True), (EXIT_FAILURE, False), (EXIT_INPUT, False)],
)
def test_whatever_the_gate_decides_the_report_follows(
    make: Make, target: str, job: str, last: str, code: int, goes_on: bool
) -> None:
    done = make(target, job=job, code=code)
    assert f"ran {job}" in done.stdout
    assert (done.returncode == 0, f"ran {last}" in done.stdout) == (goes_on, goes_on), done.stderr


TARGETS = ["train", "demo-retrain", "studies-fast", "test", "check", "bench", "docs", "schema"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_for_a_gpu_keeps_what_was_installed_for_one(make: Make, target: str) -> None:
    asked = make("--dry-run", target, device="cuda", installed="gpu")
    assert asked.returncode == 0, asked.stderr
    assert "venv --clear" not in asked.stdout
    assert "venv --clear" in make("--dry-run", target, device="cpu", installed="gpu").stdout
