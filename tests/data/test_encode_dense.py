"""Dense features: scales, missing numbers, the indicator, and what a column may be stored as."""

import math
import re

import numpy as np
import pyarrow as pa
import pytest

from ranking.errors import InputError
from tests.data.encoding import dense, encoder_of, numbers


def test_minmax_clips_to_the_fitted_range():
    assert numbers(dense("x"), [-1.0, 0.0, 2.5, 10.0, 11.0], fit=[0.0, 10.0]) == [[0.0], [0.0], [0.25], [1.0], [1.0]]


def test_standardise():
    assert numbers(dense("x", scale="standardise"), [1.0, 5.0], fit=[1.0, 3.0]) == [[-1.0], [3.0]]


@pytest.mark.parametrize("scale", ["minmax", "standardise"])
def test_a_constant_column_becomes_0(scale):
    assert numbers(dense("x", scale=scale), [0.1, 7.0, None], fit=[0.1] * 10) == [[0.0], [0.0], [0.0]]


@pytest.mark.parametrize("scale", ["minmax", "standardise"])
def test_a_column_whose_spread_vanishes_becomes_0(scale):
    assert numbers(dense("x", scale=scale), [0.0, 7.0], fit=[0.0, 1e-200]) == [[0.0], [0.0]]


def test_log1p_keeps_the_sign():
    found = numbers(dense("x", scale="none", log1p=True), [-3.0, 7.0], fit=[1.0])
    assert found == [[pytest.approx(-math.log1p(3))], [pytest.approx(math.log1p(7))]]


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_missing_numbers_become_the_mean_or_zero_or_an_error(missing):
    values, fit = pa.array([5.0, missing]), [2.0, 4.0, 12.0]
    assert numbers(dense("x", scale="none"), values, fit)[1] == [6.0]
    assert numbers(dense("x", scale="none", null="zero"), values, fit)[1] == [0.0]
    assert numbers(dense("x", scale="minmax"), values, fit)[1] == [pytest.approx(0.4)]
    with pytest.raises(InputError, match=r"column 'x', row 1: got (None|nan); expected a number"):
        numbers(dense("x", null="reject"), values, fit)


def test_the_mean_is_that_after_log1p():
    found = numbers(dense("x", scale="none", log1p=True), [None], fit=[0.0, math.e**2 - 1])
    assert found == [[pytest.approx(1.0)]]


def test_the_indicator_stands_after_its_feature():
    encoder = encoder_of(dense("x", scale="none", indicator=True), dense("y", scale="none"), fit={"x": [4.0]})
    found = encoder.features(pa.table({"x": [1.0, None], "y": [7, 8]}))[2]
    assert found.tolist() == [[1.0, 0.0, 7.0], [4.0, 1.0, 8.0]]
    assert encoder.counters == {"x/null": 1}


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), 1e39])
def test_what_float32_cannot_hold_is_an_error(value):
    with pytest.raises(InputError, match=rf"column 'x', row 1: got {re.escape(repr(value))}; expected a finite number"):
        numbers(dense("x", scale="none"), [0.0, value], fit=[1.0])


@pytest.mark.parametrize(
    "values",
    [
        [True, False],
        pa.array([1, 0], pa.decimal128(5, 2)),
        pa.array([1, 0], pa.uint8()),
        pa.array([1, 0]).dictionary_encode(),
    ],
    ids=["bool", "decimal", "uint8", "dictionary"],
)
def test_numbers_of_any_type(values):
    assert numbers(dense("x"), values, fit=[0.0, 2.0]) == [[0.5], [0.0]]


@pytest.mark.parametrize(
    "options",
    [
        {"scale": "none"},
        {"scale": "none", "log1p": True},
        {"scale": "minmax"},
        {"scale": "standardise"},
        {"scale": "standardise", "log1p": True},
        {"scale": "piecewise", "pieces": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "values",
    [np.random.default_rng(0).normal(size=500).tolist(), [0.1, float("nan"), 1.7], [0.1, None, 1.7]],
    ids=["many", "nan", "null"],
)
def test_numbers_do_not_depend_on_the_precision_they_are_stored_in(options, values):
    single = pa.array(values, pa.float32())
    fit = [0.3, 0.9, -1.1, 2.6]
    assert numbers(dense("x", **options), single, fit) == numbers(dense("x", **options), single.cast(pa.float64()), fit)
