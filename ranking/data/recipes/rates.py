"""Rates of a label among the training rows that share some columns' values ("target encoding"), for tables of people.

A training row's rates come from the folds it is not in, so that none tells of its own label; other rows' from all of
training. A rate of several columns is smoothed towards that of all but the last, and so on to the label's mean:
(positives + strength * prior) / (rows + strength) [Micci-Barreca, SIGKDD Explorations 2001].
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Annotated

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field, field_validator

from ranking.data.hashing import Int64
from ranking.data.recipes import folds
from ranking.data.recipes.folds import Float64, is_number
from ranking.schema import Frozen

Key = Annotated[tuple[str, ...], Field(min_length=1)]

_CERTAIN = 1e-5  # rates nearer to 0 or 1 are taken for this, so that their log-odds stay finite


class Buckets(Frozen):
    """A number as a part of keys."""

    column: str = Field(description="Column of the number.")
    boundaries: tuple[float, ...] = Field(min_length=1, description="Rising; a bucket holds its lower boundary.")

    @field_validator("boundaries")
    @classmethod
    def _rise(cls, boundaries: tuple[float, ...]) -> tuple[float, ...]:
        if not all(low < high for low, high in pairwise((-math.inf, *boundaries, math.inf))):
            raise ValueError("expected finite numbers that rise")
        return boundaries


class RatesConfig(Frozen):
    """Which rates to add, for every label and key a column `<label>_by_<column>_<column>_...` of log-odds."""

    labels: tuple[str, ...] = Field(min_length=1, description="Columns of 0 and 1 to take rates of.")
    keys: tuple[Key, ...] = Field(min_length=1, description="Columns, or names in `buckets`, that together are a key.")
    buckets: dict[str, Buckets] = Field({}, description="Numbers cut into bands, by the name that keys give them.")
    folds: int = Field(10, ge=2, description="Parts of the training rows; each part's rates come from the others.")
    strength: float = Field(8.0, gt=0, description="Rows that the prior weighs.")
    seed: int = Field(0, description="Of the folds.")

    def columns(self, label: str) -> list[str]:
        """Names of the columns made of a label."""
        return [_name(label, key) for key in self.keys]


def append_rates(
    splits: Mapping[str, pa.Table], config: RatesConfig, hidden: Collection[str] = ()
) -> dict[str, pa.Table]:
    """Append the columns of `config` to every split, float32.

    Args:
        splits: tables of the same columns, `train` among them; the labels are boolean.
        config: labels and keys.
        hidden: columns that no key may hold, beside the labels of `config`.

    Raises:
        InputError: a label or a column is missing, a label has nulls, a bucket's column no numbers, a key holds a
            label, a name is taken, or training has too few rows.
    """
    _check(config, splits["train"], {*hidden, *config.labels})
    order = folds.in_order(splits)
    names = dict.fromkeys(name for key in config.keys for name in key)
    codes = {name: _codes([splits[each] for each in order], name, config.buckets.get(name)) for name in names}
    found: dict[str, Float64] = {}
    for label in config.labels:
        rates = _rates(splits["train"][label].to_numpy().astype(np.float64), codes, config)
        found |= {_name(label, key): rate for key, rate in rates.items()}
    return folds.append(splits, found)


def _rates(label: Float64, codes: Mapping[str, Int64], config: RatesConfig) -> dict[Key, Float64]:
    """Log-odds `[N]` of every key over all rows; the first are those of training, with labels `[M]` of 0 and 1."""
    rows, train = len(next(iter(codes.values()))), len(label)
    fold = folds.assign(train, config.folds, config.seed, "recipe.rates")

    @cache
    def groups(key: Key) -> Int64:
        """`[N]`, one number for all rows of the same values."""
        if not key:
            return np.zeros(rows, np.int64)
        joined = groups(key[:-1]) * (codes[key[-1]].max() + 1) + codes[key[-1]]
        return np.asarray(pd.factorize(joined)[0], np.int64)

    def sums(group: Int64, values: Float64) -> Float64:
        """`[N]`, of the values `[M]` of training in each row's group, without the row's own fold."""
        mine = group[:train] * config.folds + fold
        total = np.bincount(group[:train], values, group.max() + 1).astype(np.float64)[group]
        total[:train] -= np.bincount(mine, values)[mine]
        return total

    @cache
    def rate(key: Key) -> Float64:
        prior, strength = (rate(key[:-1]), config.strength) if key else (np.zeros(rows), 0.0)
        group = groups(key)
        return (sums(group, label) + strength * prior) / (sums(group, np.ones(train)) + strength)

    return {key: _log_odds(rate(key)) for key in config.keys}


def _log_odds(rate: Float64) -> Float64:
    bounded = rate.clip(_CERTAIN, 1 - _CERTAIN)
    odds: Float64 = np.log(bounded / (1 - bounded))
    return odds


def _codes(tables: Sequence[pa.Table], name: str, buckets: Buckets | None) -> Int64:
    """`[N]`, a number for every value, of the tables' rows one after another."""
    column = name if buckets is None else buckets.column
    values = pd.concat([table[column].to_pandas() for table in tables], ignore_index=True)
    if buckets is not None:
        numbers, beyond = values.to_numpy(np.float64), len(buckets.boundaries) + 1
        return np.where(np.isnan(numbers), beyond, np.digitize(numbers, buckets.boundaries))
    return np.asarray(pd.factorize(values, use_na_sentinel=False)[0], np.int64)


def _name(label: str, key: Key) -> str:
    return f"{label}_by_{'_'.join(key)}"


def _check(config: RatesConfig, train: pa.Table, hidden: Collection[str]) -> None:
    where, columns = "recipe.rates", set(train.schema.names) - set(hidden)
    numbers = [name for name in columns if is_number(train.schema.field(name).type)]
    folds.require_labels(where, config.labels, train)
    for name, buckets in config.buckets.items():
        folds.require_known(f"{where}.buckets.{name}.column", [buckets.column], numbers)
    folds.require_known(f"{where}.keys", [name for key in config.keys for name in key], [*columns, *config.buckets])
    made = [*config.buckets, *(name for label in config.labels for name in config.columns(label))]
    folds.require_new(where, made, train.schema)
