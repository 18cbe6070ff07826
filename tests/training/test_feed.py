"""What ranks agree on before they touch a batch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ranking.data.plan import Position
from ranking.distributed.world import World
from ranking.errors import EXIT_FAILURE, EXIT_INPUT, InputError, ServiceError
from ranking.rows import Rows
from ranking.training.feed import Feed, Stop
from tests.launch import launch
from tests.ranked import assembly, encoded, masked, share_of
from tests.workspace import Workspace


@dataclass
class Source:
    """Yields the same rows again and again; one rank may fail or end early."""

    rows: Rows
    count: int
    fails: str = ""
    pause: float = 0.0
    kind: type[InputError] = InputError

    def __iter__(self) -> Iterator[tuple[Position, Rows]]:
        for number in range(self.count):
            time.sleep(self.pause)
            yield Position(2, number), self.rows
        if self.fails:
            raise self.kind(self.fails)


def feeds(world: World, files: list[Path]) -> dict:
    parts = assembly(world, files)
    schema = parts.config.schema
    rows = encoded(parts, 96)
    own = share_of(masked(rows, 1, slice(0, 40)), world)
    expected = masked(rows, 1, slice(0, 40)).masks.sum(0).float()

    feed = Feed(Source(own, 3), schema, world, steps_per_epoch=10)
    batches = list(feed)
    found: dict = {
        "positions": [(batch.epoch, batch.step) for batch in batches],
        "counts": all(torch.equal(batch.counts, expected) for batch in batches),
        "own": torch.equal(batches[0].dense, own.dense)
        and torch.equal(batches[0].labels, own.labels)
        and torch.equal(batches[0].masks, own.masks.float()),
    }
    found["uneven"] = len(list(Feed(Source(own, 3 - world.rank), schema, world, 10)))

    slow = Feed(Source(own, 3, pause=0.02), schema, world, 10)
    found["waited"] = len(list(slow)), slow.waited

    failing = Feed(Source(own, 1, "shard x: damaged" if world.rank == 1 else ""), schema, world, 10)
    next(failing)
    with pytest.raises(InputError) as caught:
        next(failing)
    found["failed"] = type(caught.value).__name__, str(caught.value), caught.value.code

    away = Feed(Source(own, 1, "shard x: away" if world.rank == 1 else "", kind=ServiceError), schema, world, 10)
    next(away)
    with pytest.raises(InputError) as caught:
        next(away)
    found["away"] = type(caught.value).__name__, str(caught.value), caught.value.code

    stop = Stop()
    stopped = Feed(Source(own, 5), schema, world, 10, stop=stop)
    next(stopped)
    stop.asked = world.rank == 1
    found["stopped"] = len(list(stopped)), stopped.cut, stop.asked

    after = Feed(Source(own, 5), schema, world, 10, stop=stop)
    found["after"] = len(list(after)), after.cut
    found["whole"] = len(list(ended := Feed(Source(own, 2), schema, world, 10, stop=Stop()))), ended.cut
    return found


@pytest.fixture(scope="module")
def found(workspace: Workspace) -> list[dict]:
    return launch(feeds, 2, [workspace.yaml])


def test_every_batch_carries_its_global_step_and_the_counts_of_all_ranks(found) -> None:
    for answer in found:
        assert answer["positions"] == [(2, 20), (2, 21), (2, 22)]
        assert answer["counts"]
        assert answer["own"]


def test_the_rank_that_ends_first_ends_all(found) -> None:
    assert [answer["uneven"] for answer in found] == [2, 2]


def test_what_one_rank_cannot_read_stops_all_with_the_same_line(found) -> None:
    assert [answer["failed"] for answer in found] == [
        ("InputError", "shard x: damaged", EXIT_INPUT),
        ("RankZeroReportsError", "shard x: damaged", EXIT_INPUT),
    ]


def test_a_service_that_failed_one_rank_is_no_bad_input_on_any(found) -> None:
    assert [answer["away"] for answer in found] == [
        ("ServiceError", "shard x: away", EXIT_FAILURE),
        ("RankZeroReportsError", "shard x: away", EXIT_FAILURE),
    ]


def test_a_rank_asked_to_stop_stops_all_at_the_same_step(found) -> None:
    agreed_before = 1  # the batch that was agreed on while the one before it was used
    assert [answer["stopped"] for answer in found] == [(agreed_before, True, True)] * 2


def test_a_stop_ends_every_later_feed_of_the_training_at_once(found) -> None:
    assert [answer["after"] for answer in found] == [(0, True)] * 2


def test_a_feed_that_came_to_its_end_was_not_cut(found) -> None:
    assert [answer["whole"] for answer in found] == [(2, False)] * 2


def test_the_time_spent_waiting_for_the_source_is_counted(found: list[dict]) -> None:
    for batches, seconds in (each["waited"] for each in found):
        assert batches == 3
        assert seconds >= 3 * 0.02
