"""Computes the rows of the study: label correlations, and final losses and curves of many small runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.studies.record import Row
from pipelines.studies.synthetic.config import CellsConfig, LabelsConfig, SyntheticConfig
from ranking.data.synthetic.correlated import CorrelatedConfig, CorrelatedTasks, correlated_tasks, pearson
from ranking.errors import InputError
from ranking.models import zoo
from ranking.models.base import ArchitectureConfig
from ranking.training.ensemble import Batch, Ensemble

log = logging.getLogger(__name__)

Numbers = npt.NDArray[np.float64]

_WEIGHTS = 1_000_003  # between the seeds of the data and those of the initial weights
_ROWS = 512  # held-out rows at a time
_DIGITS = 5  # significant ones of a run's loss in the JSON


class Trained(NamedTuple):
    """A cell: curve `[points, L, R]` and final loss `[L, R]` of R runs at L learning rates, of the first task."""

    curve: Numbers
    final: Numbers


def measure(config: SyntheticConfig) -> Iterator[Row]:
    """Every row of the study but the findings."""
    yield from cells("models", config.models, config.law, config.seed)
    yield from cells("relatedness", config.relatedness, config.law, config.seed)
    linear = config.law.model_copy(update={"alpha": (), "beta": (), "noise": 0.0})
    for name, law in {"labels": config.law, "labels_linear": linear}.items():
        yield from labels(name, config.labels, law, config.seed)


def labels(name: str, config: LabelsConfig, law: CorrelatedConfig, seed: int) -> Iterator[Row]:
    """Pearson correlation of the labels, at every p."""
    for p in config.p:
        found = [
            pearson(CorrelatedTasks(law, p, 1, seed + repeat).draw(config.points)[1])
            for repeat in range(config.repeats)
        ]
        values = torch.cat(found).numpy()
        yield {"part": "labels", "model": name, "p": p, "runs": len(values), **summary("pearson", values, values.max())}


def cells(part: str, config: CellsConfig, law: CorrelatedConfig, seed: int) -> Iterator[Row]:
    """One row for every model and p, of the learning rate with the least mean final loss."""
    for p in config.p:
        for name, model in config.models.items():
            start = time.perf_counter()
            trained = train(config, law, model, p, seed)
            row = describe(config, trained)
            seconds = time.perf_counter() - start
            log.info("%s: %s at p = %g: %.4f in %.0f s", part, name, p, row["loss_mean"], seconds)
            yield {"part": part, "model": name, "p": p, **row, "seconds": round(seconds, 1)}


def train(config: CellsConfig, law: CorrelatedConfig, model: ArchitectureConfig, p: float, seed: int) -> Trained:
    """All runs of a cell, some at a time. Run r sees the same rows in every model, at every p and learning rate."""
    starts = range(0, config.runs, config.together)
    sizes = [min(config.together, config.runs - start) for start in starts]
    parts = [
        _train(config, CorrelatedTasks(law, p, runs, seed + start), model, seed + start + _WEIGHTS)
        for start, runs in zip(starts, sizes, strict=True)
    ]
    curves, finals = zip(*parts, strict=True)
    return Trained(np.concatenate(curves, axis=-1), np.concatenate(finals, axis=-1))


def describe(config: CellsConfig, trained: Trained) -> Row:
    """Final losses of every learning rate, and mean, spread, extremes and curve of the best.

    Raises:
        InputError: some run diverged at every learning rate.
    """
    means = np.where(np.isfinite(trained.final).all(1), trained.final.mean(1), np.inf)
    best = int(means.argmin())
    if not np.isfinite(means[best]):
        raise InputError(
            f"learning_rates: runs diverge at each of {list(config.learning_rates)}; expected smaller ones"
        )
    curve, window = trained.curve[:, best], config.steps // config.points
    return {
        "runs": config.runs,
        "learning_rate": config.learning_rates[best],
        **summary("loss", trained.final[best], trained.final[best].min()),
        "loss_runs": {
            str(rate): _rounded(runs) for rate, runs in zip(config.learning_rates, trained.final, strict=True)
        },
        "curve_step": [window * (point + 1) for point in range(config.points)],
        "curve_loss_mean": _rounded(curve.mean(1)),
        "curve_loss_std": _rounded(curve.std(1, ddof=1)),
    }


def summary(metric: str, values: Numbers, best: float) -> dict[str, Any]:
    """Best, mean and standard deviation over the runs, under the names of the studies' JSON."""
    return {
        f"{metric}_best": float(best),
        f"{metric}_mean": float(values.mean()),
        f"{metric}_std": float(values.std(ddof=1)),
    }


def _train(config: CellsConfig, data: CorrelatedTasks, model: ArchitectureConfig, seed: int) -> Trained:
    runs, rates, tasks = len(data.weights), config.learning_rates, correlated_tasks()
    each = [rate for rate in rates for _ in range(runs)]
    ensemble = Ensemble(lambda: zoo.build(model, data.config.dimensions, tasks), tasks, each, seed)

    def draw(rows: int) -> Batch:
        x, y = data.draw(rows)
        return Batch((x.repeat(len(rates), 1, 1),), y.repeat(len(rates), 1, 1))

    losses = torch.stack([ensemble.step(draw(config.batch_size))[:, 0] for _ in range(config.steps)])
    curve = losses.view(config.points, -1, len(rates), runs).mean(1)
    pieces = [_squared_error(ensemble, draw(_ROWS)) for _ in range(max(1, config.held_out // _ROWS))]
    final = torch.stack(pieces).mean(0).view(len(rates), runs)
    return Trained(curve.double().numpy(), final.double().numpy())


def _squared_error(ensemble: Ensemble, batch: Batch) -> Tensor:
    logits = ensemble.predict(batch.inputs)
    return (logits - batch.labels).square().mean(1)[:, 0]


def _rounded(values: Numbers) -> list[float | None]:
    return [float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None for value in values]
