"""Is a day fit to train on: there, of the usual size and types, with the usual labels, and not drifted away."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pyarrow as pa

from pipelines.nightly.night import DayReport, Rate
from ranking.config import RunConfig
from ranking.data.checks import drifts
from ranking.data.drift import Drift
from ranking.data.encode import Encoder
from ranking.data.findings import LEVELS, Finding, TaskSummary, of_tasks
from ranking.data.manifest import Manifest
from ranking.data.profile import Profile
from ranking.data.storage import DamageError
from ranking.data.transforms import Transforms
from ranking.errors import InputError
from ranking.training.nightly import DayChecks

SAMPLE = 10_000
"""Values of a feature that the profile of the training data keeps."""

_DRIFT_SHOWN = 12
_STANDARD_ERRORS = 4.0
_NO_FAULT = (FileNotFoundError, pa.ArrowException, ValueError, TypeError, ImportError)
"""Behind an InputError about a file: nothing there, damage, or a URL that no file system knows."""


class Reference(NamedTuple):
    """The champion whose training data a day is compared with.

    Attributes:
        version: of the champion.
        folder: its night directory.
        checkpoints: whether a training can begin from it.
        trained: days that it, or a champion it began from, was trained on.
        transforms: what its training data was encoded with.
        profile: of its training data.
    """

    version: int
    folder: Path
    checkpoints: bool
    trained: tuple[date, ...]
    transforms: Transforms
    profile: Profile


def is_there(day: date, config: RunConfig) -> bool:
    """Whether a day's files, and its marker where there is one, can be found."""
    retrain, store = config.retrain, config.data.store
    marker = retrain.marker.replace("{date}", day.isoformat())
    return bool(store.find(retrain.url(day))) and (not marker or bool(store.find(marker)))


def wait(day: date, config: RunConfig) -> bool:
    """Look for a day until it is there or `retrain.wait_s` is over."""
    deadline = time.monotonic() + config.retrain.wait_s
    while not (found := is_there(day, config)) and time.monotonic() < deadline:
        time.sleep(min(config.retrain.poll_s, max(0.0, deadline - time.monotonic())))
    return found


def examine(day: date, others: Sequence[date], config: RunConfig, reference: Reference | None) -> DayReport:
    """Compare a day with the other days of its window and with the champion's training data.

    Args:
        day: the day; its files are there.
        others: the other days, oldest first.
        config: data, schema and bounds.
        reference: None where there is no champion of an earlier night.

    Returns:
        The report; whatever is wrong with the day is a finding in it.
    """
    try:
        found = manifest([day], config)
        usual = [manifest([other], config).rows for other in others]
        if others:
            manifest([others[-1], day], config)  # refuses types that do not go together
    except InputError as error:
        if _is_fault_of_the_store(error):
            raise
        return DayReport(findings=(_error("files", str(error)),))
    report = DayReport(rows=found.rows, usual_rows=median(usual) if usual else None)
    findings = list(_size(report, config.retrain.checks))
    if reference is None:
        return report.model_copy(update={"findings": tuple(findings)})
    return _against(reference, found, report, findings, config)


def manifest(days: Sequence[date], config: RunConfig) -> Manifest:
    """The files of some days."""
    urls = [config.retrain.url(day) for day in days]
    return config.data.manifest(urls, config.schema.columns(), "retrain.partition")


def _is_fault_of_the_store(error: Exception) -> bool:
    """Whether a place could not be reached, rather than being wrong or holding something wrong."""
    cause = error.__cause__
    return cause is not None and not isinstance(error, DamageError) and not isinstance(cause, _NO_FAULT)


def profile(found: Manifest, transforms: Transforms, config: RunConfig) -> Profile:
    """One pass over a manifest."""
    return Profile.of("day", Encoder(config.schema, transforms), config.data.raw_rows(found), sample=SAMPLE)


def _against(
    reference: Reference, found: Manifest, report: DayReport, findings: list[Finding], config: RunConfig
) -> DayReport:
    checks = config.retrain.checks
    seen, before = profile(found, reference.transforms, config), reference.profile
    usual = {task.task: task for task in before.tasks}
    moved = [d for d in drifts(config.schema, before, seen) if d.feature not in checks.ignore]
    findings += seen.findings()
    findings += of_tasks(config.schema, seen.tasks)
    findings += [f for task in seen.tasks if task.task in usual for f in _label(task, usual[task.task], checks)]
    findings += _missing(before, seen, checks)
    findings += [finding for drift in moved for finding in _drift(drift, checks)]
    return report.model_copy(
        update={
            "reference": reference.version,
            "rates": tuple(
                Rate(task=t.task, mean=t.mean, usual=usual[t.task].mean if t.task in usual else None)
                for t in seen.tasks
            ),
            "drift": tuple(sorted(moved, key=lambda drift: _share(drift, checks), reverse=True)[:_DRIFT_SHOWN]),
            "findings": tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level))),
        }
    )


def effect(drift: Drift) -> float:
    """Size of a drift less what chance gives: KS of numbers, whose ties spoil PSI, and PSI of ids."""
    return drift.psi - drift.psi_noise if drift.ks is None else drift.ks - drift.ks_noise


def _size(report: DayReport, checks: DayChecks) -> Iterator[Finding]:
    if report.usual_rows is None:
        return
    low, high = checks.rows
    share = report.rows / report.usual_rows
    if not low <= share <= high:
        message = (
            f"{report.rows:,} rows, {share:.2f} times the usual {report.usual_rows:,.0f}; "
            f"expected {low:g} to {high:g} times (retrain.checks.rows)"
        )
        yield _error("rows", message)


def _label(task: TaskSummary, usual: TaskSummary, checks: DayChecks) -> Iterator[Finding]:
    """The mean label, against that of the training data; noise from the day's own size is no change."""
    if task.mean is None or not usual.mean:
        return
    low, high = checks.label_rate
    share, spread = task.mean / usual.mean, math.sqrt(usual.mean / max(task.support, 1))
    noise = _STANDARD_ERRORS * spread if task.positives or usual.positives else 0.0
    if not low <= share <= high and abs(task.mean - usual.mean) > noise:
        message = (
            f"mean label {task.mean:.4g}, {share:.2f} times the champion's training data ({usual.mean:.4g}); "
            f"expected {low:g} to {high:g} times (retrain.checks.label_rate)"
        )
        yield _error(f"task {task.task}", message)


def _missing(before: Profile, seen: Profile, checks: DayChecks) -> Iterator[Finding]:
    usual = {feature.feature: feature.null for feature in before.features}
    for feature in seen.features:
        grown = feature.null - usual.get(feature.feature, 0.0)
        if grown > checks.missing:
            message = (
                f"{feature.null:.1%} of rows without a value, {grown:.1%} more than the champion's training data; "
                f"expected at most {checks.missing:.1%} more (retrain.checks.missing)"
            )
            yield _error(f"feature {feature.feature}", message)


def _drift(drift: Drift, checks: DayChecks) -> Iterator[Finding]:
    name, value, most = ("PSI", drift.psi, checks.psi) if drift.ks is None else ("KS", drift.ks, checks.ks)
    if effect(drift) > most:
        message = (
            f"drifted from the champion's training data: {name} {value:.3f}, expected at most {most:g} "
            f"(retrain.checks.{name.lower()})"
        )
        yield _error(f"feature {drift.feature}", message)


def _share(drift: Drift, checks: DayChecks) -> float:
    """How much of its bound a feature uses up."""
    return effect(drift) / (checks.psi if drift.ks is None else checks.ks)


def _error(where: str, message: str) -> Finding:
    return Finding(level="error", where=where, message=message)
