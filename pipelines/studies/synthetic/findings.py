"""What the paper concludes, put to the test: every finding becomes comparisons of runs with 95 % intervals.

A comparison says which values the finding claims. It holds where the whole interval lies inside them, is refuted where
the whole interval lies outside, and is open otherwise. Where the paper says "equal", "far smaller" or "comparable"
without a number, the bounds are ours and stand here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from pipelines.studies.record import Row
from pipelines.studies.synthetic.measure import Numbers

FINDINGS = {
    "labels": "the labels' correlation is positive and rises with p; in the linear case it is p",
    "relatedness": "shared bottom: the lower p, the higher the loss",
    "a": "every model is better at higher p",
    "b": "MMoE's gap across p is far smaller than OMoE's and shared bottom's (less than half)",
    "c": "at p = 1 MMoE and OMoE are equal (within 10 %)",
    "d": "both mixtures beat shared bottom everywhere",
    "e": "shared bottom's losses spread widest at every p; OMoE's spread grows as p falls, MMoE's does not (by 25 %)",
    "f": "the lowest losses of the three are comparable (5 % quantiles within 25 %)",
}
TUNED = "tuned"

_HALF, _EQUAL, _SIMILAR = 0.5, 0.1, 1.25
_LINEAR = 0.01  # how far from p the mean correlation of linear labels may lie
_Z = 1.96
_RESAMPLES = 2000

Losses = Mapping[str, Mapping[float, Numbers]]  # model, p: `[R]`, run r on the same data everywhere
Statistic = Callable[..., Any]  # on samples `[..., R]`


class Comparison(NamedTuple):
    """One number with its interval, and the open interval of values that the finding claims."""

    finding: str
    model: str
    p: list[float]
    statistic: str
    interval: tuple[float, float, float]  # value, low, high
    claim: tuple[float, float]

    @property
    def verdict(self) -> str:
        """`holds`, `refuted` or `open`."""
        _, low, high = self.interval
        if self.claim[0] < low and high < self.claim[1]:
            return "holds"
        return "refuted" if high <= self.claim[0] or self.claim[1] <= low else "open"


def judge(rows: Sequence[Row]) -> list[Row]:
    """Rows of the findings, from the rows of the measurements; (a) to (f) also at every single learning rate."""
    cells = {part: [row for row in rows if row["part"] == part] for part in ("labels", "relatedness", "models")}
    runs = cells["models"][0]["runs"]
    found = [_row(TUNED, cells["labels"][0]["runs"], each) for each in _of_labels(cells["labels"])]
    related = _losses(cells["relatedness"], TUNED)
    found += [_row(TUNED, runs, each) for each in _falls_with_p("relatedness", related)]
    for rate in (TUNED, *cells["models"][0]["loss_runs"]):
        losses = _losses(cells["models"], rate)
        if all(np.isfinite(values).all() for at in losses.values() for values in at.values()):
            found += [_row(rate, runs, each) for each in _of_models(losses)]
    return found


def conclude(verdicts: Sequence[str]) -> str:
    """A finding's verdict from those of its comparisons."""
    holding, refuted = verdicts.count("holds"), verdicts.count("refuted")
    if holding == len(verdicts):
        return "holds"
    if holding:
        return f"in part: {holding} of {len(verdicts)} hold, {refuted} refuted"
    return "refuted" if refuted else "open"


def bootstrap(statistic: Statistic, *samples: Numbers) -> tuple[float, float, float]:
    """A statistic of runs, paired between the samples, and its percentile interval."""
    size = len(samples[0])
    chosen = np.random.default_rng(0).integers(0, size, (_RESAMPLES, size))
    low, high = np.quantile(statistic(*(sample[chosen] for sample in samples)), [0.025, 0.975])
    return float(statistic(*samples)), float(low), float(high)


def _row(rate: str, runs: int, found: Comparison) -> Row:
    value, low, high = found.interval
    bounds = [bound if math.isfinite(bound) else None for bound in found.claim]
    return {
        "part": "findings",
        "finding": found.finding,
        "learning_rate": rate,
        "model": found.model,
        "p": found.p,
        "runs": runs,
        "statistic": found.statistic,
        "value": value,
        "low": low,
        "high": high,
        "claimed": bounds,
        "verdict": found.verdict,
    }


