"""The doctor: what it counts, what it finds, and what it leaves alone."""

import math

import numpy as np
import pyarrow as pa
import pytest

from ranking.data import checks
from ranking.data.drift import category_bins, kolmogorov_smirnov, measure, numeric_bins, population_stability
from ranking.data.transforms import Transforms
from ranking.schema import Schema

ROWS = 1000
CLICK = {"name": "click", "label": "is_click"}
LIKE = {"name": "like", "label": "is_like", "given": "click"}


def clean(seed=0, **columns):
    """A table without anything to find, but for `columns`."""
    generator = np.random.default_rng(seed)
    click = generator.integers(0, 2, ROWS)
    found = {
        "video": generator.integers(0, 50, ROWS),
        "age": generator.normal(size=ROWS),
        "is_click": click,
        "is_like": click * generator.integers(0, 2, ROWS),
    }
    return pa.table(found | columns)


def schema_of(*features, tasks=(CLICK, LIKE), rows=50, **options):
    video = {"kind": "categorical", "name": "video", "encoding": {"type": "identity"}}
    features = features or (video, {"kind": "dense", "name": "age"})
    tables = {f["name"]: {"rows": rows} for f in features if f.get("encoding", {}).get("type") in ("identity", "hash")}
    return Schema(features=features, tasks=tasks, tables=tables, **options)


def examine(train, validation=None, schema=None, **options):
    schema = schema or schema_of()
    splits = {"train": [train]} | ({} if validation is None else {"validation": [validation]})
    return checks.examine(schema, Transforms.fit(schema, [train]), splits, **options)


def found(report, level=None):
    return [(f.where, f.message) for f in report.findings if level in (None, f.level)]


def test_clean_data_has_no_findings():
    report = examine(clean(0), clean(1))
    assert report.findings == ()
    assert report.healthy
    assert report.rows == {"train": ROWS, "validation": ROWS}


def test_label_rates_in_the_sample_space_and_over_the_entire_space():
    table = pa.table({"video": [0] * 4, "age": [1.0] * 4, "is_click": [1, 1, 0, 0], "is_like": [1, 0, 1, None]})
    like = next(task for task in examine(table).tasks if task.task == "like")
    assert (like.entire, like.entire_mean) == (3, pytest.approx(2 / 3))
    assert (like.support, like.mean, like.positives, like.outside) == (2, 0.5, 1, 1)


def test_regression_tasks_have_a_mean_and_no_positives():
    task = {"name": "time", "label": "age", "loss": "mse"}
    summary = examine(clean(), schema=schema_of(tasks=(task,))).tasks[0]
    assert (summary.support, summary.positives, summary.outside) == (ROWS, 0, 0)
    assert summary.mean == pytest.approx(clean()["age"].to_numpy().mean(), abs=1e-6)


def test_positives_outside_the_sample_space_are_a_note():
    table = clean()
    liked = table["is_like"].to_numpy().copy()
    liked[np.flatnonzero(table["is_click"].to_numpy() == 0)[:7]] = 1
    report = examine(clean(is_like=liked))
    assert found(report) == [("train: task like", "7 positives outside its sample space: they neither train nor score")]
    assert report.findings[0].level == "note"


def test_too_few_of_one_class_is_a_warning_and_none_an_error():
    few = np.zeros(ROWS, int)
    few[:20] = 1
    report = examine(clean(is_click=few), schema=schema_of(tasks=(CLICK,)))
    assert found(report, "warning") == [
        ("train: task click", "20 positives in 1,000 rows of its sample space: too few of one class to score")
    ]
    report = examine(clean(is_click=few * 0), schema=schema_of(tasks=(CLICK,)))
    assert "one class only, AUC is undefined" in found(report, "error")[0][1]
    assert not report.healthy


def test_a_task_without_support_is_an_error():
    report = examine(clean(is_like=pa.nulls(ROWS)))
    assert found(report) == [("train: task like", "no observed label in its sample space")]


def test_constant_and_nearly_empty_features_are_warnings():
    sparse = pa.array([None] * (ROWS - 2) + [1.0, 2.0])
    report = examine(clean(age=sparse, video=[7] * ROWS))
    assert found(report, "warning") == [
        ("train: feature video", "always the same value"),
        ("train: feature age", "99.80% null"),
    ]


@pytest.mark.parametrize(
    ("feature", "values", "null"),
    [
        ({"kind": "dense"}, pa.array([1.0, None, float("nan"), 2.0]), 0.5),
        ({"kind": "categorical", "encoding": {"type": "vocabulary"}}, ["a", None, "b", "b"], 0.25),
        ({"kind": "categorical", "encoding": {"type": "bucketise"}}, [1.0, None, None, 2.0], 0.5),
        (
            {"kind": "categorical", "encoding": {"type": "vocabulary"}, "multi_hot": True},
            [[1, 2], [], None, [None]],
            0.75,
        ),
    ],
    ids=["dense", "vocabulary", "bucketise", "list"],
)
def test_null_shares(feature, values, null):
    schema = schema_of({"name": "f", **feature}, tasks=(CLICK,))
    assert examine(pa.table({"f": values, "is_click": [0, 1, 0, 1]}), schema=schema).features[0].null == null


@pytest.mark.parametrize(("new", "level"), [(50, "note"), (300, "warning")])
def test_ids_the_vocabulary_does_not_have(new, level):
    schema = schema_of({"kind": "categorical", "name": "video", "encoding": {"type": "vocabulary"}})
    unseen = clean(1)["video"].to_numpy().copy()
    unseen[:new] = 10_000
    report = examine(clean(), clean(1, video=unseen), schema)
    assert ("validation: feature video", f"{new / ROWS:.2%} of ids not in the vocabulary") in found(report, level)
    assert [f.unknown for f in report.features] == [0.0, new / ROWS]


