"""The evaluation report: every metric in the task's sample space and, beside it, over the entire space."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, FiniteFloat

from ranking.metrics.auc import Bools, roc_auc
from ranking.metrics.calibration import calibration_ratio, ece, log_loss, normalised_entropy
from ranking.metrics.gating import MixtureHealth
from ranking.metrics.grouped import gauc
from ranking.metrics.regression import mae, mse, r2, r2_interval, rmse
from ranking.metrics.significance import delong
from ranking.schema import Frozen

Kind = Literal["binary", "regression"]
Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said about an evaluation set, in any order of the rows.

    Attributes:
        names: T task names, in schema order.
        kinds: T kinds.
        scores: `[N, T]` probabilities of binary tasks, predictions of regression tasks in the label's unit.
        labels: `[N, T]`; read only where observed.
        in_space: `[N, T]` bool, the mask that trains: the task's sample space; implies observed.
        observed: `[N, T]` bool, the label is not null: the entire space.
        rows: `[N]` row index in the manifest, each once.
        groups: `[N]` group (user) of each row, `NO_USER` for none, or None for no GAUC.

    Raises:
        ValueError: shapes disagree, a row comes twice or is padding (-1), or a row in space has no label.
    """

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    scores: Array
    labels: Array
    in_space: Bools
    observed: Bools
    rows: Array
    groups: Array | None = None

    def __post_init__(self) -> None:
        """Refuse what would silently spoil a metric."""
        shape = (len(self.rows), len(self.names))
        for field in ("scores", "labels", "in_space", "observed"):
            if getattr(self, field).shape != shape:
                raise ValueError(f"{field}: expected {list(shape)}, got {list(getattr(self, field).shape)}")
        if len(self.kinds) != shape[1]:
            raise ValueError(f"kinds: expected {shape[1]}, got {len(self.kinds)}")
        if self.groups is not None and self.groups.shape != shape[:1]:
            raise ValueError(f"groups: expected [{shape[0]}], got {list(self.groups.shape)}")
        ordered = np.sort(self.rows)
        if (ordered[:1] < 0).any() or (ordered[1:] == ordered[:-1]).any():
            raise ValueError("rows: every row must come once, and padding (-1) not at all")
        if (self.in_space & ~self.observed).any():
            raise ValueError("in_space: a row of a sample space has no label")


class SpaceReport(Frozen):
    """Metrics of one task over one set of rows; None is "undefined", with the reason in `undefined`.

    Attributes:
        rows: support.
        positives: support of the positive class (binary).
        undefined: why the metrics that need support are None; None where they are defined.
        mean_label: base rate, or mean of the label.
        mean_score: mean prediction; None where a prediction is not finite.
        auc: area under the ROC curve (binary, as all below down to `ece`).
        auc_interval: its DeLong interval.
        gauc: AUC within groups, None too without groups that hold both classes.
        gauc_groups: groups that hold both classes.
        gauc_rows: rows of those groups.
        log_loss: in nats.
        normalised_entropy: log loss over the entropy of the base rate.
        calibration: predicted over observed positives.
        ece: expected calibration error.
        r2: 1 - SSE / SST; of the probability for a binary task.
        r2_interval: its interval.
        mse: mean squared error.
        mae: mean absolute error.
        rmse: root of the mean squared error.
    """

    rows: int
    positives: int | None = None
    undefined: str | None = None
    mean_label: FiniteFloat | None = None
    mean_score: FiniteFloat | None = None
    auc: FiniteFloat | None = None
    auc_interval: tuple[FiniteFloat, FiniteFloat] | None = None
    gauc: FiniteFloat | None = None
    gauc_groups: int | None = None
    gauc_rows: int | None = None
    log_loss: FiniteFloat | None = None
    normalised_entropy: FiniteFloat | None = None
    calibration: FiniteFloat | None = None
    ece: FiniteFloat | None = None
    r2: FiniteFloat | None = None
    r2_interval: tuple[FiniteFloat, FiniteFloat] | None = None
    mse: FiniteFloat | None = None
    mae: FiniteFloat | None = None
    rmse: FiniteFloat | None = None

    def metrics(self) -> dict[str, float]:
        """Every defined number by name; the intervals as `auc_low`, `auc_high`, `r2_low` and `r2_high`."""
        values = self.model_dump(exclude={"undefined", "auc_interval", "r2_interval"}, exclude_none=True)
        values.update(zip(("auc_low", "auc_high"), self.auc_interval or (), strict=False))
        values.update(zip(("r2_low", "r2_high"), self.r2_interval or (), strict=False))
        return {name: float(value) for name, value in values.items()}


class TaskReport(Frozen):
    """One task in its sample space (where it trains) and over the entire space (every row with a label)."""

    kind: Kind
    sample_space: SpaceReport
    entire_space: SpaceReport


