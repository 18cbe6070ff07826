"""Boosted trees' log-odds of a label: which rows grew the trees that score a row, and what they may read."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ranking.data.recipes.trees import TreesConfig, append_trees
from ranking.errors import InputError

ROWS = 600


def splits() -> dict[str, pa.Table]:
    draw = np.random.default_rng(0)

    def people(rows: int) -> pa.Table:
        code, age = draw.integers(0, 50, rows), draw.integers(0, 90, rows)
        sex = draw.choice(["Female", "Male"], rows)
        rich = draw.random(rows) < 0.1 + 0.8 * ((code % 7 < 3) & (sex == "Male"))
        return pa.table({"code": code, "age": age, "sex": sex, "rich": rich, "old": age > 60})

    return {"test": people(200), "train": people(ROWS)}


def config(**settings: object) -> TreesConfig:
    small = {"labels": ["rich"], "nominal": ["code"], "folds": 3, "iterations": 30, "leaf_rows": 5, "leaves": 8}
    return TreesConfig.model_validate(small | settings)


def auc(table: pa.Table, label: str = "rich") -> float:
    ranks = pd.Series(table[f"{label}_by_trees"].to_numpy()).rank()
    true = table[label].to_numpy()
    return float((ranks[true].mean() - (true.sum() + 1) / 2) / (~true).sum())


def test_the_trees_order_rows_they_have_not_seen() -> None:
    found = append_trees(splits(), config())
    assert found["test"].column_names == ["code", "age", "sex", "rich", "old", "rich_by_trees"]
    assert auc(found["test"]) > 0.7
    assert auc(found["train"]) > 0.7


def test_a_training_row_is_scored_by_trees_that_did_not_see_it() -> None:
    """What trees know of noise by heart is nothing to rows of another fold."""
    tables = splits()
    noise = pa.array(np.random.default_rng(1).random(ROWS) < 0.5)
    tables["train"] = tables["train"].set_column(3, "rich", noise)
    assert auc(append_trees(tables, config(leaf_rows=1, iterations=100))["train"]) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("row", [0, 17, 599])
def test_no_training_rows_log_odds_change_with_its_own_label(row: int) -> None:
    tables = splits()
    label = tables["train"]["rich"].to_numpy().copy()
    label[row] = ~label[row]
    flipped = {**tables, "train": tables["train"].set_column(3, "rich", pa.array(label))}
    before, after = (append_trees(each, config())["train"]["rich_by_trees"] for each in (tables, flipped))
    assert before[row] == after[row]
    assert before != after


def test_labels_and_hidden_columns_are_not_read() -> None:
    tables = splits()
    tables = {name: table.append_column("told", table["rich"]) for name, table in tables.items()}
    assert auc(append_trees(tables, config())["test"]) == 1.0
    assert auc(append_trees(tables, config(), hidden=["told"])["test"]) < 0.95
    both = append_trees(tables, config(labels=["rich", "told"]))["test"]
    assert auc(both) < 0.95
    assert both["rich_by_trees"].to_numpy() == pytest.approx(both["told_by_trees"].to_numpy())


def test_codes_have_no_order_and_unknown_ones_are_missing_values() -> None:
    """One split finds an arbitrary half of the codes, where a number needs many: nominal codes do with few leaves."""
    few = {"leaves": 4, "iterations": 10, "column_share": 1.0}
    nominal, number = (append_trees(splits(), config(nominal=names, **few))["test"] for names in (["code"], []))
    assert auc(nominal) > auc(number)
    tables = splits()
    tables["test"] = tables["test"].set_column(0, "code", pa.array([1000] * 200))
    assert np.isfinite(append_trees(tables, config())["test"]["rich_by_trees"].to_numpy()).all()


def test_the_same_seed_grows_the_same_trees() -> None:
    one, same, other = (append_trees(splits(), config(seed=seed))["test"] for seed in (0, 0, 1))
    assert one.equals(same)
    assert not one.equals(other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ["poor"]}, r"recipe.trees.labels: got \['poor'\]; expected some of \['old', 'rich'\]"),
        ({"nominal": ["size"]}, r"recipe.trees.nominal: got \['size'\]; expected some of"),
        ({"nominal": ["rich"]}, r"recipe.trees.nominal: got \['rich'\]; expected some of"),
        ({"nominal": ["old"]}, r"recipe.trees.nominal: got \['old'\]; expected some of"),
    ],
)
def test_a_name_that_cannot_be_meant_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        append_trees(splits(), config(**settings), hidden=["old"])


def test_training_rows_must_fill_two_folds_with_both_values() -> None:
    one = {name: table.slice(0, 1) for name, table in splits().items()}
    with pytest.raises(InputError, match=r"recipe.trees.folds: got 1 training rows; expected enough for two folds"):
        append_trees(one, config())
    alike = splits()
    alike["train"] = alike["train"].set_column(3, "rich", pa.array([False] * ROWS))
    with pytest.raises(InputError, match=r"recipe.trees.labels: 'rich': got one value alone; expected both"):
        append_trees(alike, config())
