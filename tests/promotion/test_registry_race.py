"""Processes that promote at once on a real MLflow server: one linear history, whoever dies on the way."""

from __future__ import annotations

import os
import signal
import time
from itertools import pairwise
from typing import Any

import pytest

from ranking.promotion.registry import ChampionChangedError, Registry, RegistryError
from tests.launch import _CONTEXT as CONTEXT
from tests.promotion.registry_store import PASSED, lineage

PROCESSES, EACH = 3, 2


def contend(uri: str, name: str, versions: list[int]) -> None:
    """Promote versions one after another, comparing again whenever the champion has changed."""
    registry = Registry(uri, name)
    for version in versions:
        for _ in range(30):
            champion = registry.champion()
            if champion == version:
                break
            try:
                registry.promote(version, PASSED, champion, by=f"process {os.getpid()}")
                break
            except ChampionChangedError:
                continue
            except RegistryError:  # MLflow's own conflicts, such as an alias that two create at once
                time.sleep(0.1)


@pytest.fixture
def racing(server: Any) -> Registry:
    server.start()
    registry = Registry(server.uri, f"racing-{time.time_ns()}")
    for _ in range(PROCESSES * EACH + 1):
        registry.register("s3://nowhere/model")
    return registry


def test_one_linear_history_whoever_promotes_and_whoever_dies(racing: Registry) -> None:
    numbers = list(range(1, PROCESSES * EACH + 1))
    started = [
        CONTEXT.Process(target=contend, args=(racing._uri, racing.name, numbers[i::PROCESSES]))
        for i in range(PROCESSES)
    ]
    for process in started:
        process.start()
    while not racing.audit.decisions():
        time.sleep(0.01)
    victim = started[0]
    os.kill(int(victim.pid or 0), signal.SIGKILL)
    for process in started:
        process.join(120)
    survivors = [version for i in range(1, PROCESSES) for version in numbers[i::PROCESSES]]

    last = numbers[-1] + 1
    contend(racing._uri, racing.name, [last])  # repairs what the victim left undone
    moves = [decision for decision in racing.audit.decisions() if decision.moves]
    assert all(move.settled for move in moves)
    assert [move.before for move in moves] == [None, *(move.version for move in moves[:-1])], "every one from the last"
    assert set(survivors) < {move.version for move in moves}
    assert len({move.version for move in moves}) == len(moves), "nobody is promoted twice"
    assert racing.champion() == moves[-1].version == last
    chain = {version: (before, after) for version, before, after in lineage(racing)}
    assert all(chain[one.version][1] == other.version for one, other in pairwise(moves))
    assert all(chain[other.version][0] == one.version for one, other in pairwise(moves))
