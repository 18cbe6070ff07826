"""Log-odds of gradient-boosted trees as a column, for tables of people.

A network that reads what trees make of its row is a hybrid known from click prediction [He et al., ADKDD 2014]. As in
stacking [Wolpert, Neural Networks 1992], a training row is scored by the trees that were not grown on its fold; other
rows by all of them, in the mean.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field

from ranking.data.recipes import folds
from ranking.data.recipes.folds import Float64, is_number
from ranking.errors import InputError
from ranking.schema import Frozen

_VALUES = 254  # that a nominal column may have for these trees; rarer ones are missing values


class TreesConfig(Frozen):
    """Which trees to grow, for every label a column `<label>_by_trees`."""

    labels: tuple[str, ...] = Field(min_length=1, description="Columns of 0 and 1 to learn.")
    nominal: tuple[str, ...] = Field((), description="Columns of codes, whose order says nothing, beside all strings.")
    folds: int = Field(10, ge=2, le=1000, description="Parts of the training rows; each is told by the others' trees.")
    iterations: int = Field(250, ge=1, le=100_000, description="Trees of a fold, one after another.")
    learning_rate: float = Field(0.06, gt=0, le=1, description="Share of every tree.")
    leaves: int = Field(63, ge=2, le=65_536, description="Of a tree, at most.")
    leaf_rows: int = Field(40, ge=1, le=2**31 - 1, description="Of a leaf, at least.")
    l2: float = Field(5.0, ge=0, allow_inf_nan=False, description="Penalty of leaves.")
    column_share: float = Field(0.4, gt=0, le=1, description="Of the columns, tried for every split.")
    seed: int = Field(0, ge=0, lt=2**32, description="Of the folds and the columns.")

    def columns(self, label: str) -> list[str]:
        """Names of the columns made of a label."""
        return [f"{label}_by_trees"]


def append_trees(
    splits: Mapping[str, pa.Table], config: TreesConfig, hidden: Collection[str] = ()
) -> dict[str, pa.Table]:
    """Append the columns of `config` to every split, float32.

    Args:
        splits: tables of the same columns, `train` among them; the labels are boolean. The trees read every other
            column: numbers, and strings, of which the 254 most frequent of a column count.
        config: labels and settings.
        hidden: columns that the trees may not read, beside the labels of `config`.

    Raises:
        InputError: a label or a nominal column is missing, a label has nulls, a name is taken, there is no column to
            read or one of another type, or training has too few rows or labels of one value alone.
    """
    train, where = splits["train"], "recipe.trees"
    inputs = [field for field in train.schema if field.name not in {*hidden, *config.labels}]
    folds.require_labels(where, config.labels, train)
    folds.require_known(f"{where}.nominal", config.nominal, [field.name for field in inputs])
    folds.require_new(where, [name for label in config.labels for name in config.columns(label)], train.schema)
    rows = _numbers([splits[name] for name in folds.in_order(splits)], inputs, config)
    odds = {label: _log_odds(rows, train[label].to_numpy(), label, config) for label in config.labels}
    return folds.append(splits, {name: odds[label] for label in config.labels for name in config.columns(label)})


def _log_odds(
    rows: pd.DataFrame, label: np.ndarray[Any, np.dtype[np.bool_]], name: str, config: TreesConfig
) -> Float64:
    """`[N]`; the first M of the rows are those of training, with labels `[M]`."""
    train = len(label)
    fold = folds.assign(train, config.folds, config.seed, "recipe.trees")
    numbers = np.unique(fold)
    found = np.zeros(len(rows))
    for number in numbers:
        own = fold == number
        if np.unique(label[~own]).size < 2:
            raise InputError(f"recipe.trees.labels: {name!r}: got one value alone outside a fold; expected both")
        grown = _trees(config).fit(rows[:train][~own], label[~own])
        found[:train][own] = grown.decision_function(rows[:train][own])
        if len(rows) > train:
            found[train:] += grown.decision_function(rows[train:]) / len(numbers)
    return found


def _trees(config: TreesConfig) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier  # takes seconds to import, and few recipes grow trees

    return HistGradientBoostingClassifier(
        max_iter=config.iterations,
        learning_rate=config.learning_rate,
        max_leaf_nodes=config.leaves,
        min_samples_leaf=config.leaf_rows,
        l2_regularization=config.l2,
        max_features=config.column_share,
        categorical_features="from_dtype",
        early_stopping=False,
        random_state=config.seed,
    )


def _numbers(tables: list[pa.Table], inputs: list[pa.Field], config: TreesConfig) -> pd.DataFrame:
    """The tables' rows, one after another: numbers as they are, nominal columns with the training rows' categories."""
    if not inputs:
        raise InputError("recipe.trees: got no column but labels; expected some to grow trees on")
    columns = {}
    for field in inputs:
        if not (is_number(field.type) or pa.types.is_string(field.type) or pa.types.is_large_string(field.type)):
            raise InputError(f"recipe.trees: column {field.name!r}: got {field.type}; expected numbers or strings")
        parts = [table[field.name].to_pandas() for table in tables]
        values = pd.concat(parts, ignore_index=True)
        if field.name in config.nominal or not is_number(field.type):
            known = parts[0].value_counts().index[:_VALUES]
            values = pd.Categorical.from_codes(known.get_indexer(values), known)
        columns[field.name] = values
    return pd.DataFrame(columns)
