"""Ranks of a measurement as fresh processes, which see the environment of the moment they are started."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from benchmarks import harness


def threads() -> int:
    """OpenMP threads of a rank: one, unless the environment says otherwise, so that ranks do not share cores."""
    return int(os.environ.get("OMP_NUM_THREADS", "1") or "1")


def ranks(work: Callable[..., Any], size: int, device: str, *args: object) -> list[Any]:
    """What `work(world, *args)` returns on each rank."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    world["OMP_NUM_THREADS"] = str(threads())
    started = []
    for rank in range(size):
        receiver, sender = context.Pipe(duplex=False)
        with harness.environment(**world, RANK=str(rank), LOCAL_RANK=str(rank)):
            process = context.Process(target=_rank, args=(work, device, args, sender), daemon=True)
            process.start()
        sender.close()  # so that the receiver notices a rank that died
        started.append((process, receiver))
    found = [receiver.recv() for _, receiver in started]
    for process, _ in started:
        process.join()
    return found


def _rank(work: Callable[..., Any], device: str, args: tuple[object, ...], sender: Connection) -> None:
    import logging

    from pipelines.job import _quiet
    from ranking.distributed.world import join

    _quiet()
    logging.disable(logging.INFO)
    with join(device) as world:
        sender.send(work(world, *args))
