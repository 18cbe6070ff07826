"""What columns made of a label share: folds, so that no training row's columns tell of its own label, and checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ranking.data.hashing import Int64, hash_keys
from ranking.errors import InputError

Float64 = npt.NDArray[np.float64]


def assign(rows: int, count: int, seed: int, where: str) -> Int64:
    """`[rows]`, each training row's fold of `count`; `where` is the section of the configuration, for messages.

    Raises:
        InputError: all rows fall into one.
    """
    found = (hash_keys(pa.array(np.arange(rows)), seed) % np.uint64(count)).astype(np.int64)
    if np.unique(found).size < 2:
        raise InputError(f"{where}.folds: got {rows} training rows; expected enough for two folds")
    return found


def in_order(splits: Mapping[str, pa.Table]) -> list[str]:
    """Names of the splits, `train` first."""
    return ["train", *(name for name in splits if name != "train")]


def append(splits: Mapping[str, pa.Table], columns: Mapping[str, Float64]) -> dict[str, pa.Table]:
    """Every split with its part of the columns `[N]`, float32, whose rows are those of the splits `in_order`."""
    start, appended = 0, {}
    for split in in_order(splits):
        table = splits[split]
        stop = start + len(table)
        for name, values in columns.items():
            table = table.append_column(name, pa.array(values[start:stop].astype(np.float32)))
        appended[split], start = table, stop
    return appended


def is_number(kind: pa.DataType) -> bool:
    """Whether values of this type have an order that says something."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def require_known(where: str, names: Collection[str], known: Collection[str]) -> None:
    """Raise InputError where a name is not among those known; `where` is the configuration's key."""
    if unknown := sorted(set(names) - set(known)):
        raise InputError(f"{where}: got {unknown}; expected some of {sorted(known)}")


def require_labels(where: str, labels: Collection[str], train: pa.Table) -> None:
    """Raise InputError where one is no boolean column, or has nulls."""
    boolean = [field.name for field in train.schema if pa.types.is_boolean(field.type)]
    require_known(f"{where}.labels", labels, boolean)
    for label in labels:
        if nulls := train[label].null_count:
            raise InputError(f"{where}.labels: {label!r}: got {nulls} nulls; expected true or false in every row")


def require_new(where: str, names: Collection[str], schema: pa.Schema) -> None:
    """Raise InputError where two of the names, or a name and a column, are the same."""
    if twice := [name for name, times in Counter([*names, *schema.names]).items() if times > 1]:
        raise InputError(f"{where}: got {sorted(twice)} twice; expected a name of its own for everything made")
