"""DeLong's interval against its definition, the bootstrap and simulation; and the degenerate cases."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from ranking.metrics import delong, gauc, log_loss, paired_bootstrap, paired_delong, paired_r2, r2, roc_auc

Z = norm.ppf(0.975)


def sample(rows: int, seed: int, signal: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of a worse and a better model, correlated and with ties, and labels: 1 in 3 positive."""
    generator = np.random.default_rng(seed)
    labels = (np.arange(rows) % 3 == 0).astype(np.int64)
    shared, own = generator.normal(size=(2, rows))
    worse = (shared + signal * labels).round(1)
    return worse, (shared + 0.5 * own + 1.3 * signal * labels).round(1), labels


def covariance_by_definition(columns, labels):
    """DeLong et al. 1988, equations 4 to 7, over all pairs."""
    placed = []
    for scores in columns:
        ahead, behind = scores[labels == 1][:, None], scores[labels == 0][None]
        kernel = (ahead > behind) + 0.5 * (ahead == behind)
        placed.append((kernel.mean(axis=1), kernel.mean(axis=0)))
    wins, losses = (np.cov(np.stack(side)) / len(side[0]) for side in zip(*placed, strict=True))
    return wins + losses


def test_the_interval_is_the_definition_on_the_logit_scale():
    scores, _, labels = sample(90, seed=2)
    auc, low, high = delong(scores, labels)
    error = math.sqrt(covariance_by_definition([scores, scores], labels)[0, 0]) / (auc * (1 - auc))
    assert auc == pytest.approx(roc_auc(scores, labels), abs=1e-14)
    for bound, sign in ((low, -1), (high, 1)):
        assert math.log(bound / (1 - bound)) == pytest.approx(math.log(auc / (1 - auc)) + sign * Z * error)


def test_the_paired_test_is_the_definition():
    worse, better, labels = sample(90, seed=2)
    covariance = covariance_by_definition([worse, better], labels)
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    result = paired_delong(worse, better, labels)
    assert result.value == pytest.approx(roc_auc(better, labels) - roc_auc(worse, labels))
    assert (result.low, result.high) == pytest.approx((result.value - Z * error, result.value + Z * error))
    assert result.p_value == pytest.approx(2 * norm.sf(abs(result.value) / error))


def test_by_hand():
    # positives outscore 2, 2 and 1 of 2 negatives: AUC 5/6, V10 = (1, 1, 1/2), V01 = (1, 2/3)
    auc, low, high = delong([3, 4, 1, 0, 2], [1, 1, 1, 0, 0])
    error = math.sqrt((1 / 12) / 3 + (1 / 18) / 2) / (5 / 36)
    assert auc == pytest.approx(5 / 6)
    assert low == pytest.approx(1 / (1 + math.exp(-(math.log(5) - Z * error))))
    assert high == pytest.approx(1 / (1 + math.exp(-(math.log(5) + Z * error))))


@pytest.mark.parametrize("signal", [0.5, 1.5])
def test_agrees_with_the_bootstrap(signal):
    worse, better, labels = sample(1500, seed=4, signal=signal)
    exact = paired_delong(worse, better, labels)
    resampled = paired_bootstrap(roc_auc, worse, better, labels, n=400, seed=1)
    assert resampled.value == pytest.approx(exact.value, abs=1e-12)
    assert resampled.high - resampled.low == pytest.approx(exact.high - exact.low, rel=0.15)
    assert (resampled.low + resampled.high) / 2 == pytest.approx(exact.value, abs=0.002)


@pytest.mark.parametrize(("rows", "shift"), [(60, 0.5), (150, 1.0), (150, 2.5)])
def test_intervals_cover_the_truth_as_often_as_they_say(rows, shift):
    generator, truth = np.random.default_rng(11), norm.cdf(shift / math.sqrt(2))
    labels = np.arange(rows) % 3 == 0
    intervals = [delong(generator.normal(size=rows) + shift * labels, labels) for _ in range(600)]
    covered = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert 0.925 <= covered <= 0.985


def test_equal_models_are_told_apart_as_seldom_as_the_level_says():
    generator, labels = np.random.default_rng(12), np.arange(150) % 3 == 0
    noise = generator.normal(size=(600, 3, 150))
    p_values = [paired_delong(a + b + labels, a + c + labels, labels).p_value for a, b, c in noise]
    assert 0.025 <= np.mean(np.array(p_values) < 0.05) <= 0.075


def test_swapping_the_models_mirrors_the_difference():
    worse, better, labels = sample(90, seed=2)
    forth, back = paired_delong(worse, better, labels), paired_delong(better, worse, labels)
    assert back == pytest.approx((-forth.value, -forth.high, -forth.low, forth.p_value))


