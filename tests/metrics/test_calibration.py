"""Calibration metrics: a calibrated model scores well, a shifted one shows by how much."""

import math

import numpy as np
import pytest
from sklearn.metrics import log_loss as sk_log_loss

from ranking.metrics import calibration_ratio, ece, log_loss, normalised_entropy, reliability_curve


@pytest.fixture(scope="module")
def calibrated() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels drawn from them."""
    generator = np.random.default_rng(7)
    scores = generator.beta(2, 8, 40_000)
    return scores, (generator.random(40_000) < scores).astype(np.float32)


def test_log_loss_equals_sklearn(calibrated):
    scores, labels = calibrated
    assert log_loss(scores, labels) == pytest.approx(sk_log_loss(labels, scores), rel=1e-12)


def test_a_certain_mistake_costs_a_finite_loss():
    assert log_loss([0.0], [1]) == pytest.approx(-math.log(np.finfo(np.float64).eps))
    assert log_loss([1.0], [0]) == pytest.approx(-math.log(np.finfo(np.float64).eps))


def test_normalised_entropy_is_one_for_the_base_rate_and_less_for_a_model(calibrated):
    scores, labels = calibrated
    assert normalised_entropy(np.full(labels.size, labels.mean(dtype=float)), labels) == pytest.approx(1, rel=1e-9)
    assert 0.8 < normalised_entropy(scores, labels) < 1


def test_normalised_entropy_by_hand():
    loss = -(math.log(0.75) * 3 + math.log(0.5)) / 4
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert normalised_entropy([0.25, 0.25, 0.25, 0.5], [0, 0, 0, 1]) == pytest.approx(loss / entropy)


def test_calibration_ratio_is_predicted_over_observed(calibrated):
    scores, labels = calibrated
    assert calibration_ratio(scores, labels) == pytest.approx(1, abs=0.05)
    assert calibration_ratio([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0]) == 2


def test_ece_is_small_when_calibrated_and_measures_a_shift(calibrated):
    scores, labels = calibrated
    assert ece(scores, labels) < 0.01
    assert ece(np.minimum(scores + 0.1, 1), labels) == pytest.approx(0.1, abs=0.01)


def test_bins_hold_equal_numbers_of_distinct_scores(calibrated):
    curve = reliability_curve(*calibrated, bins=8)
    np.testing.assert_array_equal(curve.rows, 5000)
    assert (np.diff(curve.mean_score) > 0).all()
    np.testing.assert_allclose(curve.mean_label, curve.mean_score, atol=0.03)


def test_equal_scores_share_a_bin_so_the_order_of_the_rows_does_not_matter():
    scores = np.repeat([0.1, 0.2, 0.9], [50, 3, 47])
    labels = np.arange(100) % 3 == 0
    curve = reliability_curve(scores, labels, bins=10)
    np.testing.assert_array_equal(np.unique(curve.mean_score.round(9)), [0.1, 0.2, 0.9])
    shuffled = np.random.default_rng(0).permutation(100)
    assert ece(scores[shuffled], labels[shuffled]) == pytest.approx(ece(scores, labels), abs=1e-15)


def test_a_constant_score_is_one_bin_whose_gap_is_the_bias():
    assert ece([0.4] * 10, [1] * 3 + [0] * 7) == pytest.approx(0.1)


def test_undefined_without_rows_with_nan_or_without_the_class():
    for metric in (log_loss, normalised_entropy, calibration_ratio, reliability_curve, ece):
        assert metric([], []) is None
        assert metric([0.5, np.nan], [0, 1]) is None
    assert calibration_ratio([0.5, 0.5], [0, 0]) is None
    assert normalised_entropy([0.5, 0.5], [0, 0]) is None
    assert normalised_entropy([0.5, 0.5], [1, 1]) is None


@pytest.mark.parametrize("metric", [log_loss, normalised_entropy, calibration_ratio, reliability_curve, ece])
def test_a_logit_is_refused(metric):
    with pytest.raises(ValueError, match=r"probabilities in \[0, 1\]; got 1.5"):
        metric([0.5, 1.5], [0, 1])
