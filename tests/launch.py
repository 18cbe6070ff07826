"""Starts the ranks of a job as real processes that talk over gloo.

They are forked from a server that has imported everything, so that a rank costs milliseconds instead of seconds. Each
sees the environment that torchrun would give it, and its exit code is our own, not torchrun's.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import runpy
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "pipelines.train",
        "pipelines.doctor",
        "pipelines.run_figures",
        "ranking.tracking.delivery",
        "torch.distributed.optim",
        "tests.frozen",
    ]
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun tells a rank."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


def start(work: Callable[..., None], *args: object) -> tuple[ForkServerProcess, Connection]:
    """A process that runs `work(connection, *args)`, and the other end of its connection."""
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=work, args=(theirs, *args), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def launch(work: Callable[..., Any], size: int, *args: object, seconds: float = 120, device: str = "cpu") -> list[Any]:
    """What `work(world, *args)` returns on each rank; raises where a rank did."""
    port, started = free_port(), []
    for rank in range(size):
        receiver, sender = _CONTEXT.Pipe(duplex=False)
        target = (work, args, environment(rank, size, port), device, sender)
        process = _CONTEXT.Process(target=_work, args=target, daemon=True)
        process.start()
        sender.close()
        started.append((process, receiver))
    try:
        return [_result(rank, receiver, seconds) for rank, (_, receiver) in enumerate(started)]
    finally:
        for process, _ in started:
            process.kill()
            process.join()


def _work(
    work: Callable[..., Any], args: Sequence[object], variables: dict[str, str], device: str, sender: Connection
) -> None:
    from ranking.distributed.world import join

    _as_launched(variables)
    try:
        with join(device) as world:
            answer = (work(world, *args), None)
    except Exception:
        answer = (None, traceback.format_exc())
    sender.send_bytes(pickle.dumps(answer))  # by value: torch's own pickler would share memory that ends with us


def _as_launched(variables: dict[str, str]) -> None:
    """The launcher's environment; the server has read OMP_NUM_THREADS already, and threads decide the last bits."""
    import torch

    os.environ |= variables
    torch.set_num_threads(1)


def _result(rank: int, receiver: Connection, seconds: float) -> Any:
    assert receiver.poll(seconds), f"rank {rank} said nothing for {seconds} s"
    value, problem = pickle.loads(receiver.recv_bytes())
    assert problem is None, f"rank {rank}:\n{problem}"
    return value


@dataclass(frozen=True)
class Ended:
    """How one process of a job ended."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines that a user is meant to read."""
        return [line for line in self.err.splitlines() if line.startswith("error:")]


class Job:
    """Ranks of `python -m <module> <arguments>`, running."""

    def __init__(self, folder: Path, module: str, arguments: Sequence[str], size: int = 1, **variables: str) -> None:
        port = free_port()
        self._files = [folder / f"{module}.{port}.rank{rank}" for rank in range(size)]
        self.ranks: list[ForkServerProcess] = []
        for rank, file in enumerate(self._files):
            seen = (environment(rank, size, port) if size > 1 else {}) | variables
            process = _CONTEXT.Process(target=_module, args=(module, list(arguments), seen, file, folder), daemon=True)
            process.start()
            self.ranks.append(process)

    def signal(self, number: int) -> None:
        """Send a signal to every rank."""
        for process in self.ranks:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    def wait(self, seconds: float = 120) -> list[Ended]:
        """Exit codes and output of all ranks."""
        for rank, process in enumerate(self.ranks):
            process.join(seconds)
            if process.exitcode is None:
                self.signal(9)
                raise AssertionError(f"rank {rank} still runs after {seconds} s:\n{self.err(rank)}")
        return [
            Ended(process.exitcode or 0, Path(f"{file}.out").read_text(), self.err(rank))
            for rank, (process, file) in enumerate(zip(self.ranks, self._files, strict=True))
        ]

    def err(self, rank: int) -> str:
        """What a rank has written to stderr so far."""
        file = Path(f"{self._files[rank]}.err")
        return file.read_text() if file.exists() else ""


def run(folder: Path, module: str, arguments: Sequence[str], size: int = 1, **variables: str) -> list[Ended]:
    """Run a job to its end."""
    return Job(folder, module, arguments, size, **variables).wait()


def _module(module: str, arguments: list[str], variables: dict[str, str], file: Path, folder: Path) -> None:
    _as_launched(variables)
    os.chdir(folder)
    for descriptor, suffix in ((1, "out"), (2, "err")):
        handle = os.open(f"{file}.{suffix}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(handle, descriptor)
    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
