"""Trains many networks of one cell at once and scores them."""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pipelines.studies.census.config import Cell
from pipelines.studies.census.table import Lookup, Split, Splits
from ranking.metrics import roc_auc
from ranking.models import zoo
from ranking.models.ranker import RankingModel
from ranking.training.average import WeightAverage
from ranking.training.config import ScheduleConfig
from ranking.training.ensemble import Batch, Ensemble, shuffles
from ranking.training.optimizer import factor

Numbers = npt.NDArray[np.float64]


class Trained:
    """R runs of a cell after training.

    Every run has its own initial weights and its own dropout; all runs of one call see the rows in the same order.

    Args:
        cell: settings.
        splits: rows; only those of `train` are used here.
        runs: R, each of `cell.members` networks.
        seed: of initial weights, order of the rows and dropout.
    """

    def __init__(self, cell: Cell, splits: Splits, runs: int, seed: int) -> None:
        """Train them."""
        self.cell, self.runs = cell, runs
        networks = runs * cell.members
        self.ensemble = Ensemble(
            lambda: network(cell, splits),
            splits.schema.tasks,
            [cell.learning_rate] * networks,
            seed,
            weight_decay=cell.weight_decay,
        )
        with torch.random.fork_rng(devices=[]), self._precision():
            torch.manual_seed(seed)
            self._fit(splits.train, seed)

    def probabilities(self, split: Split) -> Numbers:
        """`[R, N, T]`, of every run the mean over its members."""
        with self._precision():
            logits = self.ensemble.predict((split.ids, split.dense), shared=True)
        probabilities = torch.sigmoid(logits.double()).unflatten(0, (self.runs, self.cell.members))
        return probabilities.mean(1).numpy()

    def _fit(self, rows: Split, seed: int) -> None:
        cell, table = self.cell, Batch((rows.ids, rows.dense), rows.labels, shared=True)
        batch = min(cell.batch_size, len(rows.ids))
        total = cell.epochs * (len(rows.ids) // batch)
        schedule = ScheduleConfig(type="cosine", warmup_steps=int(cell.warmup * total))
        average = WeightAverage(self.ensemble.parameters, cell.average)
        for step, (order,) in zip(range(total), shuffles(len(rows.ids), 1, batch, seed), strict=False):
            self.ensemble.step(table.take(order), factor(schedule, step, total))
            average.update()
        self.ensemble.load(average.state)

    def _precision(self) -> AbstractContextManager[None]:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.cell.precision == "bf16")


def areas(probabilities: Numbers, split: Split) -> Numbers:
    """AUC `[R, T]` of every run and task from `[R, N, T]`; NaN where a run diverged."""
    labels = split.labels.numpy()
    found = [[roc_auc(scores[:, task], labels[:, task]) for task in range(labels.shape[1])] for scores in probabilities]
    return np.array(found, dtype=float)  # None becomes NaN


def network(cell: Cell, splits: Splits) -> nn.Module:
    """One network with fresh weights: the production model over one table."""
    schema, config = splits.schema, cell.model
    dtype = torch.bfloat16 if cell.precision == "bf16" else torch.float32
    copies = len(zoo.prefixes(config, schema.tasks))
    lookup = Lookup(splits.rows, schema.embedding_dim, copies, dtype)
    return RankingModel(lookup, zoo.build(config, schema.input_width, schema.tasks))
