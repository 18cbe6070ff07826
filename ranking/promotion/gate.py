"""The gate: whether a challenger may replace the champion, from predictions of both on the same rows; pure.

Undefined is failure: a metric that cannot be computed never lets a model pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from ranking.errors import InputError
from ranking.metrics import (
    Difference,
    Interval,
    Kind,
    Predictions,
    SpaceReport,
    delong,
    evaluate_predictions,
    paired_difference,
)
from ranking.metrics.auc import Floats
from ranking.promotion.budgets import LatencyConfig, ShadowConfig
from ranking.promotion.slices import Slice, SliceConfig, judge_slices
from ranking.promotion.verdict import Check, Verdict
from ranking.schema import Frozen

SliceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]

_METRICS: dict[Kind, str] = {"binary": "auc", "regression": "r2"}
_FLOORS: dict[Kind, float] = {"binary": 0.5, "regression": 0.0}  # no better than chance, than the mean label


class GateConfig(Frozen):
    """What a challenger must show. Binary tasks are judged by AUC, regression tasks by R^2, in their sample space.

    Every task must pass, so no correction for their number is due; noise alone lets a model that is equal to the
    champion pass the `improve` check about every other time, but never one that is the champion over again.
    """

    tasks: tuple[str, ...] = Field(
        (), description="Tasks judged; left out: every task of either model. One without support fails the gate."
    )
    margin: float = Field(
        0.002, ge=0, description="Loss tolerated: the lower end of the paired interval must lie above -margin."
    )
    margins: dict[str, float] = Field({}, description="Margin of single tasks.")
    level: float = Field(0.95, gt=0, lt=1, description="Coverage of the intervals.")
    improve: Literal["mean", "any", "none"] = Field(
        "mean", description="What must gain: the mean over binary tasks (without any: over all), any one task, nothing."
    )
    min_gain: float = Field(0.0, ge=0, description="The gain that `improve` asks for must be larger than this.")
    calibration: tuple[float, float] = Field(
        (0.8, 1.25), description="Bounds of predicted over observed positives, for every binary task."
    )
    ece_max: float = Field(0.1, gt=0, description="Bound of the expected calibration error of every binary task.")
    floors: dict[str, float] = Field(
        {},
        description="Where there is no champion to compare with, the lower end of the AUC's (R^2's) interval must lie "
        "above this; left out: 0.5 (0).",
    )
    min_positives: int = Field(10, ge=2, description="Rows of either class below which a metric is undefined.")
    resamples: int = Field(1000, ge=100, description="Bootstrap resamples behind the interval of R^2.")
    dropped: Literal["report", "refuse"] = Field(
        "report",
        description="A task that the champion has and the challenger has not: said in the report, or a failure.",
    )
    slices: dict[SliceName, SliceConfig] = Field(
        {}, description="Parts of the rows in which no task may fall, by name; judged against the champion only."
    )
    latency: LatencyConfig = LatencyConfig()
    shadow: ShadowConfig = ShadowConfig()
    max_artefact_mib: float | None = Field(None, gt=0, description="Bound of the packaged model's size, in MiB.")
    approval: Literal["automatic", "required"] = Field(
        "automatic", description="required: a challenger that passes becomes `candidate` and waits for a person."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.calibration
        if not 0 <= low < high:
            raise ValueError(f"calibration: {list(self.calibration)}; expected bounds [low, high]")
        negative = [task for task, margin in self.margins.items() if not margin >= 0]
        if negative:
            raise ValueError(f"margins.{negative[0]}: {self.margins[negative[0]]}; expected a number of at least 0")
        return self


def decide(
    challenger: Predictions,
    champion: Predictions | None,
    config: GateConfig,
    slices: Sequence[Slice] = (),
    dropped: Sequence[str] = (),
) -> Verdict:
    """Compare two models on the same rows, or hold the first model to the absolute floors.

    They are compared in the tasks that both have. One that only the challenger has is held to its floor; one that only
    the champion has is a note, or fails where `config` says so or names it.

    Args:
        challenger: its predictions on the pinned evaluation set.
        champion: predictions of the model it would replace, None where there is none.
        config: the requirements.
        slices: parts of the rows; without a champion none is judged.
        dropped: tasks of the champion that cannot be scored any more, for want of labels.

    Raises:
        InputError: `config` names a task that neither model has.
        ValueError: a binary label is neither 0 nor 1.
    """
    gone = tuple(name for name in champion.names if name not in challenger.names) if champion else ()
    _refuse_unknown(config, (*challenger.names, *gone, *dropped))
    if champion and not np.array_equal(np.sort(challenger.rows), np.sort(champion.rows)):
        note = f"challenger scored on {len(challenger.rows)}, champion on {len(champion.rows)}"
        return Verdict((Check("rows", "", False, "the same rows", note=note),))
    gone = tuple(dict.fromkeys((*gone, *dropped)))
    refused = gone if config.dropped == "refuse" else ()
    pairs = [_pair(task, challenger, champion) for task in config.tasks or (*challenger.names, *refused)]
    checks = [check for pair in pairs for check in _judge(pair, config)]
    if champion and config.improve != "none":
        checks.append(_improvement(checks, config))
    fit = {check.task for check in checks if check.name.endswith("_change")}
    both = [(pair.own, pair.old) for pair in pairs if pair.own and pair.old and pair.task in fit]
    checks += judge_slices(both, slices, config.level)
    return Verdict(tuple(checks), tuple(_differences(challenger, champion, gone)))


def _differences(challenger: Predictions, champion: Predictions | None, gone: tuple[str, ...]) -> Iterator[str]:
    """What the two models do not share, in words."""
    if champion:
        new = [task for task in challenger.names if task not in champion.names]
        if new:
            yield f"the champion does not predict {', '.join(new)}: held to the floors alone"
        if gone:
            yield f"the challenger does not predict {', '.join(gone)}, which the champion does"


def _refuse_unknown(config: GateConfig, known: tuple[str, ...]) -> None:
    for key in ("tasks", "margins", "floors"):
        for task in getattr(config, key):
            if task not in known:
                raise InputError(f"gate.{key}: unknown task {task!r}; expected one of {list(known)}")


class _Pair(NamedTuple):
    """One task of both models on the rows of its sample space, and the challenger's scores of all rows."""

    task: str
    own: Predictions | None
    old: Predictions | None
    everywhere: Floats


