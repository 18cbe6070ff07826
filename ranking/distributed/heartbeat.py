"""Signs of life: where a rank stands, written by its main thread and read by whoever watches it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Heartbeat:
    """Costs a few assignments a beat: no lock, no synchronisation, nothing sent.

    All ranks run through the same beats, so that the one with the fewest is the one the others wait for.

    Attributes:
        beats: number of beats so far.
        part: `training`, `evaluation`, ... while the rank must keep moving; "" while it may take its time.
        place: where in that part, such as `input`.
        step: updates done.
        since: when the last beat was, on this host's monotonic clock.
        trouble: why the job must end; whoever sets it has found out in a thread that cannot raise.
    """

    beats: int = 0
    part: str = ""
    place: str = ""
    step: int = 0
    since: float = field(default_factory=time.monotonic)
    trouble: str = ""

    def beat(self, place: str) -> None:
        """Arrive at a place."""
        self.place, self.since = place, time.monotonic()
        self.beats += 1

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """A part of the job in which a missing beat means that the rank hangs."""
        before, self.part = self.part, part
        self.beat("start")
        try:
            yield
        finally:
            self.part = before
            self.beat("start")

    def __str__(self) -> str:
        """Where the rank stands."""
        return f"{self.part or 'between parts'} ({self.place or 'start'}) after step {self.step}"