@pytest.mark.parametrize("level", [0.5, 0.99])
def test_a_higher_level_is_a_wider_interval(level):
    scores, other, labels = sample(90, seed=2)
    for at_level, usual in (
        (delong(scores, labels, level), delong(scores, labels)),
        (paired_delong(scores, other, labels, level), paired_delong(scores, other, labels)),
    ):
        assert (at_level.high - at_level.low > usual.high - usual.low) == (level > 0.95)


def test_perfect_separation_is_not_certainty():
    auc, low, high = delong(np.arange(40), np.arange(40) >= 30)
    assert (auc, high) == (1.0, 1.0)
    assert low == pytest.approx(0.025 ** (1 / 10))
    assert delong(-np.arange(40), np.arange(40) >= 30) == pytest.approx((0.0, 0.0, 1 - low))


def test_constant_scores_are_one_half_on_any_rows():
    assert delong(np.zeros(20), np.arange(20) % 2) == (0.5, 0.5, 0.5)


def test_a_model_does_not_differ_from_itself():
    scores, _, labels = sample(90, seed=2)
    assert paired_delong(scores, 3 * scores + 1, labels) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("scores", "labels"),
    [([], []), ([1, 2, 3], [0, 0, 1]), ([1, 2, 3], [1, 1, 0]), ([1, 2, 3, np.nan], [0, 1, 0, 1])],
    ids=["no rows", "one positive", "one negative", "a NaN score"],
)
def test_undefined_is_none(scores, labels):
    assert delong(scores, labels) is None
    assert paired_delong(scores, scores, labels) is None


def test_the_smallest_difference_between_large_models_is_measured():
    scores, labels = np.arange(20_000), np.arange(20_000) % 2
    other = scores.copy()
    other[[10_000, 10_001]] = other[[10_001, 10_000]]
    result = paired_delong(scores, other, labels)
    assert result.value == pytest.approx(-1e-8)
    assert result.low < result.value < 0 < result.high


def test_a_difference_without_a_variance_is_undefined():
    labels = np.array([0, 0, 1, 1])
    assert paired_delong(np.zeros(4), labels, labels) is None


@pytest.mark.parametrize("level", [0, 1, 95])
def test_a_level_outside_its_range_is_refused(level):
    worse, better, labels = sample(90, seed=2)
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        delong(worse, labels, level)
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        paired_delong(worse, better, labels, level)
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        delong(labels, labels, level)


def test_the_bootstrap_takes_any_metric_and_further_columns():
    worse, better, labels = sample(600, seed=5)
    users = np.arange(600) // 12
    result = paired_bootstrap(lambda s, y, u: gauc(s, y, u).value, worse, better, labels, users, n=200)
    assert 0 < result.low < result.value < result.high
    assert result.p_value < 0.05
    a, b = (1 / (1 + np.exp(1 - column)) for column in (worse, better))
    assert paired_bootstrap(log_loss, a, b, labels, n=100).value == log_loss(b, labels) - log_loss(a, labels)


def test_the_bootstrap_repeats_itself_from_its_seed():
    worse, better, labels = sample(90, seed=2)
    first, again, other = (paired_bootstrap(roc_auc, worse, better, labels, n=50, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.low != other.low


def test_the_bootstrap_is_undefined_where_the_metric_is():
    assert paired_bootstrap(roc_auc, [], [], [], n=10) is None
    assert paired_bootstrap(roc_auc, [0.1, 0.2], [0.2, 0.1], [1, 1], n=10) is None
    assert paired_bootstrap(roc_auc, [0.1, np.nan], [0.2, 0.1], [1, 0], n=10) is None


@pytest.mark.parametrize("skill", [0.3, 0.9])
def test_the_change_of_r2_agrees_with_the_bootstrap(skill):
    draw = np.random.default_rng(4)
    mean = draw.normal(10, 3, 800)
    labels = mean + draw.normal(0, 2, 800)
    worse, better = (10 + s * (mean - 10) + draw.normal(0, 1, 800) for s in (skill, 1.0))
    found = paired_r2(worse, better, labels)
    resampled = paired_bootstrap(r2, worse, better, labels, n=600, seed=1)
    assert found.value == pytest.approx(r2(better, labels) - r2(worse, labels))
    assert found.low == pytest.approx(resampled.low, abs=0.15 * (found.high - found.low))
    assert found.high == pytest.approx(resampled.high, abs=0.15 * (found.high - found.low))
    assert (found.p_value < 0.05) == (found.low > 0)


def test_the_change_of_r2_is_undefined_rather_than_a_guess():
    labels = np.arange(9.0)
    assert paired_r2(labels, labels, np.ones(9)) is None
    assert paired_r2(labels[:1], labels[:1], labels[:1]) is None
    assert paired_r2(labels, np.full(9, np.nan), labels) is None
    assert paired_r2(labels, labels, labels) == (0.0, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"must be \[N\]"):
        paired_r2(labels, labels[:3], labels)
