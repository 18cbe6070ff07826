"""A profile of one data set: rows, label rates, shares of missing values, and a bounded sample of every feature."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ranking.data.columns import Float64, RawRows
from ranking.data.encode import Encoder
from ranking.data.findings import FeatureSummary, Finding, TaskSummary
from ranking.data.sketch import SAMPLE_SIZE, Sample
from ranking.data.targets import groups, targets
from ranking.errors import InputError, one_line
from ranking.schema import DenseFeature, Feature, Task

_FEATURE = "feature:"  # before every name in the file of samples: numpy has keywords that a feature may be named


@dataclass(frozen=True, eq=False)
class Profile:
    """What one streaming pass over a data set saw.

    Attributes:
        name: of the data set, such as the split.
        rows: rows looked at.
        tasks: label rates; empty where the labels could not be read.
        features: shares of missing and unknown values.
        samples: `[<= sample]` values of every feature by name: raw numbers with NaN, or table rows of ids.
        errors: what could not be read, by place.
    """

    name: str
    rows: int
    tasks: tuple[TaskSummary, ...]
    features: tuple[FeatureSummary, ...]
    samples: Mapping[str, Float64]
    errors: Mapping[str, str]

    @classmethod
    def of(
        cls,
        name: str,
        encoder: Encoder,
        tables: Iterable[RawRows | pa.Table],
        limit: int | None = None,
        sample: int = SAMPLE_SIZE,
    ) -> Profile:
        """Read `tables` once, in bounded memory.

        Args:
            name: of the data set.
            encoder: turns ids into table rows; two profiles compare where it is the same.
            tables: raw rows.
            limit: rows read at most; all when left out.
            sample: values of a feature that are kept.
        """
        split = _Split(name, encoder, sample)
        for table in tables:
            raw = RawRows.of(table, split.rows)
            split.add(raw if limit is None else raw.head(limit - split.rows))
            if split.rows == limit:
                break
        return split.profile()

    def findings(self) -> Iterator[Finding]:
        """What could not be read, as errors."""
        for where, message in self.errors.items():
            yield Finding(level="error", where=f"{self.name}: {where}", message=message)

    def save(self, directory: Path) -> None:
        """Write `profile.json` and `samples.npz` into a local directory; both or neither count."""
        directory.mkdir(parents=True, exist_ok=True)
        content = {
            "name": self.name,
            "rows": self.rows,
            "tasks": [task.model_dump() for task in self.tasks],
            "features": [feature.model_dump() for feature in self.features],
        }
        with (directory / "samples.npz").open("wb") as file:
            named = {f"{_FEATURE}{name}": values for name, values in self.samples.items()}
            np.savez_compressed(file, allow_pickle=False, **named)
        (directory / "profile.json").write_text(json.dumps(content))

    @classmethod
    def load(cls, directory: Path) -> Profile:
        """Read what `save` wrote.

        Raises:
            InputError: a file is missing or damaged.
        """
        try:
            content: dict[str, Any] = json.loads((directory / "profile.json").read_text())
            with np.load(directory / "samples.npz", allow_pickle=False) as file:
                samples = {name.removeprefix(_FEATURE): file[name] for name in file.files}
            tasks = tuple(TaskSummary(**task) for task in content["tasks"])
            features = tuple(FeatureSummary(**feature) for feature in content["features"])
            return cls(content["name"], content["rows"], tasks, features, samples, {})
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = one_line(error)
            raise InputError(f"{directory}: got {reason!r}; expected the profile of a data set") from None


class _Feature:
    """The running state of one feature in one split."""

    def __init__(self, split: str, feature: Feature, encoder: Encoder, sample: int) -> None:
        self.split = split
        self.encoder = encoder
        self.feature = feature
        self.rows = self.empty = self.values = 0
        self.low, self.high = np.inf, -np.inf
        self.counters: Counter[str] = Counter()
        self.sample = Sample(sample)

    def add(self, raw: RawRows) -> None:
        """Count one block's values of the feature."""
        before = self.encoder.counters.copy()
        values, empty = _read(self.encoder, self.feature, raw)
        self.counters += self.encoder.counters - before
        self.rows, self.empty, self.values = self.rows + len(raw), self.empty + empty, self.values + values.size
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

    def __init__(self, name: str, encoder: Encoder, sample: int) -> None:
        self.name = name
        self.encoder = encoder
        self.rows = 0
        self.features = {f.name: _Feature(name, f, encoder, sample) for f in encoder.schema.features}
        self.tasks = {t.name: _Task(name, t) for t in encoder.schema.tasks}
        self.errors: dict[str, str] = {}

    def add(self, raw: RawRows) -> None:
        """Count the next rows of the split in every feature and task."""
        self.rows += len(raw)
        for feature in self.features.values():
            self._try(f"feature {feature.feature.name}", feature.add, raw)
        self._try("tasks", self._labels, raw)
        self._try("user", self._groups, raw)

    def profile(self) -> Profile:
        """What was seen so far."""
        return Profile(
            name=self.name,
            rows=self.rows,
            tasks=() if "tasks" in self.errors else tuple(task.summary() for task in self.tasks.values()),
            features=tuple(feature.summary() for feature in self.features.values()),
            samples={name: feature.sample.values for name, feature in self.features.items()},
            errors=dict(self.errors),
        )

    def _labels(self, raw: RawRows) -> None:
        labels, observed, masks = targets(self.encoder.schema, raw, lambda *_: None)
        for place, task in enumerate(self.tasks.values()):
            task.add(labels[:, place], observed[:, place], masks[:, place])

    def _groups(self, raw: RawRows) -> None:
        groups(self.encoder.schema, raw)

    def _try(self, where: str, look: Callable[[RawRows], None], raw: RawRows) -> None:
        if where in self.errors:
            return
        try:
            look(raw)
        except InputError as error:
            self.errors[where] = raw.named(error)


def _read(encoder: Encoder, feature: Feature, raw: RawRows) -> tuple[Float64, int]:
    """What drift is measured on, raw numbers or table rows, and how many rows of the block are without a value."""
    if isinstance(feature, DenseFeature):
        encoder.dense(feature, raw, np.empty((len(raw), feature.width), np.float32))  # for its checks
        numbers = raw.column(feature.source).numbers()
        return numbers, int(np.isnan(numbers).sum())
    if feature.multi_hot:
        ragged = encoder.ragged(feature, raw)
        return ragged.values.numpy().astype(np.float64), int((ragged.lengths == 0).sum())
    null = f"{feature.name}/null"
    before = encoder.counters[null]
    return encoder.ids(feature, raw).astype(np.float64), encoder.counters[null] - before
