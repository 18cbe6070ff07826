"""Ids sent ahead: the same vectors and the same training as without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ranking.distributed.world import World
from ranking.training.step import EagerPipeline
from tests.launch import launch
from tests.ranked import assembly, batch_of, encoded, step, whole
from tests.workspace import Workspace

PLAIN = ["--model.dropout=0", "--model.embedding_dropout=0"]


def exchanged(world: World, files: list[Path]) -> dict:
    parts = assembly(world, files, PLAIN)
    rows = encoded(parts, 96)
    batches = [batch_of(parts, rows.slice(32 * i, 32 * i + 32), world, step=i) for i in range(3)]
    found: dict = {}

    state = parts.state(10)
    embeddings = state.model.module.model.embeddings
    with torch.no_grad():
        expected = [embeddings(batch.sparse) for batch in batches]
        ahead = embeddings.exchange_ahead()
        ahead.start(batches[0].sparse)
        ahead.start(batches[1].sparse)
        ahead.send()
        answers = {i: embeddings(batches[i].sparse) for i in (2, 0, 1)}  # the one not started first
    found["vectors"] = all(torch.equal(answers[i], vectors) for i, vectors in enumerate(expected))
    found["left"] = len(ahead._under_way)

    for batch in batches:
        step(state, batch)
    other = parts.state(10)
    pipeline = EagerPipeline(other.model, other.optimizers, world)
    stream = iter(batches)
    found["fetched"] = []
    for _ in batches:
        pipeline.progress(stream)
        found["fetched"].append(pipeline._next is not None)
    with pytest.raises(StopIteration):
        pipeline.progress(stream)
    before, after = (whole(each.tensors(), world) for each in (state, other))
    found["weights"] = all(torch.equal(before[name], after[name]) for name in before)
    return found


@pytest.fixture(scope="module")
def found(workspace: Workspace) -> list[dict]:
    return launch(exchanged, 2, [workspace.yaml])


def test_vectors_are_the_same_and_a_batch_that_was_not_started_may_come_between(found) -> None:
    assert all(answer["vectors"] and answer["left"] == 0 for answer in found)


def test_a_pipeline_fetches_one_batch_ahead_and_takes_every_batch(found) -> None:
    assert all(answer["fetched"] == [True, True, False] for answer in found)


def test_training_is_the_same_to_the_bit(found) -> None:
    assert all(answer["weights"] for answer in found)
