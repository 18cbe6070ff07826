"""Boosted trees' log-odds of a label: which rows grew the trees that score a row, and what they may read."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import ValidationError

from ranking.data.recipes.folds import assign
from ranking.data.recipes.trees import TreesConfig, append_trees
from ranking.errors import InputError

ROWS = 600


def splits() -> dict[str, pa.Table]:
    draw = np.random.default_rng(0)

    def people(rows: int) -> pa.Table:
        code, age = draw.integers(0, 50, rows), draw.integers(0, 90, rows)
        sex = draw.choice(["Female", "Male"], rows)
        rich = draw.random(rows) < 0.1 + 0.8 * ((code % 7 < 3) & (sex == "Male"))
        return pa.table({"code": code, "age": age, "sex": sex, "rich": rich, "old": (age > 60).astype(int)})

    return {"test": people(200), "train": people(ROWS)}


def config(**settings: object) -> TreesConfig:
    small = {"labels": ["rich"], "nominal": ["code"], "folds": 3, "iterations": 30, "leaf_rows": 5, "leaves": 8}
    return TreesConfig.model_validate(small | settings)


def auc(table: pa.Table, label: str = "rich") -> float:
    ranks = pd.Series(table[f"{label}_by_trees"].to_numpy()).rank()
    true = table[label].to_numpy()
    return float((ranks[true].mean() - (true.sum() + 1) / 2) / (~true).sum())


def flip(tables: dict[str, pa.Table], row: int) -> dict[str, pa.Table]:
    label = tables["train"]["rich"].to_numpy().copy()
    label[row] = ~label[row]
    return {**tables, "train": tables["train"].set_column(3, "rich", pa.array(label))}


def test_the_trees_order_rows_they_have_not_seen() -> None:
    found = append_trees(splits(), config())
    assert found["test"].column_names == ["code", "age", "sex", "rich", "old", "rich_by_trees"]
    assert auc(found["test"]) > 0.7
    assert auc(found["train"]) > 0.7


def test_log_odds_of_training_and_other_rows_are_on_one_scale() -> None:
    train, test = (append_trees(splits(), config())[name]["rich_by_trees"].to_numpy() for name in ("train", "test"))
    assert test.mean() == pytest.approx(train.mean(), abs=0.2)
    assert 0.6 < test.std() / train.std() < 1.1  # a mean over folds varies less than each


def test_a_training_row_is_scored_by_trees_that_did_not_see_it() -> None:
    """What trees know of noise by heart is nothing to rows of another fold."""
    tables = splits()
    noise = pa.array(np.random.default_rng(1).random(ROWS) < 0.5)
    tables["train"] = tables["train"].set_column(3, "rich", noise)
    assert auc(append_trees(tables, config(leaf_rows=1, iterations=100))["train"]) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("row", [0, 17, 599])
def test_no_training_rows_log_odds_change_with_its_own_label(row: int) -> None:
    tables = splits()
    before, after = (append_trees(each, config())["train"]["rich_by_trees"] for each in (tables, flip(tables, row)))
    assert before[row] == after[row]
    assert before != after


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_trees_of_every_fold_score_the_rows_that_train_nothing(fold: int) -> None:
    """Only the trees of other folds know a row's label: were one fold's trees left out, one row would not matter."""
    tables = splits()
    others = np.flatnonzero(assign(ROWS, 3, 0, "") != fold)
    label = tables["train"]["rich"].to_numpy().copy()
    label[others] = np.random.default_rng(1).permutation(label[others])
    noisy = {**tables, "train": tables["train"].set_column(3, "rich", pa.array(label))}
    clean, part = (auc(append_trees(each, config())["test"]) for each in (tables, noisy))
    assert 0.5 < part < clean


def test_labels_and_hidden_columns_are_not_read() -> None:
    tables = {
        name: table.append_column("told", table["rich"].cast(pa.int8())).append_column("same", table["rich"])
        for name, table in splits().items()
    }
    assert auc(append_trees(tables, config(), hidden=["same"])["test"]) == 1.0
    assert auc(append_trees(tables, config(), hidden=["same", "told"])["test"]) < 0.95
    both = append_trees(tables, config(labels=["rich", "same"]), hidden=["told"])["test"]
    assert auc(both) < 0.95
    assert both["rich_by_trees"].to_numpy() == pytest.approx(both["same_by_trees"].to_numpy())


def test_codes_have_no_order_and_unknown_ones_are_missing_values() -> None:
    """One split finds an arbitrary half of the codes, where a number needs many: nominal codes do with few leaves."""
    few = {"leaves": 4, "iterations": 10, "column_share": 1.0}
    nominal, number = (append_trees(splits(), config(nominal=names, **few))["test"] for names in (["code"], []))
    assert auc(nominal) > auc(number)
    usual = splits()["train"]["code"].to_pandas().value_counts().index[0]
    strange, missing, known = (
        append_trees(splits() | {"test": splits()["test"].set_column(0, "code", pa.array(codes, pa.int64()))}, config())
        for codes in ([1000] * 200, [None] * 200, [usual] * 200)
    )
    assert strange["test"]["rich_by_trees"] == missing["test"]["rich_by_trees"]
    assert strange["test"]["rich_by_trees"] != known["test"]["rich_by_trees"]


def test_a_nominal_column_may_have_any_number_of_values() -> None:
    tables = {name: table.append_column("id", pa.array(range(len(table)))) for name, table in splits().items()}
    found = append_trees(tables, config(nominal=["code", "id"]))
    assert auc(found["test"]) > 0.7


def test_the_same_seed_grows_the_same_trees() -> None:
    one, same, other = (append_trees(splits(), config(seed=seed))["test"] for seed in (0, 0, 1))
    assert one.equals(same)
    assert not one.equals(other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ["poor"]}, r"recipe.trees.labels: got \['poor'\]; expected some of \['rich'\]"),
        ({"labels": ["age"]}, r"recipe.trees.labels: got \['age'\]; expected some of \['rich'\]"),
        ({"labels": ["rich", "rich"]}, r"recipe.trees: got \['rich_by_trees'\] twice"),
        ({"nominal": ["size"]}, r"recipe.trees.nominal: got \['size'\]; expected some of"),
        ({"nominal": ["rich"]}, r"recipe.trees.nominal: got \['rich'\]; expected some of"),
        ({"nominal": ["old"]}, r"recipe.trees.nominal: got \['old'\]; expected some of"),
    ],
)
def test_a_name_that_cannot_be_meant_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        append_trees(splits(), config(**settings), hidden=["old"])


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (
            "since",
            pa.array([0] * ROWS, pa.timestamp("s")),
            r"recipe.trees: column 'since': got timestamp\[s\]; expected",
        ),
        ("tags", pa.array([[1]] * ROWS), r"recipe.trees: column 'tags': got list<.*>; expected numbers or strings"),
        ("rich_by_trees", pa.array([0.0] * ROWS), r"recipe.trees: got \['rich_by_trees'\] twice"),
        ("poor", pa.array([True, None] * (ROWS // 2)), r"recipe.trees.labels: 'poor': got 300 nulls; expected true or"),
    ],
)
def test_a_column_that_trees_cannot_read_or_write_is_named(column: str, values: pa.Array, message: str) -> None:
    tables = {"train": splits()["train"].append_column(column, values)}
    labels = ["poor"] if column == "poor" else ["rich"]
    with pytest.raises(InputError, match=message):
        append_trees(tables, config(labels=labels), hidden=["rich"])


def test_training_rows_must_fill_two_folds_with_both_values() -> None:
    one = {name: table.slice(0, 1) for name, table in splits().items()}
    with pytest.raises(InputError, match=r"recipe.trees.folds: got 1 training rows; expected enough for two folds"):
        append_trees(one, config())
    alike = splits()
    alike["train"] = alike["train"].set_column(3, "rich", pa.array([False] * ROWS))
    with pytest.raises(InputError, match=r"recipe.trees.labels: 'rich': got one value alone outside a fold; expected"):
        append_trees(alike, config())


def test_there_must_be_something_to_grow_trees_on() -> None:
    with pytest.raises(InputError, match=r"recipe.trees: got no column but labels"):
        append_trees({name: table.select(["rich"]) for name, table in splits().items()}, config(nominal=[]))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("seed", 2**32), ("learning_rate", float("inf")), ("l2", float("inf")), ("leaf_rows", 2**31), ("folds", 1)],
)
def test_settings_that_no_tree_can_have_are_refused(setting: str, value: float) -> None:
    with pytest.raises(ValidationError, match=setting):
        config(**{setting: value})
