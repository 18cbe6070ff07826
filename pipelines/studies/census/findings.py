"""What the paper's table says and what this project set out to reach, each put to the test with a 95 % interval.

An interval of a mean is Student's over the runs, one of a difference of means Welch's: both are about random initial
weights on these very test rows. What other test rows would change is the sampling error the report gives beside them;
it moves all models together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from pipelines.studies.census.config import CensusStudyConfig
from pipelines.studies.census.published import PUBLISHED
from pipelines.studies.record import Row

LEVEL = 0.95
REFERENCE = "mmoe"

FINDINGS = {
    "best": "the model's mean exceeds its published best",
    "tree": "MMoE's mean reaches a tuned gradient-boosted tree",
    "rates": "a model that also reads rates of its label among training rows reaches that tree in the mean",
    "trees": "a model that reads rates and boosted trees' log-odds reaches that tree in the mean",
    "beyond": "a model that reads rates and boosted trees' log-odds exceeds these log-odds in the mean",
    "pooled": "the mean probability of MMoE networks trained together reaches that tree",
    "order": "MMoE's mean is above, or below, the other model's as published",
    "rank": "the models' means are ordered as published (Kendall's tau)",
}


class Verdict(NamedTuple):
    """A number with its interval against the value a finding claims to exceed."""

    value: float
    low: float
    high: float
    bound: float

    @property
    def text(self) -> str:
        """`holds`, `refuted` or `open`, where the bound lies inside the interval."""
        return "holds" if self.low > self.bound else "refuted" if self.high < self.bound else "open"


def judge(config: CensusStudyConfig, rows: Sequence[Row]) -> list[Row]:
    """Rows of the findings, from those of the runs; what is not finished is not judged."""
    return [finding for group in config.groups for finding in _group(config, group, rows)]


def mean(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and Student's interval."""
    middle, spread = float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * spread
    return middle, middle - reach, middle + reach


def difference(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Difference of the means of two samples and Welch's interval."""
    found = stats.ttest_ind(one, other, equal_var=False)
    interval = found.confidence_interval(LEVEL)
    return float(np.mean(one) - np.mean(other)), float(interval.low), float(interval.high)


def _group(config: CensusStudyConfig, group: str, rows: Sequence[Row]) -> Iterator[Row]:
    settings = config.groups[group]
    table, main = PUBLISHED.get(settings.number, {}), settings.main
    runs = {row["model"]: row[f"{main}_runs"] for row in rows if row["group"] == settings.number and row["runs"] > 1}
    known = [name for name in table if name in runs]
    for model in known:
        yield _row("best", settings.number, model, Verdict(*mean(runs[model]), table[model].best))
    if REFERENCE not in runs:
        return
    yield _row("tree", settings.number, REFERENCE, Verdict(*mean(runs[REFERENCE]), settings.goal))
    yield from _reading(config, group, runs, rows)
    for row in (row for row in rows if row["model"] == REFERENCE and row["group"] == settings.number and "pool" in row):
        name = f"{REFERENCE} x {row['pool']}"
        yield _row("pooled", settings.number, name, Verdict(*mean(row[f"{main}_pooled_runs"]), settings.goal))
    for model in known:
        published = round(table[REFERENCE].mean - table[model].mean, 4)
        pair = (REFERENCE, model) if published > 0 else (model, REFERENCE)
        if published:  # the published means of some are equal, which claims no order
            verdict = Verdict(*difference(*(runs[name] for name in pair)), 0.0)
            yield _row("order", settings.number, " - ".join(pair), verdict) | {"published": abs(published)}
    if len(known) > 2:
        tau, p_value = stats.kendalltau([np.mean(runs[name]) for name in known], [table[name].mean for name in known])
        yield {
            "part": "findings",
            "finding": "rank",
            "group": settings.number,
            "model": "all",
            "models": len(known),
        } | {
            "value": float(tau),
            "p_value": float(p_value),
        }


def _reading(
    config: CensusStudyConfig, group: str, runs: Mapping[str, Sequence[float]], rows: Sequence[Row]
) -> Iterator[Row]:
    """Of the models that read what the recipe makes of labels."""
    settings = config.groups[group]
    for model in (name for name in config.reads if name in runs):
        finding = "trees" if "trees" in config.made(model) else "rates"
        yield _row(finding, settings.number, model, Verdict(*mean(runs[model]), settings.goal))
        alone = [row[key] for row in rows if row["model"] == model if (key := f"{settings.main}_trees_test") in row]
        for auc in alone:
            yield _row("beyond", settings.number, model, Verdict(*mean(runs[model]), auc))


def _row(finding: str, group: int, model: str, verdict: Verdict) -> dict[str, Any]:
    numbers = {"value": verdict.value, "low": verdict.low, "high": verdict.high, "bound": verdict.bound}
    return {"part": "findings", "finding": finding, "group": group, "model": model, **numbers, "verdict": verdict.text}
