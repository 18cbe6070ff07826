"""Area under the ROC curve, exact: the chance that a positive outscores a negative, ties counted as half."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def binary_columns(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Bools]:
    """Check a pair of columns and give them one type each.

    Args:
        scores: `[N]`.
        labels: `[N]`, 0 or 1.

    Returns:
        The scores `[N]` as float64 and the mask of the positives `[N]`.

    Raises:
        ValueError: the shapes differ, or a label is neither 0 nor 1 (a null included).
    """
    score, label = np.asarray(scores, np.float64), np.asarray(labels)
    if score.ndim != 1 or score.shape != label.shape:
        raise ValueError(f"scores and labels must both be [N]; got {score.shape} and {label.shape}")
    positive = label == 1
    strange = label[~(positive | (label == 0))]
    if strange.size:
        raise ValueError(f"binary labels must be 0 or 1; got {strange[0]}")
    return score, positive


def row_weights(weights: npt.ArrayLike | None, rows: int) -> Floats:
    """Weights `[N]` as float64, or ones where none are given; raises ValueError on a negative or a null."""
    if weights is None:
        return np.ones(rows)
    weight = np.asarray(weights, np.float64)
    if weight.shape != (rows,) or not (weight >= 0).all():
        raise ValueError(f"weights must be [{rows}] and not negative; got {weight.shape}")
    return weight


def run_starts(values: npt.NDArray[Any]) -> Bools:
    """True where a value differs from the one before it, and at index 0, `[N]`."""
    starts = np.ones(values.size, np.bool_)
    starts[1:] = values[1:] != values[:-1]
    return starts


def tied_midranks(first: Bools, weights: Floats) -> Floats:
    """Midranks of values that are already sorted.

    Args:
        first: `[N]`, true where a run of equal values starts.
        weights: `[N]`, in the same order.

    Returns:
        `[N]`, the weight of all smaller values plus half the weight of the equal ones.
    """
    if not first.size:
        return np.zeros(0)
    mass = np.add.reduceat(weights, np.flatnonzero(first))
    midranks: Floats = (np.cumsum(mass) - mass / 2)[np.cumsum(first) - 1]
    return midranks


def midranks(values: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Floats:
    """Rank values by the weight below them, ties sharing the middle.

    With unit weights this is the textbook midrank less one half; with the negatives' weights it counts,
    for every row, the negatives that the row outscores. Exact for weights that are whole numbers.

    Args:
        values: `[N]`, without NaN.
        weights: `[N]`, not negative; one each by default.

    Returns:
        `[N]`, the weight of all smaller values plus half the weight of the equal ones.
    """
    value = np.asarray(values, np.float64)
    weight = row_weights(weights, value.size)
    order = np.argsort(value)
    ordered = value[order]
    ranks = np.empty(value.size)
    ranks[order] = tied_midranks(run_starts(ordered), weight[order])
    return ranks


def roc_auc(scores: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float | None:
    """Area under the ROC curve as the weighted Mann-Whitney statistic, in O(N log N).

    Args:
        scores: `[N]`, larger means more likely positive; any scale.
        labels: `[N]`, 0 or 1.
        weights: `[N]`, not negative; a pair of rows counts as the product of its weights.

    Returns:
        The area in [0, 1]; None where it is undefined: no rows, one class only, or a NaN score.

    Raises:
        ValueError: the shapes differ, a label is neither 0 nor 1, or a weight is negative.
    """
    score, positive = binary_columns(scores, labels)
    weight = row_weights(weights, score.size)
    negative_weight = np.where(positive, 0.0, weight)
    positive_weight = weight - negative_weight
    pairs = positive_weight.sum() * negative_weight.sum()
    if pairs <= 0 or np.isnan(score).any():
        return None
    return min(float(positive_weight @ midranks(score, negative_weight) / pairs), 1.0)
