"""The one encoder of training and serving: raw Arrow columns to table rows, scaled numbers, labels and masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from threading import Lock

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from ranking.data.codes import Count, KeyIndex, code_of
from ranking.data.columns import FLOAT32_MAX, Bool, Float, Float64, Int32, Lists, RawRows, RowError
from ranking.data.hashing import Int64
from ranking.data.targets import groups, targets
from ranking.data.transforms import Statistics, Transforms, compress
from ranking.errors import InputError
from ranking.rows import Ragged, Rows
from ranking.schema import CategoricalFeature, DenseFeature, Schema

Features = tuple[Tensor, tuple[Ragged, ...], Tensor]


class Encoder:
    """Encodes raw rows by a schema and what was fitted for it. Any number of threads may share one.

    Attributes:
        counters: how many values were `<feature>/null`, `<feature>/unknown` (not in the vocabulary) or
            `<feature>/out_of_range` (wrapped), and labels `<task>/unobserved`, since construction.
    """

    def __init__(self, schema: Schema, transforms: Transforms) -> None:
        """Prepare lookups.

        Raises:
            InputError: the transforms do not fit the schema.
        """
        transforms.check(schema)
        self.schema = schema
        self.transforms = transforms
        self.counters: Counter[str] = Counter()
        self._lock = Lock()
        self._single = tuple(f for f in schema.categorical if not f.multi_hot)
        self._multi = tuple(f for f in schema.categorical if f.multi_hot)
        indexes = {table: KeyIndex(table, keys) for table, keys in transforms.vocabularies.items()}
        self._codes = {f.name: code_of(f, schema, transforms, indexes) for f in schema.categorical}

    def features(self, table: pa.Table, index: Tensor | None = None) -> Features:
        """Encode what a request carries; labels need not be there.

        Args:
            table: N rows with at least `schema.feature_columns()`.
            index: `[N]` int64 row numbers for messages; positions in `table` when left out.

        Returns:
            ids `[S, N]` int32; the multi-hot features; dense `[N, D]` float32, never NaN.

        Raises:
            InputError: naming column and, where a value is to blame, its row and the value.
        """
        raw = RawRows(table, None if index is None else index.numpy())
        return self._ids(raw), self._lists(raw), self._dense(raw)

    def rows(self, table: pa.Table, index: Tensor, order: Tensor | None = None) -> Rows:
        """Encode N rows whole.

        Args:
            table: with all of `schema.columns()`.
            index: `[N]` int64, their numbers in the manifest.
            order: `[M]` int64, which of them to return, and in what order; all as they stand when left out.

        Raises:
            InputError: as `features`, and for labels.
        """
        if order is not None and len(order) and order.min() < 0:
            raise IndexError(f"order: got {int(order.min())}; expected places of {len(table)} rows")
        raw = RawRows(table, index.numpy())
        labels, observed, masks = targets(self.schema, raw, self._count)
        rows = Rows(
            ids=torch.empty(0, len(raw), dtype=torch.int32),  # they follow, each column in order by itself
            lists=self._lists(raw),
            dense=self._dense(raw),
            labels=labels,
            observed=observed,
            masks=masks,
            groups=groups(self.schema, raw),
            index=index,
        )
        return replace(rows if order is None else rows.take(order), ids=self._ids(raw, order))

    def _ids(self, raw: RawRows, order: Tensor | None = None) -> Tensor:
        """`[S, M]`; every column is put in order while the cache has it."""
        ids = np.empty((len(self._single), len(raw) if order is None else len(order)), np.int32)
        for place, feature in enumerate(self._single):
            rows = self.ids(feature, raw)
            if order is None:
                ids[place] = rows
            else:  # "clip" only spares numpy a buffer: whatever lies outside has failed in `rows`
                rows.astype(np.int32).take(order.numpy(), out=ids[place], mode="clip")
        return torch.from_numpy(ids)

    def _lists(self, raw: RawRows) -> tuple[Ragged, ...]:
        return tuple(self.ragged(feature, raw) for feature in self._multi)

    def _dense(self, raw: RawRows) -> Tensor:
        dense, place = np.empty((len(raw), self.schema.dense_width), np.float32), 0
        for number in self.schema.dense:
            self.dense(number, raw, dense[:, place : place + number.width])
            place += number.width
        return torch.from_numpy(dense)

    def ids(self, feature: CategoricalFeature, raw: RawRows) -> Int64:
        """Table rows `[N]` of one single-valued feature; possibly read-only."""
        column = raw.column(feature.source)
        return self._codes[feature.name](column, self._counted(feature.name))

    def ragged(self, feature: CategoricalFeature, raw: RawRows) -> Ragged:
        """Table rows and weights of one multi-hot feature, its pooling folded into the weights."""
        lists = raw.lists(feature.source)
        present, kept = lists.present()
        self._count(f"{feature.name}/null", len(lists.values) - len(present.values))
        rows = self._codes[feature.name](present.column, self._counted(feature.name))
        values, lengths = torch.from_numpy(rows.astype(np.int32)), torch.from_numpy(present.lengths)
        if not self.schema.weighted:
            return Ragged(values, lengths)
        weights = _declared(feature, raw, lists, kept) if feature.weights else np.ones(rows.size)
        return Ragged(values, lengths, torch.from_numpy(_pooled(feature, present.lengths, weights)))

    def dense(self, feature: DenseFeature, raw: RawRows, out: npt.NDArray[np.float32]) -> None:
        """Write the inputs `[N, width]` of one dense feature, the indicator last."""
        column = raw.column(feature.source)
        statistics = self.transforms.statistics[feature.name]
        numbers, missing = column.finite_and_missing()
        values = compress(feature, numbers)
        if missing is not None:
            if feature.null == "reject":
                raise column.bad(int(missing.argmax()), "a number, as `null: reject` says")
            self._count(f"{feature.name}/null", int(missing.sum()))
            values = np.where(missing, statistics.mean if feature.null == "mean" else 0.0, values)
        if feature.scale == "piecewise":
            out[:, : feature.pieces] = _pieces(feature, self.transforms.boundaries[feature.name], values)
        else:
            out[:, 0] = _scale(feature, statistics, values)
        if feature.indicator:
            out[:, -1] = 0.0 if missing is None else missing

    def _counted(self, feature: str) -> Count:
        return lambda what, number: self._count(f"{feature}/{what}", number)

    def _count(self, key: str, number: int) -> None:
        if number:
            with self._lock:
                self.counters[key] += number


def as_table(data: pa.Table | pd.DataFrame | Mapping[str, object]) -> pa.Table:
    """A request as an Arrow table: a table, a data frame (lists in its cells), or columns by name.

    Raises:
        InputError: a column mixes types, is there twice, or holds what no type of Arrow does.
    """
    try:
        if isinstance(data, pa.Table):
            return data
        if isinstance(data, pd.DataFrame):
            return pa.Table.from_pandas(data, preserve_index=False)
        return pa.table({name: pa.array(values, from_pandas=True) for name, values in data.items()})
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        text = "; ".join(str(part) for part in error.args)
        raise InputError(f"{text}; expected numbers, strings or lists of them, one type a column") from None


def _scale(feature: DenseFeature, fitted: Statistics, values: Float) -> Float:
    """`values` `[N]` by the feature's rule; all 0 where the fitted column was constant, or as good as that."""
    if feature.scale == "none":
        return values
    if not fitted.varies:
        return np.zeros_like(values)
    if feature.scale == "minmax":
        return np.clip(_minus(values, fitted.minimum) / (fitted.maximum - fitted.minimum), 0.0, 1.0)
    return np.clip(_minus(values, fitted.mean) / fitted.std, -FLOAT32_MAX, FLOAT32_MAX)


