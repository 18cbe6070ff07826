"""Small collectives on host memory; each is the identity in a world of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ranking.distributed.world import World
from ranking.errors import EXIT_INPUT, InputError, RankZeroReportsError, ServiceError

T = TypeVar("T")


def all_reduce_host(values: Tensor, world: World) -> Tensor:
    """Element-wise sum over ranks, in place, of a host tensor."""
    if world.control is not None:
        dist.all_reduce(values, group=world.control)
    return values


def all_reduce_device(values: Tensor) -> Tensor:
    """Element-wise sum over ranks, in place, of a tensor where the ranks compute; the host does not wait for it."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
    return values


def broadcast(value: T, world: World) -> T:
    """Rank 0's value on every rank."""
    if world.control is None:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=world.control)
    return box[0]


def on_rank_zero(work: Callable[[], T], world: World) -> T:
    """What `work` returns on rank 0, on every rank.

    Raises:
        InputError: on all ranks, when `work` raised one, or a ServiceError.
    """
    value, problem = None, None
    if world.is_rank_zero:
        try:
            value = work()
        except InputError as error:
            problem = str(error), error.code
    value, problem = broadcast((value, problem), world)
    if problem is not None:
        raise collective_error(problem[0], world, problem[1])
    return value  # type: ignore[return-value]  # rank 0's


def collective_error(message: str, world: World, code: int = EXIT_INPUT) -> InputError:
    """An error all ranks raise together and rank 0 reports: the ServiceError or the InputError that had this code."""
    if not world.is_rank_zero:
        return RankZeroReportsError(message, code)
    return ServiceError(message) if code == ServiceError.code else InputError(message)


def all_gather(value: T, world: World) -> list[T]:
    """Every rank's value, in rank order, on every rank."""
    if world.control is None:
        return [value]
    values: list[T | None] = [None] * world.size
    dist.all_gather_object(values, value, group=world.control)
    return values  # type: ignore[return-value]  # filled by every rank


def gather_rows(values: Tensor, world: World) -> Tensor | None:
    """Rows of all ranks in rank order, on rank 0; None elsewhere.

    Args:
        values: `[N_r, ...]` host tensor; N_r may differ between ranks, the rest may not.
        world: the ranks.
    """
    if world.control is None:
        return values
    counts = all_gather(len(values), world)
    longest = max(counts)
    padded = values.new_zeros(longest, *values.shape[1:])
    padded[: len(values)] = values
    parts = [torch.empty_like(padded) for _ in counts] if world.is_rank_zero else None
    dist.gather(padded, parts, dst=0, group=world.control)
    return None if parts is None else torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])
