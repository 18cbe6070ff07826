"""GAUC: the AUC within each group (a user), averaged: ranking quality as one user sees it."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ranking.metrics.auc import binary_columns, row_weights, run_starts, tied_midranks
from ranking.schema import NO_USER


class GroupedAuc(NamedTuple):
    """GAUC, None where undefined, with its support: groups that hold both classes, and their rows."""

    value: float | None
    groups: int
    rows: int


def gauc(
    scores: npt.ArrayLike, labels: npt.ArrayLike, groups: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> GroupedAuc:
    """AUC within each group, averaged with the group's impressions as weights (Zhou et al. 2018, section 6.1).

    Groups of one class have no AUC and are left out. Exact for weights that are whole numbers; fractional
    ones round at about 1e-9, since one running sum crosses all groups.

    Args:
        scores: `[N]`, larger means more likely positive.
        labels: `[N]`, 0 or 1.
        groups: `[N]`, the id of each row's group; rows of `NO_USER` are in none.
        weights: `[N]`, not negative; a group's impressions are the sum of its weights, one each by default.

    Returns:
        The average in [0, 1], or None where no group holds both classes or a score is NaN, and its support.

    Raises:
        ValueError: the shapes differ, a label is neither 0 nor 1, or a weight is negative.
    """
    score, positive = binary_columns(scores, labels)
    weight, group = row_weights(weights, score.size), np.asarray(groups)
    if group.shape != score.shape:
        raise ValueError(f"groups must be [{score.size}]; got {group.shape}")
    known = np.flatnonzero(group != NO_USER)
    if not known.size or np.isnan(score).any():
        return GroupedAuc(None, 0, 0)
    order = known[np.lexsort((score[known], group[known]))]
    score, positive, weight, group = score[order], positive[order], weight[order], group[order]
    opens = run_starts(group)
    first = opens | run_starts(score)
    index, starts = np.cumsum(opens) - 1, np.flatnonzero(opens)

    negative_weight = np.where(positive, 0.0, weight)
    positive_weight = weight - negative_weight
    negatives = np.add.reduceat(negative_weight, starts)
    positives = np.add.reduceat(positive_weight, starts)
    earlier = np.cumsum(negatives) - negatives
    outscored = tied_midranks(first, negative_weight) - earlier[index]
    wins = np.add.reduceat(positive_weight * outscored, starts)

    used = (positives > 0) & (negatives > 0)
    if not used.any():
        return GroupedAuc(None, 0, 0)
    areas = wins[used] / (positives[used] * negatives[used])
    value = float(np.average(areas, weights=(positives + negatives)[used]))
    return GroupedAuc(min(max(value, 0.0), 1.0), int(used.sum()), int(used[index].sum()))
