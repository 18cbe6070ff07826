"""What ranks agree on: many questions, one collective."""

from __future__ import annotations

import torch
import torch.distributed as dist

from ranking.distributed.ballot import Ballot
from ranking.distributed.world import World
from tests.launch import launch


def asked(world: World) -> dict[str, object]:
    calls, original = [], dist.all_reduce
    dist.all_reduce = lambda *args, **options: calls.append(1) or original(*args, **options)
    own = torch.tensor([1.0, world.rank], dtype=torch.float64)
    first, second = world.ballot.add(own), world.ballot.add(torch.ones(1, dtype=torch.float64))
    world.ballot.cast()
    third = world.ballot.add(own * 10)  # waits for the next cast, or for whoever needs the answer
    found = {"cast": len(calls), "sums": [second().tolist(), first().tolist(), first().tolist()]}
    return found | {"late": third().tolist(), "all": len(calls), "own": own.tolist()}


def test_what_is_asked_before_a_cast_shares_one_collective() -> None:
    for rank, answer in enumerate(launch(asked, 3)):
        assert answer == {
            "cast": 1,
            "sums": [[3.0], [3.0, 3.0], [3.0, 3.0]],
            "late": [30.0, 30.0],
            "all": 2,
            "own": [1.0, rank],
        }


def test_a_world_of_one_agrees_with_itself() -> None:
    ballot = Ballot(None)
    answer = ballot.add(torch.tensor([2.0], dtype=torch.float64))
    ballot.cast()
    ballot.cast()  # nothing was asked since
    assert answer().tolist() == [2.0]
