"""Saving while training goes on: the state is copied to host memory, and a thread of its own commits the copy."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from threading import Thread
from types import TracebackType
from typing import Self

from ranking.distributed.collectives import collective_error
from ranking.errors import InputError, ServiceError
from ranking.training.checkpoint import Checkpoints, SaveError
from ranking.training.commits import Commit
from ranking.training.layout import TensorLayout
from ranking.training.state import Progress, TrainState
from ranking.training.stored import brief

log = logging.getLogger(__name__)

_LOOK = 5.0  # s between two signs of life while a save is waited for

Then = Callable[[Commit | None], None]
"""Told on every rank, from the thread that saves, how a save ended: the commit exists, or there is none."""


class Saves:
    """The saves of one training, at most one in flight; as a context it leaves none behind.

    A save that fails is reported as `checkpoints.on_failure` says, on all ranks alike, as soon as the next one begins
    or the training ends.

    Args:
        checkpoints: where to.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        """Nothing is in flight."""
        self.checkpoints, self.failures = checkpoints, 0
        self._flight: _Flight | None = None
        self._copies: dict[str, TensorLayout] = {}  # kept between saves: fresh memory costs more than the copy itself
        self._lost = ""

    def save(self, state: TrainState, score: float | None, then: Then) -> None:
        """Save the state as it is now; `async` returns as soon as it is copied, `sync` when it is committed.

        Args:
            state: what to save.
            score: validation score of this step, if it was evaluated.
            then: told how it ended.

        Raises:
            ServiceError: this save or the one before must not fail and did.
            InputError: the directory is another job's now.
        """
        self.settle()
        apart, tensors = self.checkpoints.config.mode == "async", state.checkpoint_tensors()
        if apart:
            tensors = {name: layout.copied(self._copies.get(name)) for name, layout in tensors.items()}
            self._copies = tensors
        self._flight = _Flight(self.checkpoints, tensors, state.progress, score, then)
        if not apart:
            self.settle()

    def settle(self) -> None:
        """Wait until nothing is in flight.

        Raises:
            InputError: as `save`, and ServiceError.
        """
        flight = self._flight
        if flight is None:
            return
        heartbeat = self.checkpoints.world.heartbeat
        while flight.thread.is_alive():
            flight.thread.join(_LOOK)
            heartbeat.since = time.monotonic()  # a large checkpoint takes its time; the save's own collectives bound it
        self._flight = None  # not before: until its thread has ended, its copies are not to be written over
        try:
            flight.outcome.result()
            self._lost = ""
        except SaveError as error:
            self.failures += 1
            self._lost = f"{self.checkpoints.directory}: step {flight.step} was not saved: {error}"
            if self.checkpoints.config.on_failure == "stop":
                self.finish()
            if self.checkpoints.world.is_rank_zero:
                log.error("%s; the checkpoints before are intact, the next save tries again", self._lost)

    def finish(self) -> None:
        """Wait for the last save, which must have succeeded.

        Raises:
            ServiceError: it did not.
        """
        self.settle()
        if self._lost:
            line = f"{self._lost}; expected free disk space; earlier checkpoints are intact"
            raise collective_error(
                f"{line}: run the same command again to resume", self.checkpoints.world, ServiceError.code
            )

    def __enter__(self) -> Self:
        """The saves themselves."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """After an error give the save in flight the time to end; the error is the one to hear of."""
        if error is not None and self._flight is not None:
            self._flight.thread.join()


class _Flight:
    """One save on its way."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        tensors: Mapping[str, TensorLayout],
        progress: Progress,
        score: float | None,
        then: Then,
    ) -> None:
        self.step, self.outcome, self._world = progress.step, Future[Commit](), checkpoints.world
        self._save, self._then = partial(checkpoints.publish, tensors, progress, score), then
        self.thread = Thread(target=self._run, name=f"save-{progress.step}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            commit = self._save()
            self._then(commit)
            self.outcome.set_result(commit)
        except BaseException as error:
            if isinstance(error, SaveError):
                self._then(None)
            elif not isinstance(error, InputError | RuntimeError):  # unforeseen, and no other rank's broken connection
                self._world.heartbeat.trouble = f"step {self.step}: the save failed: {brief(error)}"
            self.outcome.set_exception(error)
