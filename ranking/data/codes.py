"""The four ways from raw ids to table rows: identity, hash, vocabulary, buckets; whole columns at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from ranking.data.columns import Column, Float64, null_mask
from ranking.data.hashing import Int64, UInt64, hash_keys, integers, to_rows
from ranking.data.transforms import KeyType, Transforms
from ranking.errors import InputError
from ranking.schema import Bucketised, CategoricalFeature, Hashed, Identity, Schema, Vocabulary

Count = Callable[[str, int], None]
Code = Callable[[Column, Count], Int64]  # rows [N] of the ids [N], possibly read-only; tells what it met how often


class KeyIndex:
    """Vocabulary: row i + 1 for key i, found by 64 bits (the integer, or the hash of the string); row 0 for others.

    Raises:
        InputError: a key stands twice in `keys`.
    """

    def __init__(self, table: str, keys: pa.Array) -> None:
        """Index the distinct `keys`."""
        self.table = table
        self.type = keys.type
        self.size = len(keys)
        self._index = pd.Index(_key_bits(keys))
        if not self._index.is_unique:
            raise InputError(f"vocabulary of table {table!r}: a key twice; expected distinct keys")
        self._index.get_indexer(self._index[:1])  # builds the hash table before threads share it

    def __call__(self, column: Column, count: Count) -> Int64:
        """Rows `[N]` of the column's keys."""

        def find(keys: pa.Array) -> Int64:
            fitted = str(self.type) if self.size else None
            _require_type(column, keys, fitted, f"the vocabulary of table {self.table!r} was")
            return self._index.get_indexer(pd.Index(_key_bits(keys))).astype(np.int64) + 1

        rows, nulls = column.coded(find, null=0)
        count("null", nulls)
        count("unknown", rows.size - nulls - int(np.count_nonzero(rows)))
        return rows


def _require_type(column: Column, keys: pa.Array, fitted: str | None, what: str) -> None:
    """Refuse keys of another type than what was fitted on; nulls have none."""
    if fitted and str(keys.type) != fitted and keys.null_count < len(keys):
        raise column.wrong_type(f"{fitted}, as {what} fitted on")


def _key_bits(keys: pa.Array) -> UInt64:
    return hash_keys(keys) if pa.types.is_large_string(keys.type) else integers(keys).view(np.uint64)


@dataclass(frozen=True)
class _HashCode:
    """Rows 1 .. rows-1 by hash; row 0 for null. `type` is of the keys, None where there were none to fit on."""

    rows: int
    seed: int
    type: KeyType | None

    def __call__(self, column: Column, count: Count) -> Int64:
        def find(keys: pa.Array) -> Int64:
            _require_type(column, keys, self.type, "the transforms were")
            return to_rows(hash_keys(keys, self.seed), self.rows)

        rows, nulls = column.coded(find, null=0)
        count("null", nulls)
        return rows


@dataclass(frozen=True)
class _IdentityCode:
    """The id is the row."""

    rows: int
    wrap: bool

    def __call__(self, column: Column, count: Count) -> Int64:
        keys = column.keys()
        if pa.types.is_large_string(keys.type):
            raise column.wrong_type("integers, as identity says; hash and vocabulary take strings")
        missing = null_mask(keys)
        if missing is not None:
            raise column.bad(int(missing.argmax()), "an id: identity has no row for null, use hash or vocabulary")
        ids = integers(keys)
        if pa.types.is_uint64(column.values.type):
            ids = ids.view(np.uint64)
        if ids.view(np.uint64).max(initial=0) >= self.rows:  # the negative ones are the largest
            outside = (ids < 0) | (ids >= self.rows)
            if not self.wrap:
                raise column.bad(int(outside.argmax()), f"an id in [0, {self.rows})")
            count("out_of_range", int(outside.sum()))
            ids = np.mod(ids, ids.dtype.type(self.rows))
        return ids.view(np.int64)


@dataclass(frozen=True)
class _BucketCode:
    """1 + how many boundaries are <= the number; row 0 for null."""

    boundaries: Float64

    def __call__(self, column: Column, count: Count) -> Int64:
        values = column.numbers()
        rows: Int64 = np.searchsorted(self.boundaries, values, side="right")
        rows += 1
        missing = np.isnan(values)
        if missing.any():
            rows[missing] = 0
            count("null", int(missing.sum()))
        return rows


def code_of(
    feature: CategoricalFeature, schema: Schema, transforms: Transforms, indexes: Mapping[str, KeyIndex]
) -> Code:
    """The code of one feature; `indexes` by table name are shared by the features that share a table."""
    rows = transforms.table_rows(schema, feature.table_name)
    match feature.encoding:
        case Identity(out_of_range=rule):
            return _IdentityCode(rows, rule == "modulo")
        case Hashed(seed=seed):
            return _HashCode(rows, seed, transforms.hashed.get(feature.name))
        case Vocabulary():
            return indexes[feature.table_name]
        case Bucketised():
            return _BucketCode(np.array(transforms.boundaries[feature.name]))
