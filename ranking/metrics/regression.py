"""Errors of point predictions. For a binary task the prediction is the probability."""

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from ranking.metrics.auc import Floats


def r2(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Coefficient of determination, 1 - SSE / SST: 1 is perfect, 0 is no better than the mean label.

    Args:
        predictions: `[N]`.
        labels: `[N]`.

    Returns:
        A value of at most 1; None where undefined: no rows, a label that is constant or varies too little for its
        variance to be a number, or a value not finite.

    Raises:
        ValueError: the shapes differ.
    """
    label = np.asarray(labels, np.float64)
    error = mse(predictions, label)
    # the range, not SST, tells a constant label: the mean of a constant is rounded
    if error is None or np.ptp(label) == 0:
        return None
    variance = float(np.var(label))
    return _finite(1 - error / variance) if variance else None


def r2_interval(predictions: npt.ArrayLike, labels: npt.ArrayLike, level: float = 0.95) -> tuple[float, float] | None:
    """Confidence interval of `r2` over rows taken as independent (delta method of the ratio SSE / SST).

    Args:
        predictions: `[N]`.
        labels: `[N]`.
        level: coverage asked of the interval, in (0, 1).

    Returns:
        The two ends, the upper at most 1; None where `r2` is.
    """
    value = r2(predictions, labels)
    if value is None:
        return None
    label = np.asarray(labels, np.float64)
    error, spread = np.square(_residuals(predictions, labels)), np.square(label - label.mean())
    with np.errstate(over="ignore"):
        deviation = float(np.std(error - (1 - value) * spread, ddof=1)) / float(spread.mean())
    reach = NormalDist().inv_cdf((1 + level) / 2) * deviation / math.sqrt(label.size)
    return (value - reach, min(value + reach, 1.0)) if math.isfinite(reach) else None


def mse(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Mean squared error of `[N]` predictions; None without rows or with a value that is not finite."""
    with np.errstate(over="ignore"):
        return _mean(np.square(_residuals(predictions, labels)))


def rmse(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Root of the mean squared error, in the label's unit; None where `mse` is."""
    error = mse(predictions, labels)
    return None if error is None else math.sqrt(error)


def mae(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Mean absolute error, in the label's unit; None without rows or with a value that is not finite."""
    return _mean(np.abs(_residuals(predictions, labels)))


def _residuals(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> Floats:
    """Predictions less labels, `[N]`."""
    prediction, label = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    if prediction.ndim != 1 or prediction.shape != label.shape:
        raise ValueError(f"predictions and labels must both be [N]; got {prediction.shape} and {label.shape}")
    with np.errstate(invalid="ignore"):
        return prediction - label


def _mean(values: Floats) -> float | None:
    """Mean of `[N]` values, None where there is none."""
    return _finite(float(values.mean())) if values.size else None


def _finite(value: float) -> float | None:
    """The value, or None where it is NaN or infinite."""
    return value if math.isfinite(value) else None
