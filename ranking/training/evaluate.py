"""Evaluation by all ranks: exact metrics over every row of a manifest, the same at any world size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ranking.distributed.collectives import broadcast, gather_rows
from ranking.distributed.world import World
from ranking.metrics.report import EvaluationReport, Predictions, evaluate_predictions
from ranking.models.base import predictions
from ranking.schema import Schema
from ranking.training.config import EvaluationConfig
from ranking.training.feed import Feed
from ranking.training.gating import GateWatch


class AbandonedError(Exception):
    """All ranks were asked to stop while they evaluated: nothing was found."""


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation found.

    Attributes:
        report: the same on every rank.
        gates: mean softmax weight `[K, n]` of every gate and expert, by module name; the same on every rank.
        predictions: all rows, on rank 0 only.
    """

    report: EvaluationReport
    gates: dict[str, npt.NDArray[np.float64]]
    predictions: Predictions | None

    def score(self, config: EvaluationConfig) -> float | None:
        """What ranks this step among checkpoints; None where a chosen metric is undefined."""
        kinds = {task.kind for task in self.report.tasks.values()}
        if config.best == "r2" or kinds == {"regression"}:
            return self.report.objective("r2", config.tasks or list(self.report.tasks))
        return self.report.objective(config.best, config.tasks or None)


@torch.no_grad()
def evaluate(
    model: nn.Module, feed: Feed, schema: Schema, world: World, config: EvaluationConfig, step: int
) -> Evaluation:
    """Score every row the feed delivers.

    Args:
        model: the sharded training step; returns (loss, output).
        feed: one pass over the evaluation manifest; all ranks take the same number of steps.
        schema: tasks.
        world: ranks that evaluate together.
        config: the `evaluation` section.
        step: updates the model has had, for the report.

    Raises:
        AbandonedError: the feed was cut short; on all ranks.
    """
    training = model.training
    model.eval()
    try:
        with GateWatch(model, schema.task_names, config.batch_size) as watch:
            columns = _collect(model, feed, schema, world, watch)
    finally:
        model.train(training)
    parts = {name: gather_rows(values, world) for name, values in columns.items()}
    gates, experts = watch.found(world)
    found = _predictions(schema, parts) if world.is_rank_zero else None
    report = None
    if found is not None:
        report = evaluate_predictions(found, step, config.min_positives, config.confidence)
        report = report.model_copy(update={"experts": experts})
    return Evaluation(broadcast(report, world), gates, found)  # type: ignore[arg-type]  # rank 0's is set


def _collect(model: nn.Module, feed: Feed, schema: Schema, world: World, watch: GateWatch) -> dict[str, Tensor]:
    kept: dict[str, list[Tensor]] = {name: [] for name in ("logits", "labels", "masks", "observed", "groups", "index")}
    for batch in feed:
        rows, moved = batch.rows, batch.to(world.device)
        watch.expect(rows, world.device)
        _, output = model(moved)
        real = rows.real
        kept["logits"].append(output.logits.float().cpu()[real])
        for name in ("labels", "masks", "observed", "groups", "index"):
            kept[name].append(getattr(rows, name)[real])
    if feed.cut:
        feed.close()
        raise AbandonedError
    return {name: torch.cat(values) for name, values in kept.items()}


def _predictions(schema: Schema, columns: dict[str, Tensor | None]) -> Predictions:
    scores = predictions(columns.pop("logits"), schema.tasks)  # type: ignore[arg-type]  # rank 0's is set
    arrays = {name: values.numpy() for name, values in columns.items() if values is not None}
    return Predictions(
        names=schema.task_names,
        kinds=tuple(task.kind for task in schema.tasks),
        scores=scores.numpy(),
        labels=arrays["labels"],
        in_space=arrays["masks"],
        observed=arrays["observed"],
        rows=arrays["index"],
        groups=arrays["groups"] if schema.user else None,
    )
