"""What sharing does to every task: its gain over training alone, and whether the tasks' gradients agree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ranking.batch import RankingBatch
from ranking.distributed.collectives import all_reduce_device
from ranking.distributed.world import World
from ranking.metrics import Predictions, paired_difference, r2, roc_auc
from ranking.objective.gradients import task_gradients
from ranking.schema import Frozen
from ranking.training.config import CompareConfig
from ranking.training.step import TrainStep


class TaskComparison(Frozen):
    """One task of the ledger.

    Attributes:
        task: its name.
        metric: auc, or r2 for a regression; in the task's sample space.
        rows: of the sample space.
        positives: of a binary task.
        alone: the metric of the task trained on its own; None where undefined.
        shared: of the model that shares.
        gain: shared less alone.
        interval: of the gain, paired over the rows.
        p_value: two-sided, of no gain.
        alone_step: where the baseline was best.
        shared_step: where the model that shares was best.
    """

    task: str
    metric: Literal["auc", "r2"]
    rows: int
    positives: int | None
    alone: float | None
    shared: float | None
    gain: float | None
    interval: tuple[float, float] | None
    p_value: float | None
    alone_step: int
    shared_step: int

    @property
    def verdict(self) -> str:
        """In words, at the level of the interval."""
        if self.interval is None:
            return "undefined"
        low, high = self.interval
        return "gain" if low > 0 else "loss" if high < 0 else "no difference seen"


class Ledger(Frozen):
    """Every task's gain or loss from sharing.

    Attributes:
        revision: of the code.
        model: type of the model that shares.
        split: rows compared on.
        confidence: level of the intervals.
        entries: the tasks.
        tasks: names, in the order of `cosines`.
        cosines: `[T][T]` mean cosine of task gradients on the last shared layer, None where undefined; None where the
            model shares no layer.
        gradient_batches: batches it is the mean of.
    """

    revision: str
    model: str
    split: str
    confidence: float
    entries: tuple[TaskComparison, ...]
    tasks: tuple[str, ...]
    cosines: tuple[tuple[float | None, ...], ...] | None
    gradient_batches: int

    def metrics(self) -> dict[str, float]:
        """Flat for a tracker: `gain/click`, `alone/click`, `shared/click`, `cosine/click/like`."""
        found = {f"{name}/{e.task}": getattr(e, name) for e in self.entries for name in ("gain", "alone", "shared")}
        for i, row in enumerate(self.cosines or ()):
            found |= {f"cosine/{self.tasks[i]}/{self.tasks[j]}": value for j, value in enumerate(row[:i])}
        return {name: value for name, value in found.items() if value is not None}

    def table(self) -> str:
        """The tasks as a Markdown table."""
        level = f"{self.confidence:.0%}"
        head = ["task", "metric", "rows", "alone", "shared", f"gain ({level} interval)", "p", "verdict"]
        lines = [f"| {' | '.join(head)} |", "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |"]
        for e in self.entries:
            gain = (
                "-"
                if e.interval is None or e.gain is None
                else "{:+.4f} [{:+.4f}, {:+.4f}]".format(e.gain, *e.interval)
            )
            cells = [
                e.task,
                e.metric,
                f"{e.rows:,}",
                _cell(e.alone),
                _cell(e.shared),
                gain,
                _p_value(e.p_value),
                e.verdict,
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def markdown(self, figures: Sequence[str]) -> str:
        """The report; `figures` are the names of PNG files beside it."""
        pictures = "\n\n".join(f"![{name}]({name}.png)" for name in figures)
        cosines = "The tasks share no layer, so there are no gradients to compare."
        if self.cosines is not None:
            cosines = (
                f"Gradients: mean cosine of the tasks' loss gradients on the last shared layer, over "
                f"{self.gradient_batches} training batches, at the best checkpoint. Below zero two tasks pull apart."
            )
        return (
            f"# Gain from sharing: {self.model}\n\n"
            f"Every task under the shared model against the same task trained alone with the same budget, on the "
            f"{self.split} rows of its sample space; the intervals are paired over rows (DeLong for AUC, bootstrap for "
            f"R²).\n\n{self.table()}\n\n{cosines}\n\n{pictures}\n\nRevision {self.revision or 'unknown'}.\n"
        )


def compare_task(
    task: str, alone: Predictions, shared: Predictions, config: CompareConfig, steps: tuple[int, int]
) -> TaskComparison:
    """Compare two models of one task on the same rows, in its sample space.

    Args:
        task: its name, known to both.
        alone: of the baseline.
        shared: of the model that shares.
        config: levels and resamples.
        steps: where either was best.

    Raises:
        ValueError: the two saw other rows or labels.
    """
    left, labels = _column(alone, task)
    right, expected = _column(shared, task)
    if not np.array_equal(labels, expected):
        raise ValueError(f"{task}: the two runs have other rows, sample spaces or labels")
    binary = shared.kinds[shared.names.index(task)] == "binary"
    metric = roc_auc if binary else r2
    difference = paired_difference(binary, left, right, labels, config.confidence, config.resamples)
    return TaskComparison(
        task=task,
        metric="auc" if binary else "r2",
        rows=len(labels),
        positives=int(labels.sum()) if binary else None,
        alone=metric(left, labels),
        shared=metric(right, labels),
        gain=difference and difference.value,
        interval=difference and (difference.low, difference.high),
        p_value=difference and difference.p_value,
        alone_step=steps[0],
        shared_step=steps[1],
    )


def gradient_cosines(step: TrainStep, batches: Iterable[RankingBatch], count: int, world: World) -> Tensor:
    """Mean cosine of the tasks' gradients on the layer they share, over global batches; nothing is updated.

    Args:
        step: sharded, and unwrapped.
        batches: this rank's.
        count: how many to take.
        world: all ranks, which take the same number.

    Returns:
        `[T, T]` float64, NaN where two tasks never had a gradient in one batch.
    """
    training = step.training
    step.eval()
    total = seen = torch.zeros((), dtype=torch.float64)
    for batch in islice(batches, count):
        moved = batch.to(world.device)
        logits = step.model(moved.sparse, moved.dense)
        shares = step.objective.task_losses(logits, moved.labels, moved.masks, moved.counts)
        unit = functional.normalize(
            all_reduce_device(task_gradients(shares, step.model.architecture.shared_layer)).double()
        )
        there = (unit.norm(dim=1) > 0).double()
        total, seen = total + (unit @ unit.t()).cpu(), seen + torch.outer(there, there).cpu()
    step.train(training)
    return total / seen.where(seen > 0, torch.nan)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _p_value(value: float | None) -> str:
    return "< 0.0001" if value is not None and value < 0.0001 else _cell(value)


def _column(found: Predictions, task: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Scores and labels in the task's sample space, by row."""
    place, order = found.names.index(task), np.argsort(found.rows)
    rows = order[found.in_space[order, place]]
    return found.scores[rows, place].astype(np.float64), found.labels[rows, place].astype(np.float64)
