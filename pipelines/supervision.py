"""Supervision: what goes wrong on one rank ends all ranks, soon, with one line that names it.

Every rank has a thread that tells the others that it lives and where it stands, and hears what they say; a second one
watches over the first and over the rank's own heartbeat. The first failure on the board ends the job: rank 0 tells it,
or, where rank 0 cannot, the rank that published it.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.job import complain, conclude
from ranking.distributed.board import Board, Failure, Sign
from ranking.distributed.world import World
from ranking.errors import InputError, RankZeroReportsError, ReportedError, described

_TICK = 0.5  # s between two looks at the other ranks
_SILENT = 30.0  # s without a sign of life after which a process counts as stopped or cut off
_ASLEEP = 5.0  # s that a look may come late before it was this process that was stopped
_WORD = 5.0  # s that a rank waits for rank 0 to tell the failure, and for last words
_UNWIND = 8.0  # s that a rank that failed has to close its files


@contextmanager
def supervised(world: World, folder: Path, hang_timeout: float) -> Iterator[Supervisor]:
    """Watch over this rank and its neighbour as long as the block lasts, and share what is raised inside.

    Args:
        world: the ranks.
        folder: where stacks go, `rank-<r>.txt` each; made when there are some.
        hang_timeout: seconds without a beat, in a part of the job that has them, after which the job hangs.

    Raises:
        ReportedError: in place of whatever was raised inside.
    """
    supervisor = Supervisor(world, folder, hang_timeout)
    with supervisor.sharing():
        yield supervisor
    supervisor.stop()


class Supervisor:
    """Made by `supervised`."""

    def __init__(self, world: World, folder: Path, hang_timeout: float) -> None:
        """Give a first sign of life and begin to watch."""
        self.world, self.folder, self.hang_timeout = world, folder, hang_timeout
        self._silent, self._parent = min(_SILENT, hang_timeout), os.getppid()
        self._board, self._lock = Board(world), threading.Lock()
        self._over, self._ending = threading.Event(), threading.Event()
        self._last_words: list[Callable[[], object]] = []
        self._heard, self._neighbour = time.monotonic(), (_NOBODY, time.monotonic())
        self._board.sign()
        for work in (self._talk, self._watch):
            threading.Thread(target=work, name=f"supervision{work.__name__}", daemon=True).start()

    def stop(self) -> None:
        """This rank is done; the others go on without it."""
        with self._lock, suppress(RuntimeError):
            self._over.set()
            self._board.sign(done=True)

    @contextmanager
    def sharing(self, last_word: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Share what is raised inside with all ranks before anything around it is closed.

        Args:
            last_word: called when this process is ended inside the block without unwinding it.

        Raises:
            ReportedError: in place of whatever was raised; the user has been told.
        """
        self._last_words.append(last_word)
        try:
            yield
        except (KeyboardInterrupt, SystemExit, GeneratorExit, ReportedError):
            raise
        except BaseException as error:  # DCP's CheckpointException is no Exception
            raise ReportedError(self._settle(error)) from error
        finally:
            self._last_words.remove(last_word)

    def _talk(self) -> None:
        """Say where this rank stands, and hear whether the job is to end."""
        while not self._over.wait(_TICK):
            with self._lock, suppress(RuntimeError):  # a store that does not answer is the watch's affair
                if self._over.is_set():
                    return
                self._board.sign()
                failure = self._board.failure() or self._silent_neighbour()
                if failure is not None:
                    self._end(failure)
                self._heard = time.monotonic()

    def _silent_neighbour(self) -> Failure | None:
        """Every rank listens to the next one; a stopped one on this host is killed, lest it wakes up."""
        neighbour, now = (self.world.rank + 1) % self.world.size, time.monotonic()
        (before, since), sign = self._neighbour, self._board.read(neighbour)
        if sign is None or sign.done or sign != before:
            self._neighbour = sign, now
        elif now - since > self._silent:
            silence = f"no sign of life for {self._silent:g} s; last seen in {sign.where}"
            line = f"rank {neighbour} ({sign.process}) hangs: {silence}"
            first = self._board.publish(self._failure(line, hang=True))
            sign.process.kill()
            return first
        return None

    def _watch(self) -> None:
        """Find out what the talk cannot: that this rank hangs, that its launcher or the store is gone."""
        before = time.monotonic()
        while not self._over.wait(_TICK):
            now = time.monotonic()
            if now - before > _TICK + _ASLEEP:  # stopped and continued: what was not heard meanwhile means nothing
                self._heard, self._neighbour, self.world.heartbeat.since = now, (self._neighbour[0], now), now
            before, trouble = now, self._trouble(now)
            if trouble is not None:
                threading.Thread(target=self._raise_alarm, args=(trouble,), daemon=True).start()
                if not self._ending.wait(_WORD):  # the store does not answer
                    complain(trouble.line)
                    self._leave(trouble)
                return

    def _trouble(self, now: float) -> Failure | None:
        heartbeat = self.world.heartbeat
        if os.getppid() != self._parent:
            return self._failure("the launcher is gone")
        if heartbeat.trouble:
            return self._failure(heartbeat.trouble)
        if (
            heartbeat.part and now - heartbeat.since > self.hang_timeout + _WORD / 2
        ):  # a stopped neighbour is found out first
            return self._failure(f"no progress for {self.hang_timeout:g} s (training.hang_timeout)", hang=True)
        if now - self._heard > self._silent + _WORD:
            return self._failure(f"rank {self.world.rank}: the ranks' store has not answered for {self._silent:g} s")
        return None

    def _raise_alarm(self, trouble: Failure) -> None:
        with self._lock, suppress(RuntimeError):
            if trouble.hang:
                trouble = trouble.model_copy(update={"line": f"{self._behind()}: {trouble.line}"})
            self._end(self._board.publish(trouble))

    def _behind(self) -> str:
        """The ranks that the others wait for, and where they stand."""
        signs = self._board.signs()
        least = min(sign.beats for sign in signs.values())
        late = {rank: sign for rank, sign in signs.items() if sign.beats == least}
        names = ", ".join(f"rank {rank} ({sign.process})" for rank, sign in late.items())
        return f"{names} hangs in {next(iter(late.values())).where}"

    def _settle(self, error: BaseException) -> int:
        """Publish this rank's failure, or yield to an earlier one, and see that the user is told.

        Returns:
            The exit code of all ranks.
        """
        if self.world.size > 1:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a launcher that saw another rank end would cut this short
        with self._lock:
            self._over.set()
            if isinstance(error, RankZeroReportsError):
                return error.code
            first = self._explain(error)
            with suppress(RuntimeError):  # nobody is left to hear it
                first = self._board.publish(first)
            self._tell(first)
        if self.world.size > 1:
            time.sleep(2 * _TICK)  # the others hear it before their connections, and perhaps the store, close with us
            leave = threading.Timer(_UNWIND, self._leave, (first,))
            leave.daemon = True
            leave.start()
        return first.code

    def _explain(self, error: BaseException) -> Failure:
        if isinstance(error, InputError):
            return self._failure(str(error)).model_copy(update={"code": error.code})
        dead = self._dead_rank() if isinstance(error, RuntimeError) else None
        if dead is not None:
            return self._failure(dead)
        line = described(error)
        with suppress(OSError):
            self._stacks().write_text("".join(traceback.format_exception(error)))
            line += f" (stack in {self._stacks()})"
        return self._failure(line if self.world.size == 1 else f"rank {self.world.rank}: {line}")

    def _dead_rank(self) -> str | None:
        """Whose death broke the connection, unless a rank failed with a word or nobody is known to be dead."""
        for _ in range(20):
            with suppress(RuntimeError):
                if self._board.failure() is not None:
                    return None
                for rank, sign in self._board.signs().items():
                    if sign.process.gone and not sign.done:
                        return f"rank {rank} ({sign.process}) died; last seen in {sign.where}"
            if self.world.size == 1:
                return None
            time.sleep(0.1)  # a dying process closes its connections first
        return None

    def _end(self, failure: Failure) -> None:
        """Leave with all others; the main thread may be anywhere, so that nothing is unwound."""
        self._ending.set()
        if failure.hang:
            with suppress(OSError), self._stacks().open("w") as file:
                file.write(f"{self.world.heartbeat}\n\n")
                file.flush()
                faulthandler.dump_traceback(file)
        words = _begin(lambda: conclude(failure.code), *reversed(self._last_words))
        self._tell(failure)
        words.join(_WORD)
        if failure.rank == self.world.rank or self.world.is_rank_zero:
            time.sleep(2 * _TICK)  # a launcher ends all others with the first; the store may close with rank 0
        self._leave(failure)

    def _tell(self, failure: Failure) -> None:
        """One rank tells the user; where the store no longer says which, better two than none."""
        mine = failure.rank == self.world.rank
        try:
            speaks = self.world.is_rank_zero or (mine and not self._board.is_told(_WORD))
            speaks = speaks and self._board.claim()
        except RuntimeError:
            speaks = self.world.is_rank_zero or mine
        if speaks:
            complain(failure.line)

    def _leave(self, failure: Failure) -> None:
        _begin(lambda: conclude(failure.code)).join(_WORD)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(failure.code)

    def _failure(self, line: str, hang: bool = False) -> Failure:
        where = f" (stacks in {self.folder})" if hang else ""
        return Failure(rank=self.world.rank, line=line + where, hang=hang)

    def _stacks(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"rank-{self.world.rank}.txt"


def _begin(*works: Callable[[], object]) -> threading.Thread:
    """Do one after the other, and whoever waits for it need not wait for ever."""
    thread = threading.Thread(target=lambda: [work() for work in works], daemon=True)
    thread.start()
    return thread


_NOBODY: Sign | None = None
