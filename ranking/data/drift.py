"""How far a feature's distribution moved between two samples, as effect sizes: large data makes any p-value tiny."""

from __future__ import annotations

import numpy as np

from ranking.data.columns import Float64
from ranking.data.hashing import Int64
from ranking.schema import Frozen

_DECILES = np.linspace(0, 1, 11)[1:-1]
_CATEGORIES = 19
_SEEN = 10  # an id seen less often has no share worth comparing


class Drift(Frozen):
    """One feature of one split against the training split.

    Attributes:
        psi: population stability index over the training deciles (numbers) or its most frequent ids and the rest;
            below 0.1 is little, above 0.25 much.
        ks: Kolmogorov-Smirnov statistic of the present numbers, None for ids.
        psi_noise: what `psi` is expected to be when nothing moved, from sample size alone.
        ks_noise: the same for `ks`, 0 without one.
    """

    split: str
    feature: str
    psi: float
    ks: float | None
    psi_noise: float
    ks_noise: float


def measure(split: str, feature: str, numeric: bool, reference: Float64, other: Float64) -> Drift:
    """Compare two samples `[N]` and `[M]`, neither empty, of one feature.

    Args:
        split: name of the other split.
        feature: name of the feature.
        numeric: numbers, to compare by order; else table rows, to compare one by one.
        reference: sample of the training split, NaN where missing.
        other: sample of the other split.
    """
    bins = numeric_bins if numeric else category_bins
    counts = bins(reference, reference), bins(reference, other)
    present = reference[~np.isnan(reference)], other[~np.isnan(other)]
    ordered = numeric and present[0].size > 0 and present[1].size > 0
    spread = _spread(reference, other)
    return Drift(
        split=split,
        feature=feature,
        psi=population_stability(*counts),
        ks=kolmogorov_smirnov(*present) if ordered else None,
        psi_noise=(np.count_nonzero(counts[0] + counts[1]) - 1) * spread,
        ks_noise=0.8687 * _spread(*present) ** 0.5 if ordered else 0.0,  # mean of the Kolmogorov distribution
    )


def _spread(a: Float64, b: Float64) -> float:
    return 1 / a.size + 1 / b.size


def population_stability(reference: Int64, other: Int64) -> float:
    """PSI, sum of (p - q) ln(p / q) over the used bins of two histograms `[K]`; half a count is added to each."""
    used = (reference + other) > 0
    p, q = reference[used] + 0.5, other[used] + 0.5
    p, q = p / p.sum(), q / q.sum()
    return float(((p - q) * np.log(p / q)).sum())


def kolmogorov_smirnov(a: Float64, b: Float64) -> float:
    """Largest distance between the empirical distribution functions of `a` `[N]` and `b` `[M]`."""
    points = np.concatenate([a, b])
    shares = [np.searchsorted(np.sort(x), points, side="right") / x.size for x in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max())


def numeric_bins(reference: Float64, values: Float64) -> Int64:
    """Histogram of `values` over the deciles of `reference`, with a last bin for NaN."""
    present = reference[~np.isnan(reference)]
    edges = np.unique(np.quantile(present, _DECILES)) if present.size else np.empty(0)
    bins = np.searchsorted(edges, values, side="right")
    bins[np.isnan(values)] = edges.size + 1
    return np.bincount(bins, minlength=edges.size + 2)


def category_bins(reference: Float64, values: Float64) -> Int64:
    """Histogram of `values` over the most frequent ids of `reference`, with a last bin for all others."""
    ids, counts = np.unique(reference, return_counts=True)
    ids, counts = ids[counts >= _SEEN], counts[counts >= _SEEN]
    top = np.sort(ids[np.argsort(-counts, kind="stable")[:_CATEGORIES]])
    places = np.searchsorted(top, values)
    known = np.isin(values, top)
    return np.bincount(np.where(known, places, top.size), minlength=top.size + 1)