def _pair(task: str, challenger: Predictions, champion: Predictions | None) -> _Pair:
    if task not in challenger.names:
        return _Pair(task, None, None, np.zeros(0))
    own = _only(challenger, task)
    old = _only(champion, task) if champion and task in champion.names else None
    return _Pair(task, own, old, challenger.scores[:, challenger.names.index(task)])


def _judge(pair: _Pair, config: GateConfig) -> list[Check]:
    """All checks of one task, or the one that says why it cannot be judged."""
    task, own, old, everywhere = pair  # rows outside the space will be served too
    if own is None:
        return [Check("task", task, False, "a task of the challenger", note="the champion has it")]
    unfit = _unfit("challenger", everywhere, own.kinds[0]) or (old and _unfit("champion", old.scores, old.kinds[0]))
    if unfit:
        return [Check("scores", task, False, "finite, and probabilities of a binary task", note=unfit)]
    if old and not _same_labels(own, old):
        return [Check("rows", task, False, "the same labels and sample space")]
    space = evaluate_predictions(own, 0, config.min_positives, config.level).tasks[task].sample_space
    if space.undefined:
        return [Check("support", task, False, "both classes, or a label that varies", note=space.undefined)]
    return [_quality(task, own, old, config), *_calibrated(task, space, config)]


def _only(predictions: Predictions, task: str) -> Predictions:
    """One task on the rows of its sample space `[n, 1]`, in the order of the rows."""
    column = predictions.names.index(task)
    own = np.flatnonzero(predictions.in_space[:, column])
    own = own[np.argsort(predictions.rows[own])]
    cells = np.ix_(own, np.array([column]))
    scores, labels, space = predictions.scores[cells], predictions.labels[cells], predictions.in_space[cells]
    return Predictions((task,), (predictions.kinds[column],), scores, labels, space, space, predictions.rows[own])


def _unfit(whose: str, scores: Floats, kind: Kind) -> str:
    """How many predictions cannot be served; "" where all can."""
    low, high = (0.0, 1.0) if kind == "binary" else (-math.inf, math.inf)
    count = int(np.count_nonzero(~(np.isfinite(scores) & (scores >= low) & (scores <= high))))
    return f"{count} of {scores.size} of the {whose} are not" if count else ""


def _same_labels(own: Predictions, old: Predictions) -> bool:
    return own.kinds == old.kinds and np.array_equal(own.rows, old.rows) and np.array_equal(own.labels, old.labels)


def _quality(task: str, own: Predictions, old: Predictions | None, config: GateConfig) -> Check:
    """The whole interval of the metric above its floor or, with a champion, that of the change above -margin."""
    kind = own.kinds[0]
    if old:
        name, limit = f"{_METRICS[kind]}_change", 0.0 - config.margins.get(task, config.margin)
    else:
        name, limit = _METRICS[kind], config.floors.get(task, _FLOORS[kind])
    value, bound = _measure(own, old, config), f"> {limit:.4f}"
    if value is None:
        return Check(name, task, False, bound)
    note = "too few rows to tell" if value.value > limit else ""
    return Check(name, task, value.low > limit, bound, *value[:3], note=note)


def _measure(own: Predictions, old: Predictions | None, config: GateConfig) -> Interval | Difference | None:
    """AUC or R^2 of one task, or its change from the champion, with an interval."""
    scores, labels = own.scores[:, 0], own.labels[:, 0]
    binary = own.kinds[0] == "binary"
    if old is None and binary:
        return delong(scores, labels, config.level)
    # without a champion: R^2 is the gain over predicting the mean label
    reference = np.full(labels.shape, labels.mean(dtype=np.float64)) if old is None else old.scores[:, 0]
    return paired_difference(binary, reference, scores, labels, config.level, config.resamples)


def _calibrated(task: str, space: SpaceReport, config: GateConfig) -> list[Check]:
    """Calibration of a binary task, whose report has `positives`."""
    if space.positives is None:
        return []
    (low, high), most = config.calibration, config.ece_max
    ratio, error = space.calibration, space.ece
    within = ratio is not None and low <= ratio <= high
    return [
        Check("calibration", task, within, f"{low:g} to {high:g}", ratio),
        Check("ece", task, error is not None and error <= most, f"<= {most:g}", error),
    ]


def _improvement(checks: list[Check], config: GateConfig) -> Check:
    """The gain that `improve` asks for, over the tasks that both models have."""
    changes = {c.task: c.value for c in checks if c.name.endswith("_change") and c.value is not None}
    ranking = {c.task: c.value for c in checks if c.name == "auc_change" and c.value is not None}
    gains = (ranking if config.improve == "mean" and ranking else changes).values()
    bound, note = f"> {config.min_gain:.4f}", f"{config.improve} of {len(gains)} tasks"
    if not gains:
        return Check("improvement", "", False, bound, note=note)
    gain = max(gains) if config.improve == "any" else math.fsum(gains) / len(gains)
    return Check("improvement", "", gain > config.min_gain, bound, gain, note=note)
