"""Rates of a label: what they are made of, and that no row's rates tell of its own label."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from ranking.data.recipes.rates import RatesConfig, append_rates
from ranking.errors import InputError

ROWS = 400
BANDS = {"age_band": {"column": "age", "boundaries": [30, 60]}}


def splits(seed: int = 0) -> dict[str, pa.Table]:
    draw = np.random.default_rng(seed)

    def people(rows: int) -> pa.Table:
        age, job = draw.integers(0, 90, rows), draw.choice(["cook", "smith", "none"], rows)
        return pa.table({"age": age, "job": job, "rich": draw.random(rows) < age / 100, "old": age > 60})

    return {"train": people(ROWS), "test": people(50)}


def config(*keys: tuple[str, ...], **settings: object) -> RatesConfig:
    return RatesConfig.model_validate({"labels": ["rich"], "keys": keys, "folds": 4, "buckets": BANDS} | settings)


def odds(rate: float) -> float:
    return float(np.log(rate / (1 - rate)))


def test_rows_that_train_nothing_see_all_of_training_smoothed_towards_fewer_columns() -> None:
    tables = splits()
    found = append_rates(tables, config(("job", "age_band"), strength=5))["test"]
    train, row = tables["train"].to_pandas(), tables["test"].to_pandas().iloc[7]
    same_job = train[train.job == row.job]
    same = same_job[np.digitize(same_job.age, [30, 60]) == np.digitize(row.age, [30, 60])]
    job = (same_job.rich.sum() + 5 * train.rich.mean()) / (len(same_job) + 5)
    expected = (same.rich.sum() + 5 * job) / (len(same) + 5)
    assert found["rich_by_job_age_band"][7].as_py() == pytest.approx(odds(expected), rel=1e-5)
    assert found.column_names == ["age", "job", "rich", "old", "rich_by_job_age_band"]


def test_values_that_training_has_not_are_told_by_fewer_columns() -> None:
    tables = splits()
    tables["test"] = tables["test"].set_column(1, "job", pa.repeat("pilot", 50))
    found = append_rates(tables, config(("job",), ("job", "age_band")))["test"]
    mean = odds(tables["train"]["rich"].to_pandas().mean())
    assert found["rich_by_job"].to_numpy() == pytest.approx(mean, rel=1e-5)
    assert found["rich_by_job_age_band"].to_numpy() == pytest.approx(mean, rel=1e-5)


def test_a_missing_number_is_in_a_bucket_of_its_own() -> None:
    def rates(missing: float | None, *boundaries: float) -> np.ndarray:
        tables = splits()
        for name, table in tables.items():
            age = [missing if place % 4 == 0 else age for place, age in enumerate(table["age"].to_pylist())]
            tables[name] = table.set_column(0, "age", pa.array(age, pa.float64()))
        bands = {"age_band": {"column": "age", "boundaries": boundaries}}
        return append_rates(tables, config(("age_band",), buckets=bands))["test"]["rich_by_age_band"].to_numpy()

    np.testing.assert_array_equal(rates(None, 30, 60), rates(99.0, 30, 60, 99))  # nobody is that old


@pytest.mark.parametrize("row", [0, 17, 399])
def test_no_training_rows_rates_change_with_its_own_label(row: int) -> None:
    tables = splits()
    label = tables["train"]["rich"].to_numpy().copy()
    label[row] = ~label[row]
    flipped = {**tables, "train": tables["train"].set_column(2, "rich", pa.array(label))}
    keys = config(("job",), ("job", "age"), ("age", "old"))
    before, after = (append_rates(each, keys)["train"].to_pandas().iloc[:, 4:] for each in (tables, flipped))
    assert (before.iloc[row] == after.iloc[row]).all()
    assert (before != after).to_numpy().any()


def test_a_rate_tells_of_the_label_without_giving_it_away() -> None:
    """A column of its own value in every row says nothing, where a rate that saw the row itself would say all."""
    tables = splits()
    tables["train"] = tables["train"].append_column("id", pa.array(range(ROWS)))
    tables["test"] = tables["test"].append_column("id", pa.array(range(50)))
    found = append_rates(tables, config(("id",), ("age",)))["train"].to_pandas()
    assert abs(np.corrcoef(found.rich_by_id, found.rich)[0, 1]) < 0.2
    assert np.corrcoef(found.rich_by_age, found.rich)[0, 1] > 0.3


def test_every_label_has_its_own_columns_and_the_seed_moves_the_folds_alone() -> None:
    tables, both = splits(), config(("age",), labels=["rich", "old"])
    found = append_rates(tables, both)
    assert [name for name in found["test"].column_names if "_by_" in name] == ["rich_by_age", "old_by_age"]
    assert both.columns("old") == ["old_by_age"]
    again = append_rates(tables, config(("age",), labels=["rich", "old"], seed=1))
    assert found["test"].equals(again["test"])
    assert not found["train"].equals(again["train"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ["poor"]}, r"recipe.rates.labels: got \['poor'\]; expected some of"),
        ({"keys": [["job", "size"]]}, r"recipe.rates.keys: got \['size'\]; expected some of"),
        ({"keys": [["rich"]]}, r"recipe.rates.keys: got \['rich'\]; expected some of"),
        ({"buckets": {"age": {"column": "age", "boundaries": [1]}}}, r"recipe.rates: got \['age'\] twice"),
        (
            {"buckets": {"band": {"column": "size", "boundaries": [1]}}},
            r"buckets.band.column: got \['size'\]; expected some of",
        ),
        (
            {"buckets": {"band": {"column": "rich", "boundaries": [1]}}},
            r"buckets.band.column: got \['rich'\]; expected some of",
        ),
        (
            {"buckets": {"band": {"column": "job", "boundaries": [1]}}},
            r"buckets.band.column: got \['job'\]; expected some of \['age'\]",
        ),
        ({"labels": ["age"]}, r"recipe.rates.labels: got \['age'\]; expected some of \['old', 'rich'\]"),
        ({"keys": [["age", "job"], ["age"], ["age", "job"]]}, r"got \['rich_by_age_job'\] twice"),
        ({"keys": [["old"]]}, r"recipe.rates.keys: got \['old'\]; expected some of"),
    ],
)
def test_a_name_that_cannot_be_meant_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        append_rates(splits(), config(("age",), **settings), hidden=["old"])


def test_training_rows_must_fill_two_folds() -> None:
    tables = {name: table.slice(0, 1) for name, table in splits().items()}
    with pytest.raises(InputError, match=r"recipe.rates.folds: got 1 training rows; expected enough for two folds"):
        append_rates(tables, config(("age",)))


@pytest.mark.parametrize("boundaries", [[], [2, 1], [1, 1], [float("nan")], [float("inf")]])
def test_boundaries_rise(boundaries: list[float]) -> None:
    with pytest.raises(ValidationError, match="boundaries"):
        config(("age",), buckets={"band": {"column": "age", "boundaries": boundaries}})
