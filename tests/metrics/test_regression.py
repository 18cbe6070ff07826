"""Errors of point predictions agree with scikit-learn and are None where they mean nothing."""

import numpy as np
import pytest
from sklearn import metrics as sk

from ranking.metrics import mae, mse, r2, r2_interval, rmse


@pytest.fixture(scope="module")
def columns() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    labels = generator.normal(5, 2, 1000)
    return labels + generator.normal(0.3, 1, 1000), labels


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (r2, sk.r2_score),
        (mse, sk.mean_squared_error),
        (mae, sk.mean_absolute_error),
        (rmse, sk.root_mean_squared_error),
    ],
)
def test_equals_sklearn(columns, ours, theirs):
    predictions, labels = columns
    assert ours(predictions, labels) == pytest.approx(theirs(labels, predictions), rel=1e-12)


def test_r2_is_one_for_the_truth_zero_for_the_mean_and_negative_for_worse(columns):
    _, labels = columns
    assert r2(labels, labels) == 1
    assert r2(np.full(1000, labels.mean()), labels) == pytest.approx(0, abs=1e-12)
    assert r2(-labels, labels) < 0


def test_the_interval_of_r2_is_the_bootstraps(columns):
    predictions, labels = columns
    draw = np.random.default_rng(0)
    resamples = draw.integers(0, 1000, (2000, 1000))
    expected = np.quantile([r2(predictions[rows], labels[rows]) for rows in resamples], [0.025, 0.975])
    assert r2_interval(predictions, labels) == pytest.approx(expected, abs=0.006)
    assert r2_interval(labels, labels) == (1, 1)
    assert r2_interval(predictions, np.ones(1000)) is None


def test_r2_of_a_binary_task_scores_the_probability():
    assert r2([0.2, 0.2, 0.8, 0.8], [0, 0, 1, 1]) == pytest.approx(1 - 4 * 0.04 / 1)


def test_r2_of_a_label_whose_variance_underflows_is_undefined():
    assert r2([1.0, 2.0], [1e-170, 2e-170]) is None
    assert r2_interval([1.0, 2.0], [1e-170, 2e-170]) is None


def test_r2_of_a_constant_label_is_undefined_though_its_mean_is_rounded():
    labels = np.full(1001, 0.1)
    assert r2(labels + 1, labels) is None
    assert mse(labels + 1, labels) == pytest.approx(1)


@pytest.mark.parametrize("metric", [r2, mse, mae, rmse])
@pytest.mark.parametrize("predictions", [[np.nan, 1.0], [np.inf, 1.0], [1e200, 1e308]])
def test_what_is_not_finite_is_undefined(metric, predictions):
    value = metric(predictions, [0.0, 2.0])
    assert value is None or (metric is mae and value == pytest.approx(5e307))


@pytest.mark.parametrize("metric", [r2, mse, mae, rmse])
def test_no_rows_are_undefined_and_unequal_columns_are_refused(metric):
    assert metric([], []) is None
    with pytest.raises(ValueError, match=r"\(2,\) and \(1,\)"):
        metric([1.0, 2.0], [1.0])
