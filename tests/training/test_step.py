"""One step: what it takes along, what it refuses, and in which precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ranking.batch import RankingBatch
from ranking.distributed.world import World
from ranking.errors import InputError
from ranking.training.step import EagerPipeline, build_pipeline
from tests.launch import launch
from tests.ranked import assembly, batch_of, encoded, whole
from tests.workspace import Workspace

SGD = ["--optimizer.sparse.type=sgd", "--optimizer.schedule.type=constant", "--optimizer.schedule.warmup_steps=0"]


def everything(state) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in whole(state.tensors(), state.world).items()}


def without_features(batch: RankingBatch) -> RankingBatch:
    return replace(batch, dense=torch.full_like(batch.dense, torch.nan))


def with_an_infinite_label(batch: RankingBatch) -> RankingBatch:
    """Of the first task in row 3, which is in its space, and of all tasks in row 2, which is in none."""
    labels, masks = batch.labels.clone(), batch.masks.clone()
    labels[3, 0], labels[2], masks[3, 0], masks[2] = torch.inf, torch.inf, 1, 0
    return replace(batch, labels=labels, masks=masks)


def steps(world: World, files: list[Path]) -> dict:
    parts = assembly(world, files, SGD)
    rows, state = encoded(parts, 96), parts.state(10)
    pipeline = build_pipeline(state.model, state.optimizers, world, 0)
    found: dict = {"kind": type(pipeline).__name__}
    output = pipeline.progress(iter([batch_of(parts, rows, world, step=7, epoch=2)]))
    found["position"] = output.batch.epoch, output.batch.step
    with pytest.raises(StopIteration):
        pipeline.progress(iter([]))

    found["poisoned"], found["changed"] = [], []
    for poison in (without_features, with_an_infinite_label):
        state = parts.state(10)
        pipeline, before = build_pipeline(state.model, state.optimizers, world, 8), everything(state)
        batch = batch_of(parts, rows, world, step=8)
        found["rows"] = batch.rows.index.tolist()
        with pytest.raises(InputError) as caught:
            pipeline.progress(iter([poison(batch) if world.rank == 1 else batch]))
        found["poisoned"].append((type(caught.value).__name__, str(caught.value)))
        after = everything(state)
        found["changed"] += [name for name in before if not torch.equal(before[name], after[name])]

    for precision in ("fp32", "bf16"):
        parts = assembly(world, files, [*SGD, f"--training.precision={precision}", "--model.dropout=0"])
        state = parts.state(10)
        batch = batch_of(parts, rows, world)
        loss, output = state.model(batch)
        loss.backward()
        state.model.eval()
        with torch.no_grad():
            _, evaluated = state.model(batch)
        grads = {name: p.grad.dtype for name, p in state.model.named_parameters() if p.grad is not None}
        found[precision] = {
            "loss": (loss.dtype, float(loss)),
            "shares": output.shares.dtype,
            "evaluated": evaluated.logits.dtype,
            "gradients": set(grads.values()),
        }
    return found


@pytest.fixture(scope="module")
def found(workspace: Workspace) -> list[dict]:
    return launch(steps, 2, [workspace.yaml])


def test_the_position_is_that_of_the_batch_the_step_was_taken_on(found) -> None:
    assert all(answer["position"] == (2, 7) for answer in found)
    assert {answer["kind"] for answer in found} == {EagerPipeline.__name__}


def test_a_loss_that_is_not_finite_on_one_rank_stops_all_before_any_weight_changed(found) -> None:
    for number, (loss, row) in enumerate([("nan", 0), ("inf", 3)]):
        kinds, lines = zip(*(answer["poisoned"][number] for answer in found), strict=True)
        assert kinds == ("InputError", "RankZeroReportsError")
        assert lines[0] == lines[1]
        assert lines[0].startswith("step 8: the loss is not finite (by rank: [")
        assert f"{loss}]; first in {found[1]['rows'][row]})" in lines[0]
        assert "\n" not in lines[0]
    assert all(answer["changed"] == [] for answer in found)


def test_bf16_computes_the_network_only_and_only_while_training(found) -> None:
    for answer in found:
        half, full = answer["bf16"], answer["fp32"]
        assert half["loss"][0] == half["shares"] == half["evaluated"] == torch.float32
        assert half["gradients"] == full["gradients"] == {torch.float32}
        assert half["loss"][1] == pytest.approx(full["loss"][1], rel=0.02)
        assert half["loss"][1] != full["loss"][1]
