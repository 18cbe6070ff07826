"""The training job of a night, seen from outside: a program in its place that ends as told; and what SIGTERM ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.nightly.worker import NightStoppedError, SigtermGuard, WorkerError, train
from ranking.errors import EXIT_FAILURE, EXIT_INPUT, InputError

Trainer = Callable[[bytes, int], None]


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """Puts a program in the place of Python that says something to stderr and ends with a code."""

    def put(said: bytes, code: int) -> None:
        program = tmp_path / "python"
        (tmp_path / "said").write_bytes(said)
        program.write_text(f"#!/bin/sh\ncat {tmp_path / 'said'} >&2\nexit {code}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    return put


def test_the_last_error_that_training_told_is_the_nights(trainer: Trainer) -> None:
    trainer(b"step 1\nerror: data.train: missing\nbye\n", EXIT_INPUT)
    with pytest.raises(InputError, match=r"^data\.train: missing$"):
        train([], 1)


def test_what_a_library_writes_need_not_be_text(trainer: Trainer, capfd: pytest.CaptureFixture[str]) -> None:
    trainer(b"NCCL \xff\xfe\nerror: a\xffb\n", EXIT_FAILURE)
    with pytest.raises(WorkerError, match=r"^training ended with code 1: a\ufffdb$"):
        train([], 1)
    assert "NCCL \ufffd\ufffd\n" in capfd.readouterr().err


def test_sigterm_ends_a_stage_now_or_the_next_one() -> None:
    stop, done = SigtermGuard(), []
    with stop.heard():
        with (
            pytest.raises(NightStoppedError, match=r"^stopped by SIGTERM; run the same command again to resume$"),
            stop.ends(),
        ):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("a commit")
        with pytest.raises(NightStoppedError), stop.ends():
            done.append("the stage after it")
    assert done == ["a commit"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
