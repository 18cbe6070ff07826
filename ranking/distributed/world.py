"""The world this process lives in; the only reader of the launcher's environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from importlib import metadata

import torch
import torch.distributed as dist

from ranking.distributed.batched_all_reduce import BatchedAllReduce
from ranking.distributed.fbgemm import check_fbgemm
from ranking.distributed.heartbeat import Heartbeat
from ranking.distributed.process import die_with_parent, keep_memory
from ranking.distributed.rendezvous import rendezvous
from ranking.errors import InputError, RankZeroReportsError, first_line

_MALLOC = {"MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES"}
_PATIENCE = timedelta(hours=2)  # that a background thread has for a collective; a step's have less
_REACH = timedelta(seconds=20)  # an agent's store is there before its workers, or the agent has died meanwhile


@dataclass(frozen=True)
class World:
    """Who this process is among all processes of the job.

    Attributes:
        rank: 0 .. size-1; rank 0 reports.
        size: W, the number of processes.
        device: where this rank computes.
        control: gloo group for small collectives on host memory; None in a world of one.
        store: keys and values that all ranks of this attempt share; clone it for use in another thread.
        heartbeat: where this rank stands.
    """

    rank: int
    size: int
    device: torch.device
    control: dist.ProcessGroup | None = None
    store: dist.Store = field(default_factory=dist.HashStore, compare=False)
    heartbeat: Heartbeat = field(default_factory=Heartbeat, compare=False)

    @property
    def is_rank_zero(self) -> bool:
        """Whether this rank reports, logs and writes what all ranks share."""
        return self.rank == 0

    @cached_property
    def batched_all_reduce(self) -> BatchedAllReduce:
        """What the ranks agree on while they train."""
        return BatchedAllReduce(self.control)

    @cached_property
    def in_background(self) -> World:
        """The ranks over a group of their own, so that a background thread's collectives never meet a step's.

        All ranks ask for it together the first time: that makes the group, which lasts as long as this World.
        """
        if self.control is None:
            return self
        return replace(self, control=dist.new_group(backend="gloo", timeout=_PATIENCE))


@contextmanager
def join(device: str, timeout: timedelta = timedelta(minutes=10)) -> Iterator[World]:
    """Join the job torchrun started, or a world of one without a launcher.

    Args:
        device: `cpu` or `cuda`.
        timeout: how long a collective may wait for a rank.

    Yields:
        This process's World, inside an initialised process group.

    Raises:
        InputError: CUDA or the matching FBGEMM build is missing, or the rendezvous port is taken.
    """
    if _launched():
        die_with_parent()  # a worker whose agent is gone would train on, unseen
    if not _MALLOC & os.environ.keys():  # or else the user has chosen
        keep_memory(arrow="ARROW_DEFAULT_MEMORY_POOL" not in os.environ)
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    place = _place(device)
    store = _init(device, rank, size, timeout)
    try:
        control = dist.new_group(backend="gloo", timeout=timeout) if size > 1 else None
        yield World(rank, size, place, control, store)
    finally:
        dist.destroy_process_group()


def speaks() -> bool:
    """Whether this process reports for its host what all its ranks find out alike, such as a wrong configuration."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def own_rank() -> int:
    """This process's number among all, before it has joined them; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def keep_mlflow_from_logging() -> None:
    """Leave MLflow's log lines to our own handler: it installs one of its own when it is imported after this."""
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")


def shorten_mlflow_retries() -> None:
    """Let MLflow give up on a server out of reach after half a minute, not five, where the user has not chosen."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")  # 0, 4, 8 and 16 s apart, and up to a second more


def built_from() -> str:
    """Revision of the code that an image was built from, as its Dockerfile says; "" elsewhere."""
    return os.environ.get("SOURCE_REVISION", "")


def versions() -> dict[str, str]:
    """Versions of the packages that decide what a checkpoint or a result means."""
    names = ("torch", "torchrec", "fbgemm-gpu-cpu", "fbgemm-gpu", "pyarrow", "numpy", "mlflow")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _launched() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _place(device: str) -> torch.device:
    """This rank's device, if the machine has what it takes; where not, one rank of a host says it."""
    try:
        check_fbgemm(device)
        if device == "cuda" and not torch.cuda.is_available():
            raise InputError("device: got 'cuda', but torch sees no CUDA device; expected device: cpu on this machine")
    except InputError as error:
        raise error if speaks() else RankZeroReportsError(str(error)) from None
    if device == "cpu":
        return torch.device("cpu")
    place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(place)
    return place


def _init(device: str, rank: int, size: int, timeout: timedelta) -> dist.Store:
    """Start the process group; the store it met on."""
    if "MASTER_PORT" not in os.environ and size > 1:
        raise InputError(f"MASTER_PORT: missing in a world of {size}; expected what torchrun sets")
    backend = "nccl" if device == "cuda" else "gloo"
    try:
        store = (
            rendezvous(_store(rank, timeout), rank, size, timeout) if "MASTER_PORT" in os.environ else dist.HashStore()
        )
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    except dist.DistNetworkError as error:
        address = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ['MASTER_PORT']}"
        reason = first_line(error)
        raise InputError(f"MASTER_PORT: cannot use {address} ({reason}); expected a free, reachable port") from None
    return store


def _store(rank: int, timeout: timedelta) -> dist.Store:
    """The agent's store, or one of rank 0's."""
    agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = dist.TCPStore(
        os.environ.get("MASTER_ADDR", "127.0.0.1"),
        int(os.environ["MASTER_PORT"]),
        is_master=rank == 0 and not agents,
        timeout=min(timeout, _REACH) if agents else timeout,
        wait_for_workers=False,
        multi_tenant=True,
    )
    store.set_timeout(timeout)
    return store