def _losses(rows: Sequence[Row], rate: str) -> Losses:
    losses: dict[str, dict[float, Numbers]] = {}
    for row in rows:
        values = row["loss_runs"][str(row["learning_rate"]) if rate == TUNED else rate]
        losses.setdefault(row["model"], {})[row["p"]] = np.array(values, dtype=float)  # None becomes NaN
    return losses


def _of_labels(rows: Sequence[Row]) -> Iterator[Comparison]:
    for row in rows:
        interval = _normal(row["pearson_mean"], row["pearson_std"] ** 2 / row["runs"])
        if row["model"] == "labels_linear":
            value, low, high = (bound - row["p"] for bound in interval)
            claim = (-_LINEAR, _LINEAR)
            yield Comparison("labels", row["model"], [row["p"]], "mean correlation less p", (value, low, high), claim)
        elif row["p"] > 0:
            yield Comparison("labels", row["model"], [row["p"]], "mean correlation", interval, (0, math.inf))
    for below, above in pairwise(row for row in rows if row["model"] == "labels"):
        variance = sum(row["pearson_std"] ** 2 / row["runs"] for row in (below, above))
        interval = _normal(above["pearson_mean"] - below["pearson_mean"], variance)
        yield Comparison("labels", "labels", [below["p"], above["p"]], "rise of the mean", interval, (0, math.inf))


def _of_models(losses: Losses) -> Iterator[Comparison]:
    bottom, omoe, mmoe = (losses[name] for name in ("shared_bottom", "omoe", "mmoe"))
    values = sorted(bottom)
    ends = [values[0], values[-1]]
    yield from _falls_with_p("a", losses)
    for name, other in {"omoe": omoe, "shared_bottom": bottom}.items():
        found = bootstrap(_gap_saved, *(at[p] for at in (mmoe, other) for p in ends))
        text = f"half of {name}'s gap less mmoe's"  # a ratio has no interval where the gap below it is near zero
        yield Comparison("b", f"{name}, mmoe", ends, text, found, (0, math.inf))
    if values[-1] == 1:
        found = bootstrap(lambda x, y: x.mean(-1) / y.mean(-1) - 1, mmoe[1], omoe[1])
        yield Comparison("c", "mmoe / omoe", [1], "ratio of mean losses less 1", found, (-_EQUAL, _EQUAL))
    for p in values:
        for name, other in {"omoe": omoe, "mmoe": mmoe}.items():
            found = bootstrap(_excess, bottom[p], other[p])
            yield Comparison("d", f"shared_bottom - {name}", [p], "difference of mean losses", found, (0, math.inf))
            found = bootstrap(_spread_ratio, bottom[p], other[p])
            yield Comparison("e", f"shared_bottom / {name}", [p], "ratio of standard deviations", found, (1, math.inf))
    for name, at, claim in (("omoe", omoe, (1, math.inf)), ("mmoe", mmoe, (-math.inf, _SIMILAR))):
        found = bootstrap(_spread_ratio, *(at[p] for p in ends))
        yield Comparison("e", name, ends, "growth of the standard deviation", found, claim)
    for p in values:
        found = bootstrap(_lowest_ratio, *(at[p] for at in (bottom, omoe, mmoe)))
        yield Comparison("f", "highest / lowest", [p], "ratio of 5 % quantiles", found, (-math.inf, _SIMILAR))


def _falls_with_p(finding: str, losses: Losses) -> Iterator[Comparison]:
    for model, at in losses.items():
        values = sorted(at)
        for below, above in dict.fromkeys([*pairwise(values), (values[0], values[-1])]):
            found = bootstrap(_excess, at[below], at[above])
            yield Comparison(finding, model, [below, above], "fall of the mean loss", found, (0, math.inf))


def _normal(value: float, variance: float) -> tuple[float, float, float]:
    reach = _Z * math.sqrt(variance)
    return value, value - reach, value + reach


def _excess(x: Numbers, y: Numbers) -> Any:
    return x.mean(-1) - y.mean(-1)


def _gap_saved(x_low: Numbers, x_high: Numbers, y_low: Numbers, y_high: Numbers) -> Any:
    return _HALF * np.abs(_excess(y_low, y_high)) - np.abs(_excess(x_low, x_high))


def _spread_ratio(x: Numbers, y: Numbers) -> Any:
    return x.std(-1, ddof=1) / y.std(-1, ddof=1)


def _lowest_ratio(*samples: Numbers) -> Any:
    lowest = np.stack([np.quantile(sample, 0.05, axis=-1) for sample in samples])
    return lowest.max(0) / lowest.min(0)
