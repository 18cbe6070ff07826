"""Small tensors that the ranks sum together in a step, in one all-reduce."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor


class BatchedAllReduce:
    """Collects small host tensors and sums all of them over the ranks at once: each all-reduce costs its own wake-ups.

    All ranks must add the same shapes and start at the same points.

    Args:
        group: of the ranks; None in a world of one.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        """Nothing is asked yet."""
        self._group = group
        self._round = _Round()

    def add(self, values: Tensor) -> Callable[[], Tensor]:
        """Ask for the sum over ranks of `[n]` float64.

        Returns:
            A function that waits for the sum `[n]`; where nothing was started since, it starts.
        """
        mine, start = self._round, sum(map(len, self._round.parts))
        mine.parts.append(values)

        def wait() -> Tensor:
            if mine is self._round:
                self.start()
            return mine.sums()[start : start + len(values)]

        return wait

    def start(self) -> None:
        """Start the all-reduce of what was added; nothing waits for it."""
        if self._round.parts:
            self._round.start(self._group)
            self._round = _Round()


class _Round:
    def __init__(self) -> None:
        self.parts: list[Tensor] = []

    def start(self, group: dist.ProcessGroup | None) -> None:
        self._sums = torch.cat(self.parts)
        self._work = None if group is None else dist.all_reduce(self._sums, group=group, async_op=True)

    def sums(self) -> Tensor:
        if self._work is not None:
            self._work.wait()
            self._work = None
        return self._sums
