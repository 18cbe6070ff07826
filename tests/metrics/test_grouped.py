"""GAUC is the plain loop over users, at the speed of one sort."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from ranking.metrics import gauc, roc_auc
from ranking.schema import NO_USER

steady = settings(deadline=None, derandomize=True, max_examples=100)
impressions = st.lists(
    st.tuples(st.integers(-3, 4), st.sampled_from([-np.inf, 0.0, 0.1, 0.5, 0.9]), st.integers(0, 1), st.floats(0.1, 9)),
    min_size=1,
    max_size=80,
)


def looped(scores, labels, groups, weights):
    """The definition, one user at a time."""
    areas, sizes, rows = [], [], 0
    for group in set(groups):
        own = groups == group
        if len(set(labels[own])) == 2:
            finite = np.maximum(scores[own], -1e9)
            areas.append(roc_auc_score(labels[own], finite, sample_weight=weights[own]))
            sizes.append(weights[own].sum())
            rows += own.sum()
    return (np.average(areas, weights=sizes) if areas else None), len(areas), rows


@steady
@given(impressions)
def test_equals_the_plain_loop(rows):
    groups, scores, labels, weights = (np.array(column) for column in zip(*rows, strict=True))
    ones = np.ones(len(rows))
    for got, expected in (
        (gauc(scores, labels, groups), looped(scores, labels, groups, ones)),
        (gauc(scores, labels, groups, weights), looped(scores, labels, groups, weights)),
    ):
        assert got == pytest.approx(expected, abs=1e-9)


def test_one_group_is_the_plain_auc():
    generator = np.random.default_rng(1)
    scores, labels = generator.random(500).round(2), generator.integers(0, 2, 500)
    assert gauc(scores, labels, np.zeros(500, int)).value == pytest.approx(roc_auc(scores, labels), abs=1e-12)


def test_a_model_that_only_knows_the_user_has_no_gauc_to_show():
    groups, labels = np.repeat([0, 1], 4), np.array([0, 0, 0, 1, 0, 1, 1, 1])
    assert roc_auc(groups, labels) == 0.75
    assert gauc(groups, labels, groups) == (0.5, 2, 8)


def test_rows_without_a_user_are_in_no_group():
    known = gauc([1, 2, 3], [0, 1, 0], [7, 7, 7])
    assert gauc([1, 2, 3, 1, 2], [0, 1, 0, 0, 1], [7, 7, 7, NO_USER, NO_USER]) == known == (0.5, 1, 3)
    assert gauc([1, 2], [0, 1], [NO_USER, NO_USER]) == (None, 0, 0)


def test_groups_of_one_class_are_left_out_and_the_rest_weigh_by_their_impressions():
    result = gauc([1, 2, 9, 9, 9, 3, 2, 1], [0, 1, 1, 1, 1, 0, 1, 0], [1, 1, 2, 2, 2, 3, 3, 3])
    assert result == (pytest.approx((2 * 1.0 + 3 * 0.5) / 5), 2, 5)


@pytest.mark.parametrize(
    ("scores", "labels", "groups"),
    [([], [], []), ([0.1, 0.2], [1, 0], [1, 2]), ([0.1, np.nan, 0.3], [1, 0, 1], [1, 1, 1])],
    ids=["no rows", "no group of two classes", "a NaN score"],
)
def test_undefined_is_none_with_no_support(scores, labels, groups):
    assert gauc(scores, labels, groups) == (None, 0, 0)


def test_groups_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"groups must be \[2\]"):
        gauc([0.1, 0.2], [0, 1], [1])
