"""One-pass summaries of a stream of values: moments, value counts, and a bounded sample for quantiles."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ranking.data.columns import Column, Float64
from ranking.data.hashing import UInt64, splitmix64

SAMPLE_SIZE = 100_000
_MERGE_AT = 1_000_000


class Moments:
    """Count, range, mean and variance of all values added, merged pairwise [Chan, Golub, LeVeque 1979]."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.count = 0
        self.minimum = np.inf
        self.maximum = -np.inf
        self.mean = 0.0
        self._squares = 0.0

    @property
    def std(self) -> float:
        """Population standard deviation; exactly 0 when all values are equal."""
        return 0.0 if self.minimum >= self.maximum else float(np.sqrt(self._squares / self.count))

    def add(self, values: Float64) -> None:
        """Take in `values` `[N]`, leaving out NaN."""
        values = values[~np.isnan(values)]
        if not values.size:
            return
        mean, total = float(values.mean()), self.count + values.size
        delta = mean - self.mean
        self._squares += float(np.square(values - mean).sum()) + delta**2 * self.count * values.size / total
        self.mean += delta * values.size / total
        self.count = total
        self.minimum = min(self.minimum, float(values.min()))
        self.maximum = max(self.maximum, float(values.max()))


class Sample:
    """A uniform sample without replacement of at most `size` values; all of them while there are no more.

    Each value draws a priority from its place in the stream and the smallest stay (bottom-k), so the sample depends
    on the stream alone, not on how it was cut into batches.
    """

    def __init__(self, size: int = SAMPLE_SIZE) -> None:
        """An empty sample."""
        self.size = size
        self.seen = 0
        self.values: Float64 = np.empty(0, np.float64)
        self._priority: UInt64 = np.empty(0, np.uint64)

    def add(self, values: Float64) -> None:
        """Take in `values` `[N]`, NaN included."""
        priority = splitmix64(np.arange(self.seen, self.seen + values.size, dtype=np.uint64))
        self.seen += values.size
        if self._priority.size == self.size:
            likely = priority < self._priority.max()
            priority, values = priority[likely], values[likely]
        self.values = np.concatenate([self.values, values])
        self._priority = np.concatenate([self._priority, priority])
        if self.values.size > self.size:
            kept = np.argpartition(self._priority, self.size)[: self.size]
            self.values, self._priority = self.values[kept], self._priority[kept]


class ValueCounts:
    """How often each key was seen; memory grows with the distinct keys only."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._parts: list[pa.Table] = []
        self._column = ""

    def add(self, column: Column) -> None:
        """Count the column's keys, leaving out nulls.

        Raises:
            InputError: the keys are strings where those before were integers, or the reverse.
        """
        counts = column.keys().drop_null().value_counts()
        if not len(counts):
            return
        part = pa.table({"value": counts.field("values"), "count": counts.field("counts")})
        if self._parts and self._parts[0].schema != part.schema:
            expected = self._parts[0].schema.field("value").type
            raise column.wrong_type(f"{expected}, as {self._column!r} of the same table had before")
        self._column = self._column or column.name
        self._parts.append(part)
        if sum(len(part) for part in self._parts[1:]) > max(_MERGE_AT, len(self._parts[0])):
            self._parts = [self._merged()]

    def most_frequent(self, min_count: int) -> pa.Array:
        """Keys seen at least `min_count` times, by descending count, then ascending key."""
        if not self._parts:
            return pa.nulls(0, pa.int64())
        merged = self._merged()
        merged = merged.filter(pc.greater_equal(merged["count"], min_count))
        order = pc.sort_indices(merged, sort_keys=[("count", "descending"), ("value", "ascending")])
        return pa.concat_arrays(merged["value"].take(order).chunks or [pa.nulls(0, merged["value"].type)])

    def _merged(self) -> pa.Table:
        merged = pa.concat_tables(self._parts).group_by("value").aggregate([("count", "sum")])
        return merged.rename_columns({"count_sum": "count"}).select(["value", "count"])
