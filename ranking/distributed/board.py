"""The board: failures and signs of life that the ranks tell each other through the store they met on."""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist

from ranking.distributed.process import Process
from ranking.distributed.world import World
from ranking.errors import EXIT_FAILURE
from ranking.schema import Frozen

_FAILURE, _TOLD = "failure", "told"


class Sign(Frozen):
    """What a rank says of itself.

    Attributes:
        process: which process it is.
        beats: of its heart, so far.
        where: it stands, in words.
        tick: grows, so that no two signs are the same.
        done: it has nothing more to do.
    """

    process: Process
    beats: int
    where: str
    tick: int
    done: bool


class Failure(Frozen):
    """Why the job ends.

    Attributes:
        rank: that found out.
        line: for the user.
        code: exit code of all ranks.
        hang: whether every rank is to leave its stacks behind.
    """

    rank: int
    line: str
    code: int = EXIT_FAILURE
    hang: bool = False


class Board:
    """A connection of its own to the store; every method raises RuntimeError where the store is gone.

    Args:
        world: the ranks.
    """

    def __init__(self, world: World) -> None:
        """Connect."""
        self._world, self._process, self._tick = world, Process.own(), 0
        self._store: dist.Store = world.store.clone()  # type: ignore[attr-defined]  # missing in the stubs

    def sign(self, done: bool = False) -> None:
        """Say where this rank stands."""
        self._tick += 1
        heartbeat = self._world.heartbeat
        sign = Sign(process=self._process, beats=heartbeat.beats, where=str(heartbeat), tick=self._tick, done=done)
        self._store.set(_key(self._world.rank), sign.model_dump_json())

    def read(self, rank: int) -> Sign | None:
        """A rank's last sign, None before its first."""
        return Sign.model_validate_json(self._store.get(_key(rank))) if self._store.check([_key(rank)]) else None

    def signs(self) -> dict[int, Sign]:
        """The last signs of all ranks that gave one."""
        found = {rank: self.read(rank) for rank in range(self._world.size)}
        return {rank: sign for rank, sign in found.items() if sign is not None}

    def failure(self) -> Failure | None:
        """Why the job ends, if it does."""
        return Failure.model_validate_json(self._store.get(_FAILURE)) if self._store.check([_FAILURE]) else None

    def publish(self, failure: Failure) -> Failure:
        """End the job; returns the failure that was first."""
        return Failure.model_validate_json(self._store.compare_set(_FAILURE, "", failure.model_dump_json()))

    def claim(self) -> bool:
        """Whether it is this rank that tells the user; no other may from then on."""
        mine = str(self._world.rank)
        return self._store.compare_set(_TOLD, "", mine) == mine.encode()

    def is_told(self, within: float) -> bool:
        """Whether a rank tells the user before so many seconds are over."""
        try:
            self._store.wait([_TOLD], timedelta(seconds=within))
        except dist.DistStoreError:
            return False
        return True


def _key(rank: int) -> str:
    return f"sign/{rank}"
