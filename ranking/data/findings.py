"""The doctor's report: summaries of tasks and features, what they mean, and how they print."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from ranking.data.drift import Drift
from ranking.schema import CategoricalFeature, Frozen, Schema

FEW_POSITIVES = 100
MOSTLY_NULL = 0.99
MANY_UNKNOWN = 0.1
SOME_DRIFT = 0.1
MUCH_DRIFT = 0.25

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


class Finding(Frozen):
    """One thing to know: an error stops training, a warning deserves a look, a note is for the record."""

    level: Level
    where: str
    message: str


class TaskSummary(Frozen):
    """One task in one split, over the entire space (every observed label) and in its own sample space.

    Attributes:
        entire: rows with an observed label.
        entire_mean: mean label of those: the positive rate of a binary task.
        support: those also inside the sample space.
        mean: mean label of those.
        positives: rows of the sample space with label 1, for a binary task.
        outside: rows with label 1 outside the sample space, for a binary task.
    """

    split: str
    task: str
    entire: int
    entire_mean: float | None
    support: int
    mean: float | None
    positives: int
    outside: int


class FeatureSummary(Frozen):
    """One feature in one split.

    Attributes:
        rows: rows looked at.
        null: share of rows without a value: null, NaN, or for lists an empty one.
        unknown: share of ids that the vocabulary does not have.
        out_of_range: share of ids that were wrapped into the table.
        constant: every encoded value is the same, nulls left out for numbers.
    """

    split: str
    feature: str
    rows: int
    null: float
    unknown: float
    out_of_range: float
    constant: bool


class DoctorReport(Frozen):
    """What the doctor saw; `findings` are sorted by level."""

    rows: dict[str, int]
    tasks: tuple[TaskSummary, ...]
    features: tuple[FeatureSummary, ...]
    drift: tuple[Drift, ...]
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether there is no error among the findings."""
        return all(finding.level != "error" for finding in self.findings)

    def render(self, full: bool = True) -> str:
        """The report as plain-text tables.

        Args:
            full: every feature and every note; else rows, tasks, errors and warnings.
        """
        shown = [f for f in self.findings if full or f.level != "note"]
        tables = [
            _table("split rows", [[split, f"{rows:,}"] for split, rows in self.rows.items()]),
            _table("split task entire rate support rate positives outside", [_task_cells(t) for t in self.tasks]),
        ]
        if full:
            drift = [[d.split, d.feature, f"{d.psi:.3f}", _cell(d.ks)] for d in self.drift]
            tables += [
                _table("split feature null unknown out-of-range constant", [_feature_cells(f) for f in self.features]),
                _table("split feature psi ks", drift),
            ]
        tables.append(_table("level where message", [[f.level, f.where, f.message] for f in shown]))
        return "\n\n".join(table for table in tables if table)


def leaks(schema: Schema) -> Iterator[Finding]:
    """Features read from a column that a label is made of."""
    for feature in schema.features:
        read = {feature.source, feature.weights} if isinstance(feature, CategoricalFeature) else {feature.source}
        for task in schema.tasks:
            for column in sorted(read & set(task.label.columns)):
                message = f"column {column!r} is in the label {str(task.label)!r} of task {task.name!r}: a leak"
                yield Finding(level="warning", where=f"feature {feature.name}", message=message)


def of_features(features: Iterable[FeatureSummary]) -> Iterator[Finding]:
    """What the feature summaries say: constant, nearly empty, unknown or wrapped ids."""
    for feature in features:
        where = f"{feature.split}: feature {feature.feature}"
        if feature.constant:
            yield Finding(level="warning", where=where, message="always the same value")
        if feature.null > MOSTLY_NULL:
            yield Finding(level="warning", where=where, message=f"{feature.null:.2%} null")
        if feature.out_of_range:
            message = f"{feature.out_of_range:.2%} of ids wrapped into the table"
            yield Finding(level="warning", where=where, message=message)
        if feature.unknown:
            level: Level = "warning" if feature.unknown > MANY_UNKNOWN else "note"
            yield Finding(level=level, where=where, message=f"{feature.unknown:.2%} of ids not in the vocabulary")


def of_tasks(schema: Schema, tasks: Iterable[TaskSummary]) -> Iterator[Finding]:
    """What the task summaries say: no support, one class, too few of one, positives outside the sample space."""
    for task in tasks:
        where = f"{task.split}: task {task.task}"
        if not task.support:
            yield Finding(level="error", where=where, message="no observed label in its sample space")
        elif schema.task(task.task).kind == "binary":
            fewest = min(task.positives, task.support - task.positives)
            counts = f"{task.positives:,} positives in {task.support:,} rows of its sample space"
            if not fewest:
                yield Finding(level="error", where=where, message=f"{counts}: one class only, AUC is undefined")
            elif fewest < FEW_POSITIVES:
                yield Finding(level="warning", where=where, message=f"{counts}: too few of one class to score")
        if task.outside:
            message = f"{task.outside:,} positives outside its sample space: they neither train nor score"
            yield Finding(level="note", where=where, message=message)


def of_drift(drift: Iterable[Drift]) -> Iterator[Finding]:
    """Features that moved by more than sampling alone would move them."""
    for moved in drift:
        psi, ks = moved.psi - moved.psi_noise, (moved.ks or 0.0) - moved.ks_noise
        if psi > SOME_DRIFT or ks > SOME_DRIFT:
            level: Level = "warning" if psi > MUCH_DRIFT or ks > MUCH_DRIFT else "note"
            message = f"moved against training: PSI {moved.psi:.3f}, KS {_cell(moved.ks)}"
            yield Finding(level=level, where=f"{moved.split}: feature {moved.feature}", message=message)


def _task_cells(task: TaskSummary) -> list[str]:
    counts = [f"{task.entire:,}", _cell(task.entire_mean), f"{task.support:,}", _cell(task.mean)]
    return [task.split, task.task, *counts, f"{task.positives:,}", f"{task.outside:,}"]


def _feature_cells(feature: FeatureSummary) -> list[str]:
    shares = [f"{share:.2%}" for share in (feature.null, feature.unknown, feature.out_of_range)]
    return [feature.split, feature.feature, *shares, "yes" if feature.constant else "no"]


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _table(header: str, rows: list[list[str]]) -> str:
    """Left-aligned columns under a header of one word each; empty without rows."""
    if not rows:
        return ""
    cells = [header.split(), *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )
