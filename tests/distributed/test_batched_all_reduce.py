"""What ranks agree on: many questions, one collective."""

from __future__ import annotations

import torch
import torch.distributed as dist

from ranking.distributed.batched_all_reduce import BatchedAllReduce
from ranking.distributed.world import World
from tests.launch import launch


def asked(world: World) -> dict[str, object]:
    calls, original = [], dist.all_reduce
    dist.all_reduce = lambda *args, **options: calls.append(1) or original(*args, **options)
    own = torch.tensor([1.0, world.rank], dtype=torch.float64)
    first, second = world.batched_all_reduce.add(own), world.batched_all_reduce.add(torch.ones(1, dtype=torch.float64))
    world.batched_all_reduce.start()
    third = world.batched_all_reduce.add(own * 10)  # waits for the next start, or for whoever needs the answer
    found = {"calls": len(calls), "sums": [second().tolist(), first().tolist(), first().tolist()]}
    return found | {"late": third().tolist(), "all": len(calls), "own": own.tolist()}


def test_what_is_asked_before_a_cast_shares_one_collective() -> None:
    for rank, answer in enumerate(launch(asked, 3)):
        assert answer == {
            "calls": 1,
            "sums": [[3.0], [3.0, 3.0], [3.0, 3.0]],
            "late": [30.0, 30.0],
            "all": 2,
            "own": [1.0, rank],
        }


def test_a_world_of_one_agrees_with_itself() -> None:
    batched_all_reduce = BatchedAllReduce(None)
    answer = batched_all_reduce.add(torch.tensor([2.0], dtype=torch.float64))
    batched_all_reduce.start()
    batched_all_reduce.start()  # nothing was asked since
    assert answer().tolist() == [2.0]
