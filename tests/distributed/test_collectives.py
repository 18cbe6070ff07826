"""Small agreements between ranks; each is the identity in a world of one."""

from __future__ import annotations

import pytest
import torch

from ranking.distributed.collectives import (
    all_gather,
    all_reduce_host,
    broadcast,
    collective_error,
    gather_rows,
    on_rank_zero,
)
from ranking.distributed.world import World
from ranking.errors import EXIT_FAILURE, EXIT_INPUT, InputError, RankZeroReportsError, ServiceError
from tests.launch import launch

ALONE = World(0, 1, torch.device("cpu"))


def fails() -> None:
    raise InputError("no such file")


def is_let_down() -> None:
    raise ServiceError("no answer")


def agreements(world: World) -> dict[str, object]:
    def raised(work) -> tuple[str, str, int]:
        with pytest.raises(InputError) as caught:
            on_rank_zero(work, world)
        return type(caught.value).__name__, str(caught.value), caught.value.code

    rows = torch.full((world.rank, 2), float(world.rank))  # rank 0 has none
    collected = gather_rows(rows, world)
    return {
        "sum": all_reduce_host(torch.tensor([1.0, world.rank]), world).tolist(),
        "broadcast": broadcast(f"rank {world.rank}", world),
        "all_gather": all_gather(world.rank * 10, world),
        "on_rank_zero": on_rank_zero(lambda: f"rank {world.rank}", world),
        "raised": raised(fails),
        "let down": raised(is_let_down),
        "error": type(collective_error("x", world)).__name__,
        "rows": None if collected is None else collected.tolist(),
    }


def test_three_ranks_agree() -> None:
    found = launch(agreements, 3)
    for rank, answer in enumerate(found):
        error = "InputError" if rank == 0 else "RankZeroReportsError"
        assert answer == {
            "sum": [3.0, 3.0],
            "broadcast": "rank 0",
            "all_gather": [0, 10, 20],
            "on_rank_zero": "rank 0",
            "raised": (error, "no such file", EXIT_INPUT),  # all ranks stop with one message, which one of them speaks
            "let down": ("ServiceError" if rank == 0 else "RankZeroReportsError", "no answer", EXIT_FAILURE),
            "error": error,
            "rows": [[1.0, 1.0], [2.0, 2.0], [2.0, 2.0]] if rank == 0 else None,
        }


def test_a_world_of_one_needs_no_process_group() -> None:
    values = torch.arange(4.0).view(2, 2)
    assert all_reduce_host(values, ALONE) is values
    assert gather_rows(values, ALONE) is values
    assert (broadcast("x", ALONE), all_gather("x", ALONE), on_rank_zero(lambda: "x", ALONE)) == ("x", ["x"], "x")
    with pytest.raises(InputError, match="no such file") as caught:
        on_rank_zero(fails, ALONE)
    assert not isinstance(caught.value, RankZeroReportsError)
