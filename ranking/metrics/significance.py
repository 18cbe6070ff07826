"""How sure a measured AUC, or a difference between two models, is: DeLong's variance and the bootstrap.

Both take rows as independent. Impressions of one user are not, so with few users the intervals are too short.
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ranking.metrics.auc import Bools, Floats, binary_columns, midranks
from ranking.metrics.regression import r2


class Interval(NamedTuple):
    """A metric and its confidence interval."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """Model B's metric less model A's, its confidence interval and the two-sided p-value of no difference."""

    value: float
    low: float
    high: float
    p_value: float


def delong(scores: npt.ArrayLike, labels: npt.ArrayLike, level: float = 0.95) -> Interval | None:
    """AUC with DeLong's variance (DeLong et al. 1988), through midranks in O(N log N) (Sun & Xu 2014).

    The interval is symmetric in the logit of the AUC, so it stays inside [0, 1] and covers well near 1.
    At an AUC of exactly 0 or 1 the variance estimate is zero and says nothing; there the bound is the exact
    binomial one for min(positives, negatives) disjoint pairs, all ordered alike: conservative, never a point.
    Constant scores do give a point: their AUC is one half on any rows.

    Args:
        scores: `[N]`, larger means more likely positive.
        labels: `[N]`, 0 or 1.
        level: coverage asked of the interval, in (0, 1).

    Returns:
        The AUC and its interval; None with fewer than two rows of a class, or a NaN score.

    Raises:
        ValueError: the shapes differ, or a label is neither 0 nor 1.
    """
    quantile = _quantile(level)
    score, positive = binary_columns(scores, labels)
    scarcer = min(positive.sum(), (~positive).sum())
    if scarcer < 2 or np.isnan(score).any():
        return None
    auc, error = _mean_and_error(_placements(score, positive), positive)
    separated = ((1 - level) / 2) ** (1 / float(scarcer))
    if auc == 1:
        return Interval(auc, separated, 1.0)
    if auc == 0:
        return Interval(auc, 0.0, 1 - separated)
    centre = math.log(auc / (1 - auc))
    reach = quantile * error / (auc * (1 - auc))
    return Interval(auc, _sigmoid(centre - reach), _sigmoid(centre + reach))


def paired_delong(
    scores_a: npt.ArrayLike, scores_b: npt.ArrayLike, labels: npt.ArrayLike, level: float = 0.95
) -> Difference | None:
    """AUC of model B less that of model A on the same rows, with DeLong's test for correlated curves.

    Args:
        scores_a: `[N]`, of the model compared with (the champion).
        scores_b: `[N]`, of the model under test (the challenger).
        labels: `[N]`, 0 or 1.
        level: coverage asked of the interval, in (0, 1).

    Returns:
        The difference, its interval clipped to [-1, 1] and its p-value. None with fewer than two rows of a
        class, a NaN score, or a difference whose estimated variance is zero (perfect against constant scores).

    Raises:
        ValueError: the shapes differ, or a label is neither 0 nor 1.
    """
    quantile = _quantile(level)
    first, positive = binary_columns(scores_a, labels)
    second, _ = binary_columns(scores_b, labels)
    if min(positive.sum(), (~positive).sum()) < 2 or np.isnan(first).any() or np.isnan(second).any():
        return None
    # differences row by row: their variance holds the covariance and is exactly zero for models that agree
    gains = _placements(second, positive) - _placements(first, positive)
    value, error = _mean_and_error(gains, positive)
    if error == 0:
        return None if gains.any() else Difference(0.0, 0.0, 0.0, 1.0)
    reach, p_value = quantile * error, math.erfc(abs(value) / error / math.sqrt(2))
    return Difference(value, max(value - reach, -1.0), min(value + reach, 1.0), p_value)


def paired_r2(
    predictions_a: npt.ArrayLike, predictions_b: npt.ArrayLike, labels: npt.ArrayLike, level: float = 0.95
) -> Difference | None:
    """R^2 of model B less that of model A on the same rows, by the delta method of the ratio (SSE_a - SSE_b) / SST.

    Args:
        predictions_a: `[N]`, of the model compared with.
        predictions_b: `[N]`, of the model under test.
        labels: `[N]`.
        level: coverage asked of the interval, in (0, 1).

    Returns:
        The difference, its interval and p-value. None with fewer than two rows, a constant label, a value that is not
        finite, or a difference whose estimated variance is zero.

    Raises:
        ValueError: the shapes differ.
    """
    quantile = _quantile(level)
    first, second, label = (np.asarray(column, np.float64) for column in (predictions_a, predictions_b, labels))
    if label.ndim != 1 or not first.shape == second.shape == label.shape:
        raise ValueError(f"predictions and labels must be [N]; got {first.shape}, {second.shape} and {label.shape}")
    finite = np.isfinite(first) & np.isfinite(second) & np.isfinite(label)
    if label.size < 2 or not finite.all() or np.ptp(label) == 0:
        return None
    gains, spread = np.square(first - label) - np.square(second - label), np.square(label - label.mean())
    value = float(gains.mean() / spread.mean())
    error = float(np.std(gains - value * spread, ddof=1) / spread.mean()) / math.sqrt(label.size)
    if error == 0:
        return None if gains.any() else Difference(0.0, 0.0, 0.0, 1.0)
    reach = quantile * error
    return Difference(value, value - reach, value + reach, math.erfc(abs(value) / error / math.sqrt(2)))


def paired_bootstrap(
    statistic: Callable[..., float | None],
    scores_a: npt.ArrayLike,
    scores_b: npt.ArrayLike,
    *shared: npt.ArrayLike,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference | None:
    """Compare any metric of two models on the same rows by resampling the rows (percentile interval).

    Args:
        statistic: called as `statistic(scores, *shared)` on resampled rows; None where undefined.
        scores_a: `[N]`, of the model compared with.
        scores_b: `[N]`, of the model under test.
        shared: further arrays `[N, ...]` resampled with them: labels, groups.
        n: resamples; those in which the statistic is undefined are left out.
        seed: of the resampling: the same seed gives the same answer.
        level: coverage asked of the interval, in (0, 1).

    Returns:
        The difference B - A, its interval and p-value (no smaller than 2 / (n + 1)); None where it is
        undefined on the rows themselves or in more than half of the resamples.
    """
    columns: list[npt.NDArray[Any]] = [np.asarray(column) for column in (scores_a, scores_b, *shared)]

    def difference(rows: npt.NDArray[np.int64]) -> float:
        first, second, *rest = (column[rows] for column in columns)
        a, b = statistic(first, *rest), statistic(second, *rest)
        return math.nan if a is None or b is None else b - a

    size = len(columns[0])
    generator = np.random.default_rng(seed)
    value = difference(np.arange(size))
    draws = np.array([difference(generator.integers(0, size, size)) for _ in range(n if size else 0)])
    draws = draws[~np.isnan(draws)]
    if math.isnan(value) or 2 * len(draws) < n:
        return None
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    return Difference(value, float(low), float(high), min(1.0, 2 * float(tail + 1) / (len(draws) + 1)))


def paired_difference(
    binary: bool,
    scores_a: npt.ArrayLike,
    scores_b: npt.ArrayLike,
    labels: npt.ArrayLike,
    level: float = 0.95,
    n: int = 1000,
) -> Difference | None:
    """Change of a task's metric from model A to B: of AUC by DeLong, of R^2 by the bootstrap with `n` resamples."""
    if binary:
        return paired_delong(scores_a, scores_b, labels, level)
    return paired_bootstrap(r2, scores_a, scores_b, labels, n=n, level=level)


def _mean_and_error(placements: Floats, positive: Bools) -> tuple[float, float]:
    """AUC of placements (or of their differences) `[N]` and its standard error; two rows of each class at least."""
    wins, losses = placements[positive], placements[~positive]
    variance = np.var(wins, ddof=1) / wins.size + np.var(losses, ddof=1) / losses.size
    return float(wins.mean()), math.sqrt(variance)


def _placements(scores: Floats, positive: Bools) -> Floats:
    """Share of the other class that each row is ordered rightly against, `[N]`; ties count a half."""
    outscored = midranks(scores, ~positive) / (~positive).sum()
    outscored_by = 1 - midranks(scores, positive) / positive.sum()
    placements: Floats = np.where(positive, outscored, outscored_by)
    return placements


def _quantile(level: float) -> float:
    """Half-width of a central normal interval of this coverage, in standard errors."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1; got {level}")
    return NormalDist().inv_cdf((1 + level) / 2)


def _sigmoid(logit: float) -> float:
    """Inverse of the logit, without overflow at either end."""
    return 0.5 * (1 + math.tanh(logit / 2))
