"""Predictions of a packaged model on a manifest, in one process: what promotion and `evaluate` compare."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ranking.config import RunConfig
from ranking.data.manifest import Manifest
from ranking.data.targets import groups, targets
from ranking.errors import InputError
from ranking.metrics import Predictions
from ranking.metrics.report import Array
from ranking.serving.ranker import Ranker


class ModelOutput(NamedTuple):
    """What a model says about the rows of a manifest.

    Attributes:
        predictions: of the tasks that model and configuration have, rows ascending.
        score: `[N]` fused score.
        missing: tasks of the configuration that the model does not predict, or of another kind.
        dropped: tasks of the model that the configuration has not, or of another kind: there are no labels for them.
    """

    predictions: Predictions
    score: Array
    missing: tuple[str, ...]
    dropped: tuple[str, ...]


def predict(ranker: Ranker, manifest: Manifest, config: RunConfig) -> Predictions:
    """Score every row with a model that has every task of the configuration, see `assess`.

    Raises:
        InputError: the model lacks a task of the configuration.
    """
    missing = [name for name in config.schema.task_names if name not in _shared(ranker, config)]
    if missing:
        raise InputError(f"schema.tasks: the model does not predict {missing}; it predicts {list(ranker.outputs)}")
    return assess(ranker, manifest, config).predictions


def assess(ranker: Ranker, manifest: Manifest, config: RunConfig) -> ModelOutput:
    """Score every row with a packaged model; labels and masks are the configuration's, features the model's own.

    Args:
        ranker: the model.
        manifest: the rows, with the columns of configuration and model; decoded a row group at a time.
        config: schema of the labels and how to read.

    Raises:
        InputError: a column is missing, or a value that the model cannot encode.
    """
    schema, shared = config.schema, _shared(ranker, config)
    manifest = narrowed(manifest, (*schema.columns(), *ranker.inputs))
    columns = [ranker.outputs.index(name) for name in shared]
    places = [schema.task_names.index(name) for name in shared]
    parts = []
    for raw in config.data.raw_rows(manifest):
        with raw.naming():
            labels, observed, masks = (found[:, places] for found in targets(schema, raw, lambda _key, _count: None))
            users, values = groups(schema, raw), ranker.values(raw.table, raw.row(0))
        parts.append((values[:, columns], values[:, -1], labels, masks, observed, users, raw.index))
    scores, fused, labels, masks, observed, users, index = (np.concatenate(part) for part in zip(*parts, strict=True))
    predictions = Predictions(
        names=shared,
        kinds=tuple(schema.task(name).kind for name in shared),
        scores=scores,
        labels=labels,
        in_space=masks,
        observed=observed,
        rows=index,
        groups=users if schema.user else None,
    )
    left = ([name for name in names if name not in shared] for names in (schema.task_names, ranker.schema.task_names))
    return ModelOutput(predictions, fused, *map(tuple, left))


def narrowed(manifest: Manifest, names: Collection[str]) -> Manifest:
    """The same rows with no more columns than those named."""
    return manifest.model_copy(update={"columns": pa.schema([f for f in manifest.columns if f.name in names])})


def _shared(ranker: Ranker, config: RunConfig) -> tuple[str, ...]:
    """Tasks that both have, of one kind, in the configuration's order."""
    kinds = {task.name: task.kind for task in ranker.schema.tasks}
    return tuple(task.name for task in config.schema.tasks if kinds.get(task.name) == task.kind)