class EvaluationReport(Frozen):
    """All tasks at one step, and every mixture of experts by the name of its module."""

    step: int
    tasks: dict[str, TaskReport]
    experts: dict[str, MixtureHealth] = Field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """Flat for a tracker; undefined ones are left out.

        Such as `click/auc` in the sample space, `click/entire_space/auc`, `experts/<module>/click/entropy`.
        """
        experts = {
            f"experts/{module}/{name}": value
            for module, health in self.experts.items()
            for name, value in health.metrics().items()
        }
        return experts | {
            f"{task}/{prefix}{name}": value
            for task, report in self.tasks.items()
            for prefix, space in (("", report.sample_space), ("entire_space/", report.entire_space))
            for name, value in space.metrics().items()
        }

    def objective(self, metric: str = "auc", tasks: Sequence[str] | None = None) -> float | None:
        """Mean of a sample-space metric over tasks, to choose the best checkpoint of a run by.

        A task without the support for the metric is left out: it is at every step, so steps still compare.

        Args:
            metric: a field of `SpaceReport`.
            tasks: names to average over; all binary tasks by default.

        Returns:
            The mean; None where no task defines the metric, or a prediction of any of them is not finite.

        Raises:
            ValueError: no such metric or task.
        """
        if metric not in SpaceReport.model_fields or metric in ("undefined", "auc_interval", "r2_interval"):
            raise ValueError(f"objective: no metric {metric!r}")
        names = [name for name, task in self.tasks.items() if task.kind == "binary"] if tasks is None else tasks
        unknown = sorted(set(names) - set(self.tasks))
        if unknown:
            raise ValueError(f"objective: no task {unknown[0]!r} among {sorted(self.tasks)}")
        spaces = [self.tasks[name].sample_space for name in names]
        if any(space.rows and space.mean_score is None for space in spaces):
            return None
        values = [value for space in spaces if (value := getattr(space, metric)) is not None]
        return math.fsum(values) / len(values) if values else None


@dataclass(frozen=True)
class _Reporter:
    """The rules a report is made by."""

    min_positives: int
    level: float

    def space(self, kind: Kind, scores: Array, labels: Array, groups: Array | None) -> SpaceReport:
        """Report one task over the rows of one space, columns `[N]`."""
        rows, binary = len(scores), kind == "binary"
        positives = int(np.count_nonzero(labels == 1)) if binary else None
        broken = int(np.count_nonzero(~(np.isfinite(scores) & np.isfinite(labels))))
        if not rows:
            return SpaceReport(rows=rows, positives=positives, undefined="no rows")
        if broken:
            reason = f"a prediction or label is not finite in {broken} of {rows} rows"
            return SpaceReport(rows=rows, positives=positives, undefined=reason)
        lacking = self._lacking(labels, positives)
        values = self._plain(scores, labels, binary)
        if lacking is None:
            values |= {"r2": r2(scores, labels), "r2_interval": r2_interval(scores, labels, self.level)}
            values |= self._ranking(scores, labels, groups) if binary else {}
        return SpaceReport(rows=rows, positives=positives, undefined=lacking, **values)

    def _lacking(self, labels: Array, positives: int | None) -> str | None:
        """Why metrics that tell labels apart are undefined here, or None where they are not."""
        if positives is None:
            return "constant label" if np.ptp(labels) == 0 else None
        for name, count in (("positives", positives), ("negatives", len(labels) - positives)):
            if count < max(self.min_positives, 1):
                return f"{count} {name} in {len(labels)} rows, {max(self.min_positives, 1)} needed"
        return None

    def _plain(self, scores: Array, labels: Array, binary: bool) -> dict[str, Any]:
        """Means over rows, defined whatever the labels are."""
        return {
            "mean_label": float(labels.mean()),
            "mean_score": float(scores.mean()),
            "mse": mse(scores, labels),
            "mae": mae(scores, labels),
            "rmse": rmse(scores, labels),
            "log_loss": log_loss(scores, labels) if binary else None,
        }

    def _ranking(self, scores: Array, labels: Array, groups: Array | None) -> dict[str, Any]:
        """Metrics of a binary task that need both classes."""
        interval = delong(scores, labels, self.level)
        grouped = None if groups is None else gauc(scores, labels, groups)
        return {
            "auc": roc_auc(scores, labels),
            "auc_interval": interval and interval[1:],
            "gauc": grouped and grouped.value,
            "gauc_groups": grouped and grouped.groups,
            "gauc_rows": grouped and grouped.rows,
            "normalised_entropy": normalised_entropy(scores, labels),
            "calibration": calibration_ratio(scores, labels),
            "ece": ece(scores, labels),
        }


def evaluate_predictions(
    predictions: Predictions, step: int, min_positives: int = 10, level: float = 0.95
) -> EvaluationReport:
    """Report every task in both spaces; the same bits whatever the order of the rows.

    Args:
        predictions: of the whole evaluation set, gathered from all ranks.
        step: optimizer updates the model had seen.
        min_positives: rows of either class below which metrics that need both are undefined.
        level: coverage of the AUC interval.

    Raises:
        ValueError: a binary label is neither 0 nor 1, or a score of a binary task is not a probability.
    """
    order, reporter = np.argsort(predictions.rows), _Reporter(min_positives, level)
    groups = predictions.groups

    def report(task: int, mask: Bools) -> SpaceReport:
        """One task over the rows of one space."""
        rows = order[mask[order, task]]
        scores, labels = (table[rows, task].astype(np.float64) for table in (predictions.scores, predictions.labels))
        try:
            return reporter.space(predictions.kinds[task], scores, labels, None if groups is None else groups[rows])
        except ValueError as error:
            raise ValueError(f"task {predictions.names[task]}: {error}") from error

    def both(task: int) -> TaskReport:
        sample = report(task, predictions.in_space)
        same = np.array_equal(predictions.in_space[:, task], predictions.observed[:, task])
        entire = sample if same else report(task, predictions.observed)
        return TaskReport(kind=predictions.kinds[task], sample_space=sample, entire_space=entire)

    return EvaluationReport(step=step, tasks={name: both(task) for task, name in enumerate(predictions.names)})
