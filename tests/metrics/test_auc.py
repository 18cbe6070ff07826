"""AUC agrees with scikit-learn wherever both are defined, and says "undefined" where nobody can know."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from ranking.metrics import midranks, roc_auc

steady = settings(deadline=None, derandomize=True, max_examples=100)
ties = st.sampled_from([-2.0, -1.0, 0.0, 0.25, 0.5, 3.0])
continuous = st.floats(-1e6, 1e6, allow_nan=False)
pairs = st.lists(st.tuples(ties | continuous, st.integers(0, 1), st.integers(0, 5)), min_size=2, max_size=60)


def both_classes(rows: list[tuple[float, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, label and weight columns of the drawn rows, with one weighted row of each class added."""
    table = np.array([*rows, (0.0, 0, 1), (0.25, 1, 1)], dtype=np.float64)
    return table[:, 0], table[:, 1], table[:, 2]


@steady
@given(pairs)
def test_equals_sklearn_with_ties_and_weights(rows):
    scores, labels, weights = both_classes(rows)
    assert roc_auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    expected = roc_auc_score(labels, scores, sample_weight=weights)
    assert roc_auc(scores, labels, weights) == pytest.approx(expected, abs=1e-12)


@steady
@given(pairs)
def test_whole_weights_are_repeated_rows(rows):
    scores, labels, weights = both_classes(rows)
    times = weights.astype(int)
    assert roc_auc(scores, labels, weights) == roc_auc(scores.repeat(times), labels.repeat(times))


@steady
@given(pairs)
def test_only_the_order_of_the_scores_counts(rows):
    scores, labels, _ = both_classes(rows)
    places = np.unique(scores, return_inverse=True)[1]
    assert roc_auc(np.exp(places / 10) - 7, labels) == roc_auc(scores, labels)


@steady
@given(pairs)
def test_swapping_the_classes_or_the_sign_gives_the_complement(rows):
    scores, labels, _ = both_classes(rows)
    complement = pytest.approx(1 - roc_auc(scores, labels), abs=1e-12)
    assert roc_auc(scores, 1 - labels) == complement
    assert roc_auc(-scores, labels) == complement


@steady
@given(pairs, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_no_bit(rows, random):
    scores, labels, _ = both_classes(rows)
    shuffled = np.array(random.sample(range(len(scores)), len(scores)))
    assert roc_auc(scores[shuffled], labels[shuffled]) == roc_auc(scores, labels)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([1, 2, 3, 4], 1.0),
        ([4, 3, 2, 1], 0.0),
        ([1, 1, 1, 1], 0.5),
        ([1, 2, 2, 3], 0.875),
        ([1, -np.inf, 0, np.inf], 0.75),
    ],
)
def test_known_values(scores, expected):
    assert roc_auc(scores, [0, 0, 1, 1]) == expected


@pytest.mark.parametrize(
    ("scores", "labels", "weights"),
    [
        ([], [], None),
        ([0.1, 0.9], [1, 1], None),
        ([0.1, 0.9], [0, 0], None),
        ([0.1, np.nan], [0, 1], None),
        ([np.nan, np.nan], [0, 1], None),
        ([0.1, 0.9], [0, 1], [1, 0]),
    ],
    ids=["no rows", "positives only", "negatives only", "a NaN", "all NaN", "one class has no weight"],
)
def test_undefined_is_none_and_never_one_half(scores, labels, weights):
    assert roc_auc(scores, labels, weights) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.1, 0.2], [0, 2]), "got 2"),
        (([0.1, 0.2], [0, np.nan]), "got nan"),
        (([0.1, 0.2], [0]), r"got \(2,\) and \(1,\)"),
        (([[0.1], [0.2]], [[0], [1]]), r"both be \[N\]"),
        (([0.1, 0.2], [0, 1], [1, -1]), "negative"),
        (([0.1, 0.2], [0, 1], [1]), r"weights must be \[2\]"),
    ],
)
def test_refuses_what_is_not_a_binary_column(arguments, message):
    with pytest.raises(ValueError, match=message):
        roc_auc(*arguments)


def test_float32_scores_and_boolean_labels_are_taken_as_they_are():
    scores = np.array([0.1, 0.2, 0.2, 0.3], np.float32)
    assert roc_auc(scores, np.array([False, False, True, True])) == 0.875


@steady
@given(st.lists(ties, max_size=40))
def test_midranks_are_the_textbook_ones_less_a_half(values):
    np.testing.assert_array_equal(midranks(values) + 0.5, rankdata(values))


def test_rounding_of_fractional_weights_never_exceeds_one():
    labels, generator = np.arange(50) >= 25, np.random.default_rng(0)
    areas = [roc_auc(np.arange(50), labels, generator.random(50)) for _ in range(50)]
    assert max(areas) == 1.0
    assert min(areas) == pytest.approx(1.0, abs=1e-12)
