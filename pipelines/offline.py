"""Predictions of a packaged model on a manifest, in one process: what promotion and `evaluate` compare."""

from __future__ import annotations

import numpy as np

from ranking.config import RunConfig
from ranking.data.columns import Block
from ranking.data.manifest import Manifest
from ranking.data.parquet import Decoder
from ranking.data.targets import groups, targets
from ranking.errors import InputError
from ranking.metrics import Predictions
from ranking.serving.ranker import Ranker


def predict(ranker: Ranker, manifest: Manifest, config: RunConfig) -> Predictions:
    """Score every row with a packaged model; labels and masks are the configuration's.

    Args:
        ranker: the model.
        manifest: the rows; decoded a row group at a time.
        config: schema of the labels and how to read.

    Raises:
        InputError: the model lacks a task of the configuration.
    """
    schema = config.schema
    missing = sorted(set(schema.task_names) - set(ranker.outputs))
    if missing:
        raise InputError(f"schema.tasks: the model does not predict {missing}; it predicts {list(ranker.outputs)}")
    columns = [ranker.outputs.index(name) for name in schema.task_names]
    decoder = Decoder(manifest, config.data.storage_options, verify_checksums=config.data.verify_checksums)
    parts = []
    starts = np.cumsum(manifest.row_groups) - manifest.row_groups
    for group, rows in enumerate(manifest.row_groups):
        table = decoder.read(np.array([[group, 0, rows]]))
        block = Block(table, np.arange(starts[group], starts[group] + rows))
        labels, observed, masks = targets(schema, block, lambda _key, _count: None)
        users = groups(schema, block)
        parts.append((ranker.values(table)[:, columns], labels, masks, observed, users, block.index))
    scores, labels, masks, observed, users, index = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Predictions(
        names=schema.task_names,
        kinds=tuple(task.kind for task in schema.tasks),
        scores=scores,
        labels=labels,
        in_space=masks,
        observed=observed,
        rows=index,
        groups=users if schema.user else None,
    )
