"""Slices: parts of the rows, such as a tab or new users, in which a challenger must not fall; pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from ranking.expression import Expression
from ranking.metrics import Difference, Predictions, paired_delong, paired_r2
from ranking.metrics.auc import Bools
from ranking.metrics.report import Column
from ranking.schema import Frozen
from ranking.tracking.verdict import Check


class SliceConfig(Frozen):
    """One slice, or a family of them; exactly one of `column`, `where` and `unseen`."""

    column: str = Field("", description="One slice for each of the most frequent values of this column.")
    values: int = Field(20, ge=1, description="How many values of `column`; the others are one slice, `other`.")
    where: Expression | None = Field(None, description="Rows for which this is true, such as `hour >= 18`.")
    unseen: str = Field(
        "",
        description="Rows whose id in this categorical feature is new: outside the challenger's vocabulary or, where "
        "the feature has none, nowhere in data.train.",
    )
    margin: float = Field(0.02, ge=0, description="Loss of AUC or R^2 tolerated in the slice.")
    min_positives: int = Field(50, ge=2, description="Rows of either class below which a slice is not judged.")

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        given = [name for name in ("column", "where", "unseen") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"got {given or 'nothing'}; expected one of column, where, unseen")
        return self


class Slice(NamedTuple):
    """The rows of one slice.

    Attributes:
        name: such as `tab=1`.
        mask: `[N]` bool, in ascending order of the row numbers.
        config: its rules.
    """

    name: str
    mask: Bools
    config: SliceConfig


def judge_slices(
    pairs: Sequence[tuple[Predictions, Predictions]],
    slices: Sequence[Slice],
    rows: Column,
    level: float,
) -> list[Check]:
    """Refuse a loss that is larger than the slice's margin and is not noise.

    A loss is not noise where the paired interval lies below 0; its level is corrected for the number of slices and
    tasks judged (Bonferroni), so that many slices do not make a false alarm likely.

    Args:
        pairs: challenger and champion of every task both have, one task each, on the rows of its sample space.
        slices: masks over `rows`.
        rows: `[N]` row numbers, ascending.
        level: coverage of the intervals together.
    """
    found = [(part, part.mask[np.searchsorted(rows, own.rows)], own, old) for own, old in pairs for part in slices]
    lacking = [_lacking(own, inside, part.config.min_positives) for part, inside, own, _ in found]
    corrected = 1 - (1 - level) / max(lacking.count(""), 1)
    return [
        Check(_name(own), own.names[0], True, _bound(part), note=reason, part=part.name)
        if reason
        else _judge(part, own, old, inside, corrected)
        for (part, inside, own, old), reason in zip(found, lacking, strict=True)
    ]


def _judge(part: Slice, own: Predictions, old: Predictions, inside: Bools, level: float) -> Check:
    measure: Callable[..., Difference | None] = paired_delong if own.kinds[0] == "binary" else paired_r2
    change = measure(old.scores[inside, 0], own.scores[inside, 0], own.labels[inside, 0], level)
    if change is None:
        return Check(_name(own), own.names[0], False, _bound(part), part=part.name)
    fell = change.value < -part.config.margin
    noise = change.high >= 0
    note = "within noise" if fell and noise else ""
    return Check(_name(own), own.names[0], not fell or noise, _bound(part), *change[:3], note=note, part=part.name)


def _lacking(own: Predictions, inside: Bools, needed: int) -> str:
    """Why a slice is not judged; "" where it is."""
    labels = own.labels[inside, 0]
    if own.kinds[0] == "binary":
        positives = int(np.count_nonzero(labels == 1))
        scarcer, what = min(positives, len(labels) - positives), "of the scarcer class"
    else:
        scarcer, what = len(labels), "rows"
    return f"{scarcer} {what}, {needed} needed" if scarcer < needed else ""


def _name(own: Predictions) -> str:
    return "auc_change" if own.kinds[0] == "binary" else "r2_change"


def _bound(part: Slice) -> str:
    return f">= {0.0 - part.config.margin:.4f}"
