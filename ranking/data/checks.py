"""The doctor: what a look at the data says before any training, in one streaming pass and bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ranking.data.columns import Block, Float64
from ranking.data.drift import Drift, measure
from ranking.data.encode import Encoder
from ranking.data.findings import (
    LEVELS,
    DoctorReport,
    FeatureSummary,
    Finding,
    TaskSummary,
    leaks,
    of_drift,
    of_features,
    of_tasks,
)
from ranking.data.sketch import Sample
from ranking.data.targets import groups, targets
from ranking.data.transforms import Transforms
from ranking.errors import InputError
from ranking.schema import DenseFeature, Feature, Schema, Task


def examine(
    schema: Schema, transforms: Transforms, splits: Mapping[str, Iterable[pa.Table]], limit: int | None = None
) -> DoctorReport:
    """Examine every split, and compare the others' feature distributions with the first one's.

    Args:
        schema: of the data.
        transforms: fitted on the training split.
        splits: raw tables by name of the split, the training split first; each is read once.
        limit: rows read of each split at most; all when left out.

    Raises:
        InputError: the transforms do not fit the schema; whatever is wrong with the data becomes a finding.
    """
    encoder = Encoder(schema, transforms)
    seen = [_Split(name, encoder) for name in splits]
    for split, tables in zip(seen, splits.values(), strict=True):
        for table in _first(tables, limit):
            split.add(table)
    features = tuple(state.summary() for split in seen for state in split.features.values())
    tasks = tuple(state.summary() for split in seen if "tasks" not in split.errors for state in split.tasks.values())
    drift = tuple(_drift(schema, seen[0], seen[1:])) if seen else ()
    findings = [finding for split in seen for finding in split.findings()]
    findings += [*leaks(schema), *of_features(features), *of_tasks(schema, tasks), *of_drift(drift)]
    return DoctorReport(
        rows={split.name: split.rows for split in seen},
        tasks=tasks,
        features=features,
        drift=drift,
        findings=tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level))),
    )


class _Feature:
    """The running state of one feature in one split."""

    def __init__(self, split: str, feature: Feature, encoder: Encoder) -> None:
        self.split = split
        self.encoder = encoder
        self.feature = feature
        self.rows = self.empty = self.values = 0
        self.low, self.high = np.inf, -np.inf
        self.counters: Counter[str] = Counter()
        self.sample = Sample()

    def add(self, block: Block) -> None:
        """Count one block's values of the feature."""
        before = self.encoder.counters.copy()
        values, empty = _read(self.encoder, self.feature, block)
        self.counters += self.encoder.counters - before
        self.rows, self.empty, self.values = self.rows + len(block), self.empty + empty, self.values + values.size
        self.sample.add(values)
        present = values[~np.isnan(values)]
        if present.size:
            self.low, self.high = min(self.low, float(present.min())), max(self.high, float(present.max()))

    def summary(self) -> FeatureSummary:
        """Shares over all blocks so far."""
        name = self.feature.name
        return FeatureSummary(
            split=self.split,
            feature=name,
            rows=self.rows,
            null=self.empty / max(self.rows, 1),
            unknown=self.counters[f"{name}/unknown"] / max(self.values, 1),
            out_of_range=self.counters[f"{name}/out_of_range"] / max(self.values, 1),
            constant=self.low == self.high,
        )


class _Task:
    """The running sums of one task in one split."""

    def __init__(self, split: str, task: Task) -> None:
        self.split = split
        self.task = task
        self.entire = self.support = self.positives = self.outside = 0
        self.entire_sum = self.sum = 0.0

    def add(self, labels: Tensor, observed: Tensor, mask: Tensor) -> None:
        """Count one block's labels `[N]`, where they are observed `[N]` and inside the sample space `[N]`."""
        self.entire += int(observed.sum())
        self.entire_sum += float(labels.sum(dtype=torch.float64))
        self.support += int(mask.sum())
        self.sum += float(labels[mask].sum(dtype=torch.float64))
        if self.task.kind == "binary":
            self.positives += int(labels[mask].sum(dtype=torch.float64))
            self.outside += int((labels[observed & ~mask] == 1).sum())

    def summary(self) -> TaskSummary:
        """Rates and support over all blocks so far."""
        return TaskSummary(
            split=self.split,
            task=self.task.name,
            entire=self.entire,
            entire_mean=self.entire_sum / self.entire if self.entire else None,
            support=self.support,
            mean=self.sum / self.support if self.support else None,
            positives=self.positives,
            outside=self.outside,
        )


class _Split:
    """The running state of one split; an input error becomes one finding and ends the look at its place."""

    def __init__(self, name: str, encoder: Encoder) -> None:
        self.name = name
        self.encoder = encoder
        self.rows = 0
        self.features = {f.name: _Feature(name, f, encoder) for f in encoder.schema.features}
        self.tasks = {t.name: _Task(name, t) for t in encoder.schema.tasks}
        self.errors: dict[str, str] = {}

    def add(self, table: pa.Table) -> None:
        """Count the next rows of the split in every feature and task."""
        block = Block(table, np.arange(self.rows, self.rows + table.num_rows))
        self.rows += table.num_rows
        for feature in self.features.values():
            self._try(f"feature {feature.feature.name}", feature.add, block)
        self._try("tasks", self._labels, block)
        self._try("user", self._groups, block)

    def findings(self) -> Iterator[Finding]:
        for where, message in self.errors.items():
            yield Finding(level="error", where=f"{self.name}: {where}", message=message)

    def _labels(self, block: Block) -> None:
        labels, observed, masks = targets(self.encoder.schema, block, lambda *_: None)
        for place, task in enumerate(self.tasks.values()):
            task.add(labels[:, place], observed[:, place], masks[:, place])

    def _groups(self, block: Block) -> None:
        groups(self.encoder.schema, block)

    def _try(self, where: str, look: Callable[[Block], None], block: Block) -> None:
        if where in self.errors:
            return
        try:
            look(block)
        except InputError as error:
            self.errors[where] = str(error)


def _read(encoder: Encoder, feature: Feature, block: Block) -> tuple[Float64, int]:
    """What drift is measured on, raw numbers or table rows, and how many rows of the block are without a value."""
    if isinstance(feature, DenseFeature):
        encoder.dense(feature, block)  # for its checks
        numbers = block.column(feature.source).numbers()
        return numbers, int(np.isnan(numbers).sum())
    if feature.multi_hot:
        ragged = encoder.ragged(feature, block)
        return ragged.values.numpy().astype(np.float64), int((ragged.lengths == 0).sum())
    null = f"{feature.name}/null"
    before = encoder.counters[null]
    return encoder.ids(feature, block).astype(np.float64), encoder.counters[null] - before


def _first(tables: Iterable[pa.Table], limit: int | None) -> Iterator[pa.Table]:
    if limit is None:
        yield from tables
        return
    for table in tables:
        yield table.slice(0, limit)
        limit -= table.num_rows
        if limit <= 0:
            return


def _drift(schema: Schema, reference: _Split, others: Iterable[_Split]) -> Iterator[Drift]:
    for other in others:
        for feature in schema.features:
            samples = [split.features[feature.name].sample.values for split in (reference, other)]
            if all(sample.size for sample in samples):
                yield measure(other.name, feature.name, isinstance(feature, DenseFeature), *samples)
