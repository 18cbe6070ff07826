"""The world this process lives in; the only reader of the launcher's environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import metadata

import torch
import torch.distributed as dist

from ranking.errors import InputError


@dataclass(frozen=True)
class World:
    """Who this process is among all processes of the job.

    Attributes:
        rank: 0 .. size-1; rank 0 reports.
        size: W, the number of processes.
        device: where this rank computes.
        control: gloo group for small collectives on host memory; None in a world of one.
    """

    rank: int
    size: int
    device: torch.device
    control: dist.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this rank reports, logs and writes what all ranks share."""
        return self.rank == 0


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
    check_fbgemm(device)
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    place = torch.device("cpu")
    if device == "cuda":
        if not torch.cuda.is_available():
            raise InputError("device: got 'cuda', but torch sees no CUDA device; expected device: cpu on this machine")
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    _init(device, rank, size, timeout)
    try:
        yield World(rank, size, place, dist.new_group(backend="gloo", timeout=timeout) if size > 1 else None)
    finally:
        dist.destroy_process_group()


def check_fbgemm(device: str) -> None:
    """Refuse an FBGEMM build that does not fit the device, and name the package that does."""
    import fbgemm_gpu

    variant, wanted = str(fbgemm_gpu.__variant__), "cpu" if device == "cpu" else "cuda"
    if variant != wanted:
        package = "fbgemm-gpu-cpu (requirements/cpu.txt)" if wanted == "cpu" else "fbgemm-gpu (requirements/gpu.txt)"
        raise InputError(
            f"device: got {device!r} with fbgemm_gpu {fbgemm_gpu.__version__} built for {variant!r}; install {package}"
        )


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


def _init(device: str, rank: int, size: int, timeout: timedelta) -> None:
    backend = "nccl" if device == "cuda" else "gloo"
    if "MASTER_PORT" not in os.environ and size > 1:
        raise InputError(f"MASTER_PORT: missing in a world of {size}; expected what torchrun sets")
    if "MASTER_PORT" not in os.environ:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)
        return
    try:
        dist.init_process_group(backend, rank=rank, world_size=size, timeout=timeout)
    except dist.DistNetworkError as error:
        address = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ['MASTER_PORT']}"
        reason = str(error).splitlines()[0]
        raise InputError(f"MASTER_PORT: cannot use {address} ({reason}); expected a free, reachable port") from None