def _minus(values: Float, number: float) -> Float64:
    """The difference in float64: what a column is stored as must not show."""
    return np.subtract(values, number, dtype=np.float64)


def _pieces(feature: DenseFeature, ends: tuple[float, ...], values: Float) -> npt.NDArray[np.float32]:
    """How much of every piece `[N, pieces]` lies below the value; pieces that ties left out are always 0."""
    out, places = np.zeros((len(values), feature.pieces), np.float32), np.array(ends)
    with np.errstate(over="ignore"):  # a piece may be as narrow as float64 goes
        out[:, : max(0, len(ends) - 1)] = np.clip((values[:, None] - places[:-1]) / np.diff(places), 0.0, 1.0)
    return out


def _declared(feature: CategoricalFeature, raw: RawRows, ids: Lists, kept: Bool | None) -> Float64:
    """The per-id weights `[V]` of the feature's `weights` column, without those of null ids."""
    lists = raw.lists(feature.weights)
    unequal = lists.lengths != ids.lengths
    if unequal.any():
        place = int(unequal.argmax())
        raise RowError(
            f"column {feature.weights!r}",
            raw.row(place),
            f"got {lists.lengths[place]} weights; expected {ids.lengths[place]}, one for each id in column "
            f"{feature.source!r}",
        )
    weights, missing = lists.column.finite_and_missing()
    if missing is not None and (missing := missing if kept is None else missing & kept).any():
        raise lists.column.bad(int(missing.argmax()), "a number")
    if feature.pooling == "mean" and (weights < 0).any():
        raise lists.column.bad(int((weights < 0).argmax()), "a weight >= 0, as `pooling: mean` divides by their sum")
    return (weights if kept is None else weights[kept]).astype(np.float64, copy=False)


def _pooled(feature: CategoricalFeature, lengths: Int32, weights: Float64) -> npt.NDArray[np.float32]:
    """Per-id weights `[V]` after pooling: w, w / sum(w) or w / sqrt(sum(w^2)) of each list; 0 where the sum is 0."""
    if feature.pooling != "sum":
        rows = np.repeat(np.arange(lengths.size), lengths)
        terms = weights if feature.pooling == "mean" else np.square(weights)
        total = np.bincount(rows, terms, lengths.size)
        norm = (total if feature.pooling == "mean" else np.sqrt(total))[rows]
        weights = np.divide(weights, norm, out=np.zeros_like(weights), where=norm != 0)
    return np.clip(weights, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)
