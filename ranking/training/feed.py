"""What a rank trains on: its batches, and what all ranks agree on once a step."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from ranking.batch import RankingBatch
from ranking.data.plan import Position
from ranking.data.quarantine import Quarantine
from ranking.distributed.collectives import all_gather, collective_error
from ranking.distributed.world import World
from ranking.errors import InputError
from ranking.rows import Rows
from ranking.schema import Schema

_Problem = tuple[str, int]  # what an error says, and its exit code
_Proposal = tuple[tuple[Position, Rows] | None, _Problem | None, Callable[[], Tensor]]


class Source(Protocol):
    """A loader: positions and this rank's encoded rows."""

    def __iter__(self) -> Iterator[tuple[Position, Rows]]:
        """Walk the plan."""


@dataclass
class Stop:
    """Whether a training was asked to stop; its feeds agree on that with the other ranks.

    Attributes:
        asked: on this rank; on all of them once a feed has ended by it.
    """

    asked: bool = False

    @contextmanager
    def by_sigterm(self) -> Iterator[Self]:
        """SIGTERM only raises the flag; all ranks stop together at the next batch of whatever they read."""

        def ask(_signal: int, _frame: object) -> None:
            self.asked = True

        before = signal.signal(signal.SIGTERM, ask)
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True)
class _Status:
    """What the ranks agree on before a step: this rank's, or summed over all.

    Attributes:
        counts: `[T]` sums of the masks.
        failed: ranks that could not read their rows.
        stopping: ranks that were asked to stop, or are at their end.
        damaged: ranks that found damage.
    """

    counts: Tensor
    failed: float
    stopping: float
    damaged: float

    def packed(self) -> Tensor:
        """As one `[T + 3]` float64."""
        return torch.cat([self.counts.double(), torch.tensor([self.failed, self.stopping, self.damaged]).double()])

    @classmethod
    def of(cls, packed: Tensor) -> Self:
        """What `packed` made one tensor of."""
        return cls(packed[:-3], *packed[-3:].tolist())


class Feed(Iterator[RankingBatch]):
    """Batches with global counts; ends, or fails, on all ranks at the same step.

    What the ranks must agree on before they touch the batch goes into one all-reduce: the mask sums that normalise the
    loss, whether any rank failed to read, and whether any rank was asked to stop. With several ranks that happens while
    the batch before is used, so that no step waits for it; a stop then comes a batch later.

    Args:
        source: this rank's part of the plan.
        schema: names of features and tasks.
        world: the ranks to agree with.
        steps_per_epoch: to turn a position into a global step.
        quarantine: where the source puts damaged row groups, for the ranks to tell each other of.
        stop: what else ends it; left out: nothing.

    Attributes:
        cut: it ended before its source did.
        waited: seconds this rank has waited for its source so far.
    """

    def __init__(
        self,
        source: Source,
        schema: Schema,
        world: World,
        steps_per_epoch: int,
        quarantine: Quarantine | None = None,
        stop: Stop | None = None,
    ) -> None:
        """Start reading."""
        self._rows = iter(source)
        self._schema, self._world, self._steps = schema, world, steps_per_epoch
        self._quarantine, self._stop = quarantine, stop or Stop()
        self._ahead: _Proposal | None = None
        self.cut = False
        self.waited = 0.0

    def __next__(self) -> RankingBatch:
        """The next batch.

        Raises:
            StopIteration: the plan is at its end, or a rank was asked to stop.
            InputError: a rank could not read its rows, or too many are damaged; all ranks raise the same message.
        """
        item, error, agree = self._ahead or self._propose()
        self._world.heartbeat.beat("waiting for the other ranks")
        self._ahead, status = None, _Status.of(agree())
        if status.failed:
            text, code = next(problem for problem in all_gather(error, self._world) if problem)
            raise collective_error(text, self._world, code)
        if status.damaged:
            self._tell_of_damage()
        if status.stopping or item is None:
            if item is not None:
                self.cut = self._stop.asked = True
            raise StopIteration
        if self._world.size > 1:
            self._ahead = self._propose()
        self._world.heartbeat.beat("step")
        position, rows = item
        step = position.epoch * self._steps + position.step
        return RankingBatch.build(self._schema, rows, status.counts.float(), position.epoch, step)

    def close(self) -> None:
        """Stop the background threads behind the source."""
        close = getattr(self._rows, "close", None)
        if close is not None:
            close()

    def _propose(self) -> _Proposal:
        """Fetch the next rows and begin to agree on them."""
        self._world.heartbeat.beat("input")
        item, error = self._fetch()
        own = _Status(
            counts=torch.zeros(len(self._schema.tasks)) if item is None else item[1].masks.sum(0),
            failed=error is not None,
            stopping=self._stop.asked or (item is None and error is None),
            damaged=self._quarantine is not None and self._quarantine.pending,
        )
        return item, error, self._world.batched_all_reduce.add(own.packed())

    def _tell_of_damage(self) -> None:
        assert self._quarantine is not None  # a rank has found something, and all ranks are built alike
        try:
            self._quarantine.agree(all_gather(self._quarantine.found, self._world), tell=self._world.is_rank_zero)
        except InputError as error:
            raise collective_error(str(error), self._world) from None

    def _fetch(self) -> tuple[tuple[Position, Rows] | None, _Problem | None]:
        began = time.perf_counter()
        try:
            return next(self._rows, None), None
        except InputError as error:
            return None, (str(error), error.code)
        finally:
            self.waited += time.perf_counter() - began
