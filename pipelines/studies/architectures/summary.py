"""Numbers over runs: best, mean, spread, and what a model gains over the reference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from ranking.metrics import EvaluationReport

LEVEL = 0.95

Reports = Mapping[int, EvaluationReport]


def over_seeds(reports: Mapping[str, Reports], reference: str) -> list[dict[str, Any]]:
    """One row for every model: `<task>_<metric>_best`, `_mean`, `_std`, and its gain over the reference.

    A gain is a mean of differences seed by seed, with Student's interval. A task that is undefined in one of a
    model's runs, for want of positives, is left out of its row.

    Args:
        reports: test reports by model and seed.
        reference: model whose runs are subtracted.
    """
    return [_row(model, runs, reports[reference]) for model, runs in reports.items()]


def metric_of(report: EvaluationReport, task: str) -> tuple[str, float | None]:
    """What a task is judged by: AUC of a binary task, R^2 of a regression."""
    name = "auc" if report.tasks[task].kind == "binary" else "r2"
    return name, getattr(report.tasks[task].sample_space, name)


def tasks_of(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Tasks and their metrics that any row has, in order."""
    keys = dict.fromkeys(key.removesuffix("_mean") for row in rows for key in row if key.endswith("_mean"))
    return [(task, metric) for task, _, metric in (key.rpartition("_") for key in keys)]


def _row(model: str, runs: Reports, reference: Reports) -> dict[str, Any]:
    row: dict[str, Any] = {"model": model, "runs": len(runs)}
    for task in next(iter(runs.values())).tasks:
        values = {seed: metric_of(report, task)[1] for seed, report in runs.items()}
        known = {seed: value for seed, value in values.items() if value is not None}
        if len(known) < len(runs):
            continue
        name = f"{task}_{metric_of(next(iter(runs.values())), task)[0]}"
        row |= _statistics(name, list(known.values()))
        others = {seed: metric_of(reference[seed], task)[1] for seed in known}
        row |= _gain(name, [known[seed] - other for seed, other in others.items() if other is not None])
    return row


def _statistics(name: str, values: Sequence[float]) -> dict[str, float]:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {f"{name}_best": max(values), f"{name}_mean": float(np.mean(values)), f"{name}_std": spread}


def _gain(name: str, values: Sequence[float]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    middle, runs = float(np.mean(values)), len(values)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, runs - 1) * np.std(values, ddof=1) / math.sqrt(runs))
    return {f"{name}_gain": middle, f"{name}_gain_low": middle - reach, f"{name}_gain_high": middle + reach}
