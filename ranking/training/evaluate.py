"""Evaluation by all ranks: exact metrics over every row of a manifest, the same at any world size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from ranking.distributed.collectives import gather_rows, share, sum_across
from ranking.distributed.world import World
from ranking.metrics.report import EvaluationReport, Predictions, evaluate_predictions
from ranking.models.base import predictions
from ranking.nn.gates import Gates
from ranking.schema import Frozen, Schema
from ranking.training.feed import Feed


class EvaluationConfig(Frozen):
    """When the model is evaluated, and what makes a checkpoint the best."""

    every: int = Field(0, ge=0, description="Steps between evaluations; 0: at the end of every epoch.")
    batch_size: int = Field(8192, ge=1, description="Global batch while evaluating.")
    best: Literal["auc", "gauc"] = Field(
        "auc", description="Validation metric that ranks checkpoints; without a binary task it is R^2."
    )
    tasks: tuple[str, ...] = Field((), description="Tasks whose mean ranks checkpoints; empty: every binary task.")
    min_positives: int = Field(10, ge=1, description="Fewer examples of either class make a metric undefined.")
    confidence: float = Field(0.95, gt=0, lt=1, description="Level of the AUC intervals.")


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
        if kinds == {"regression"}:
            return self.report.objective("r2", list(self.report.tasks))
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
    """
    training = model.training
    model.eval()
    with _gate_means(model) as gates:
        columns = _collect(model, feed, schema, world, gates)
    model.train(training)
    parts = {name: gather_rows(values, world) for name, values in columns.items()}
    found = _predictions(schema, parts) if world.leads else None
    report = None
    if found is not None:
        report = evaluate_predictions(found, step, config.min_positives, config.confidence)
    return Evaluation(share(report, world), gates.means(world), found)  # type: ignore[arg-type]  # rank 0's is set


def _collect(model: nn.Module, feed: Feed, schema: Schema, world: World, gates: _GateMeans) -> dict[str, Tensor]:
    kept: dict[str, list[Tensor]] = {name: [] for name in ("scores", "labels", "masks", "observed", "groups", "index")}
    for batch in feed:
        rows, moved = batch.rows, batch.to(world.device)
        gates.weights = rows.weights.to(world.device)
        _, output = model(moved)
        real = rows.weights > 0
        kept["scores"].append(predictions(output.logits, schema.tasks).cpu()[real])
        for name in ("labels", "masks", "observed", "groups", "index"):
            kept[name].append(getattr(rows, name)[real])
    return {name: torch.cat(values) for name, values in kept.items()}


def _predictions(schema: Schema, columns: dict[str, Tensor | None]) -> Predictions:
    arrays = {name: values.numpy() for name, values in columns.items() if values is not None}
    return Predictions(
        names=schema.task_names,
        kinds=tuple(task.kind for task in schema.tasks),
        scores=arrays["scores"],
        labels=arrays["labels"],
        in_space=arrays["masks"],
        observed=arrays["observed"],
        rows=arrays["index"],
        groups=arrays["groups"] if schema.user else None,
    )


class _GateMeans:
    """Running sums of gate weights over real rows."""

    def __init__(self) -> None:
        self.weights = torch.ones(0)
        self.sums: dict[str, Tensor] = {}
        self.rows: dict[str, Tensor] = {}

    def add(self, name: str, output: Tensor) -> None:
        total = (output.double() * self.weights.view(-1, 1, 1)).sum(0).cpu()
        self.sums[name] = self.sums.get(name, torch.zeros_like(total)) + total
        self.rows[name] = self.rows.get(name, torch.zeros((), dtype=torch.float64)) + self.weights.sum().double().cpu()

    def means(self, world: World) -> dict[str, npt.NDArray[np.float64]]:
        found = {}
        for name, total in sorted(self.sums.items()):
            packed = sum_across(torch.cat([total.reshape(-1), self.rows[name].reshape(1)]), world)
            found[name] = (packed[:-1] / packed[-1].clamp(min=1)).view_as(total).numpy()
        return found


@contextmanager
def _gate_means(model: nn.Module) -> Iterator[_GateMeans]:
    means = _GateMeans()

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        return modules[name].register_forward_hook(lambda _module, _inputs, output: means.add(name, output))

    modules = {name.split("model.")[-1]: m for name, m in model.named_modules() if isinstance(m, Gates)}
    handles = [watch(name) for name in modules]
    try:
        yield means
    finally:
        for handle in handles:
            handle.remove()