def test_wrapped_ids_are_a_warning():
    encoding = {"type": "identity", "out_of_range": "modulo"}
    schema = schema_of({"kind": "categorical", "name": "video", "encoding": encoding}, rows=49)
    share = (clean()["video"].to_numpy() >= 49).mean()
    assert found(examine(clean(), schema=schema)) == [
        ("train: feature video", f"{share:.2%} of ids wrapped into the table")
    ]


def test_bad_data_becomes_one_error_for_each_place_and_the_rest_is_still_examined():
    schema, good = schema_of(), clean()
    bad = clean(video=[999] * ROWS, age=["x"] * ROWS, is_click=[5] * ROWS)
    report = checks.examine(schema, Transforms.fit(schema, [good]), {"train": [good, bad, bad]})
    assert found(report, "error") == [
        ("train: feature video", "column 'video', row 1000: got 999; expected an id in [0, 50)"),
        ("train: feature age", "column 'age': got type string; expected numbers or booleans"),
        ("train: tasks", "task 'click': label 'is_click', row 1000: got 5; expected 0 or 1"),
    ]
    assert report.rows == {"train": 3 * ROWS}


def test_a_missing_column_is_an_error():
    schema = schema_of(user="user")
    report = checks.examine(schema, Transforms.fit(schema, [clean()]), {"train": [clean().drop_columns(["age"])]})
    assert [where for where, _ in found(report, "error")] == ["train: feature age", "train: user"]


def test_a_feature_that_is_part_of_a_label_is_a_leak():
    task = {"name": "long", "label": "age > 0.5 * abs(age)"}
    report = examine(clean(), schema=schema_of(tasks=(task,)))
    assert found(report) == [
        ("feature age", "column 'age' is in the label 'age > 0.5 * abs(age)' of task 'long': a leak")
    ]


def test_limit_bounds_the_rows_read():
    def tables():
        yield clean()
        yield clean()
        raise AssertionError("read on past the limit")

    schema = schema_of()
    report = checks.examine(schema, Transforms.fit(schema, [clean()]), {"train": tables()}, limit=ROWS + 5)
    assert report.rows == {"train": ROWS + 5}


def test_a_shifted_number_and_shifted_ids_are_found():
    shifted = clean(1, age=np.random.default_rng(1).normal(2.0, size=ROWS), video=[3] * (ROWS - 1) + [4])
    report = examine(clean(), shifted)
    moved = dict(found(report, "warning"))
    assert set(moved) == {"validation: feature age", "validation: feature video"}
    assert moved["validation: feature age"].startswith("moved against training: PSI ")
    assert next(d.ks for d in report.drift if d.feature == "video") is None


def test_small_samples_of_one_distribution_do_not_drift():
    table = clean()
    assert not [f for f in examine(table.slice(0, 60), table.slice(60, 60)).findings if "moved" in f.message]


def test_population_stability_index():
    assert population_stability(np.array([5, 5, 0]), np.array([5, 5, 0])) == 0
    p, q = np.array([50.5, 50.5]) / 101, np.array([20.5, 80.5]) / 101
    expected = sum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert population_stability(np.array([50, 50]), np.array([20, 80])) == pytest.approx(expected)


def test_kolmogorov_smirnov_matches_scipy():
    from scipy.stats import ks_2samp

    generator = np.random.default_rng(0)
    a, b = generator.normal(size=200).round(1), generator.normal(0.3, size=150).round(1)
    assert kolmogorov_smirnov(a, b) == pytest.approx(ks_2samp(a, b).statistic)


def test_noise_is_what_equal_distributions_show():
    generator = np.random.default_rng(0)
    runs = [measure("v", "f", True, *generator.normal(size=(2, 500))) for _ in range(200)]
    assert np.mean([run.psi for run in runs]) == pytest.approx(runs[0].psi_noise, rel=0.15)
    assert np.mean([run.ks for run in runs]) == pytest.approx(runs[0].ks_noise, rel=0.1)


def test_noise_of_ks_is_of_the_numbers_that_are_there():
    generator = np.random.default_rng(0)
    pairs = generator.normal(size=(200, 2, 2000))
    pairs[:, :, 100:] = np.nan
    runs = [measure("v", "f", True, *pair) for pair in pairs]
    assert np.mean([run.ks for run in runs]) == pytest.approx(runs[0].ks_noise, rel=0.1)


def test_ids_seen_too_seldom_share_the_last_bin():
    assert category_bins(np.array([1.0] * 10 + [2.0] * 9), np.array([1.0, 2.0, 3.0])).tolist() == [1, 2]


def test_bins_are_deciles_with_missing_apart_and_frequent_ids_with_the_rest_apart():
    values = np.arange(100.0)
    assert numeric_bins(values, values).tolist() == [10] * 10 + [0]
    assert numeric_bins(values, np.array([-5.0, np.nan, 1e9])).tolist() == [1, *[0] * 8, 1, 1]
    ids = np.repeat(np.arange(40.0), np.arange(40, 0, -1))
    assert category_bins(ids, np.array([0.0, 18.0, 19.0, 77.0])).tolist() == [1, *[0] * 17, 1, 2]


def test_the_report_renders_as_text_tables():
    text = examine(clean(is_like=pa.nulls(ROWS)), clean(1)).render()
    lines = text.splitlines()
    assert lines[0].split() == ["split", "rows"]
    assert ["train", "1,000"] in [line.split() for line in lines]
    assert any(line.startswith("error  train: task like") for line in lines)


def test_the_report_is_frozen_and_json():
    report = examine(clean(), clean(1))
    assert checks.DoctorReport.model_validate_json(report.model_dump_json()) == report
    with pytest.raises(ValueError, match="frozen"):
        report.rows = {}
