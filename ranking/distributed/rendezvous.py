"""How the ranks of one attempt find each other on a store that outlives attempts, as that of torchrun's agent does."""

from __future__ import annotations

import json
import time
import uuid
from datetime import timedelta

import torch.distributed as dist

from ranking.errors import InputError

_POLL = 0.05  # s
_ATTEMPT = "attempt"


def rendezvous(store: dist.Store, rank: int, size: int, timeout: timedelta) -> dist.Store:
    """A store that only the ranks of this attempt know, so that none reads the addresses of those that died.

    Every rank leaves a nonce; rank 0 announces all it finds under a fresh name, again whenever one has changed; the
    name whose announcement every rank has found its own nonce in is the attempt's. A launcher's restart counter would
    not do: on several hosts each agent counts for itself.

    Args:
        store: that all ranks reach.
        rank: of this process.
        size: of the world.
        timeout: how long to wait for the others.

    Raises:
        InputError: naming the ranks that did not come.
    """
    mine, met, announced = uuid.uuid4().hex, set[str](), list[str]()
    store.set(_nonce(rank), mine)
    deadline = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < deadline:
        name, there = json.loads(store.get(_ATTEMPT)) if store.check([_ATTEMPT]) else ("", [])
        if there[rank : rank + 1] == [mine]:
            store.add(name, 0 if name in met else 1)
            met.add(name)
            if store.add(name, 0) == size:
                return dist.PrefixStore(name, store)
        if rank == 0 and not _missing(store, size):
            nonces = [value.decode() for value in store.multi_get([_nonce(each) for each in range(size)])]
            if nonces != announced:
                store.set(_ATTEMPT, json.dumps([f"attempt-{uuid.uuid4().hex}", nonces]))
                announced = nonces
                continue
        time.sleep(_POLL)
    missing = _missing(store, size) or "some that died"
    raise InputError(f"ranks: {missing} did not come within {timeout.total_seconds():g} s; expected {size} ranks")


def _missing(store: dist.Store, size: int) -> list[int]:
    return [rank for rank in range(size) if not store.check([_nonce(rank)])]


def _nonce(rank: int) -> str:
    return f"nonce/{rank}"
