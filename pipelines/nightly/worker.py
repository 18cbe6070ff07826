"""The training job of a night: processes of their own under the launcher, and how they ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import typer

from ranking.errors import EXIT_INPUT, EXIT_OK, EXIT_STOPPED, InputError
from ranking.tracking.logs import error_in


class WorkerError(RuntimeError):
    """Training ended neither well nor on bad input: a process was killed, or a service failed it."""


class NightStoppedError(RuntimeError):
    """The night was stopped by SIGTERM; the same command resumes."""


def train(arguments: Sequence[str], processes: int) -> None:
    """Run `pipelines.train` to its end.

    Args:
        arguments: of the job.
        processes: ranks on this machine.

    Raises:
        InputError: it said so; with its own line.
        StoppedError: SIGTERM reached it, or this process, and it has committed a checkpoint.
        WorkerError: it ended in any other way.
    """
    launcher = [sys.executable, "-m", "pipelines.launch", "--standalone", "--nproc-per-node", str(processes)]
    command = [*launcher, "-m", "pipelines.train", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        with _on_sigterm(lambda number, _: process.send_signal(number)):  # it commits a checkpoint before it ends
            said = _last_error(process)
    match process.returncode:
        case code if code == EXIT_OK:
            return
        case code if code == EXIT_INPUT:
            raise InputError(said or "training refused its input; see its output")
        case code if code == EXIT_STOPPED:
            raise NightStoppedError("stopped by SIGTERM after a commit; run the same command again to resume")
        case code:
            raise WorkerError(f"training ended with code {code}: {said or 'see its output'}")


def _last_error(process: subprocess.Popen[str]) -> str:
    """Pass on what the job says to stderr, and keep its last line for the user."""
    said = ""
    for line in process.stderr or ():
        typer.echo(line.rstrip("\n"), err=True)
        said = error_in(line) or said
    return said


class SigtermGuard:
    """SIGTERM, which ends a stage with StoppedError: the one that runs, or the next if it comes during a commit."""

    def __init__(self) -> None:
        """Nobody has asked yet, and no stage runs."""
        self._asked = self._may_raise = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Note SIGTERM from here on."""
        with _on_sigterm(self._note):
            yield

    @contextmanager
    def ends(self) -> Iterator[None]:
        """SIGTERM ends what is inside, at once where it came before."""
        self._may_raise = True
        try:
            if self._asked:
                self._note()
            yield
        finally:
            self._may_raise = False

    def _note(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        self._asked = True
        if self._may_raise:
            self._may_raise = False
            raise NightStoppedError("stopped by SIGTERM; run the same command again to resume")


@contextmanager
def _on_sigterm(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
