"""Do predicted probabilities mean what they say: log loss, normalised entropy, calibration, reliability."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ranking.metrics.auc import Bools, Floats, binary_columns, midranks

EPSILON = float(np.finfo(np.float64).eps)


class ReliabilityCurve(NamedTuple):
    """Mean predicted and observed rate of each bin that holds a row, lowest scores first; each `[<= bins]`."""

    mean_score: Floats
    mean_label: Floats
    rows: npt.NDArray[np.int64]


def log_loss(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Mean negative log likelihood in nats, probabilities clipped to [eps, 1 - eps] of float64.

    Args:
        scores: `[N]`, probabilities.
        labels: `[N]`, 0 or 1.

    Returns:
        The loss; None without rows or with a NaN score.

    Raises:
        ValueError: the shapes differ, a score is outside [0, 1], or a label is neither 0 nor 1.
    """
    columns = _probabilities(scores, labels)
    if columns is None:
        return None
    score, positive = columns
    clipped = np.clip(score, EPSILON, 1 - EPSILON)
    return -float(np.where(positive, np.log(clipped), np.log1p(-clipped)).mean())


def normalised_entropy(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Log loss over the entropy of the base rate (He et al. 2014, section 2): below 1 beats the mean label.

    Arguments and errors as `log_loss`; None also where all labels are of one class.
    """
    loss = log_loss(scores, labels)
    if loss is None:
        return None
    rate = float(np.mean(np.asarray(labels), dtype=np.float64))
    entropy = log_loss(np.full(np.shape(labels), rate), labels)
    return loss / entropy if entropy and 0 < rate < 1 else None


def calibration_ratio(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Predicted over observed positives: 1 is calibrated on the whole, above 1 predicts too many.

    Arguments and errors as `log_loss`; None also without a positive.
    """
    columns = _probabilities(scores, labels)
    if columns is None or not columns[1].any():
        return None
    return float(columns[0].sum() / columns[1].sum())


def reliability_curve(scores: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 10) -> ReliabilityCurve | None:
    """Observed against predicted rate in bins of equal mass.

    Rows of equal score share a bin (that of their middle rank), so the curve never depends on the order of
    the rows; with many ties some bins are larger and some, left out, hold nothing.

    Args:
        scores: `[N]`, probabilities.
        labels: `[N]`, 0 or 1.
        bins: how many bins to cut the ranks into.

    Returns:
        The curve; None without rows or with a NaN score.

    Raises:
        ValueError: the shapes differ, a score is outside [0, 1], or a label is neither 0 nor 1.
    """
    columns = _probabilities(scores, labels)
    if columns is None:
        return None
    score, positive = columns
    place = (midranks(score) * bins / score.size).astype(np.int64)
    rows = np.bincount(place, minlength=bins)
    held = rows > 0
    score_sum, label_sum = (np.bincount(place, column, bins)[held] for column in (score, positive))
    return ReliabilityCurve(score_sum / rows[held], label_sum / rows[held], rows[held])


def ece(scores: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 10) -> float | None:
    """Expected calibration error: mean gap between predicted and observed rate over bins of equal mass.

    Arguments, errors and the treatment of ties as `reliability_curve`; None where that is.
    """
    curve = reliability_curve(scores, labels, bins)
    if curve is None:
        return None
    return float(np.average(np.abs(curve.mean_score - curve.mean_label), weights=curve.rows))


def _probabilities(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Bools] | None:
    """The checked columns, or None where nothing can be said: no rows, or a NaN score."""
    score, positive = binary_columns(scores, labels)
    strange = score[(score < 0) | (score > 1)]
    if strange.size:
        raise ValueError(f"scores must be probabilities in [0, 1]; got {strange[0]}")
    return None if not score.size or np.isnan(score).any() else (score, positive)
