"""Slices: parts of the rows, such as a tab or new users, in which a challenger must not fall; pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from ranking.expression import Expression
from ranking.metrics import Difference, Predictions, paired_delong, paired_r2
from ranking.metrics.auc import Bools
from ranking.metrics.report import Array
from ranking.promotion.verdict import Check
from ranking.schema import Frozen


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
        rows: `[n]` numbers of the rows of which it is known whether they belong to it.
        mask: `[n]` bool, those that do.
        config: its rules.
    """

    name: str
    rows: Array
    mask: Bools
    config: SliceConfig


def judge_slices(
    pairs: Sequence[tuple[Predictions, Predictions]],
    slices: Sequence[Slice],
    level: float,
) -> list[Check]:
    """Refuse a loss that is larger than the slice's margin and is not noise, and a slice that is known in part only.

    A loss is not noise where the paired interval lies below 0; its level is corrected for the number of slices and
    tasks judged (Bonferroni), so that many slices do not make a false alarm likely.

    Args:
        pairs: challenger and champion of every task both have, one task each, on the rows of its sample space.
        slices: parts of the rows.
        level: coverage of the intervals together.
    """
    found = [(part, np.isin(own.rows, part.rows[part.mask]), own, old) for own, old in pairs for part in slices]
    settled = [_settled(part, own, inside) for part, inside, own, _ in found]
    corrected = 1 - (1 - level) / max(settled.count(None), 1)
    return [
        check or _judge(part, own, old, inside, corrected)
        for (part, inside, own, old), check in zip(found, settled, strict=True)
    ]


def _settled(part: Slice, own: Predictions, inside: Bools) -> Check | None:
    """The check of a slice that cannot be measured; None where it can.

    It fails where rows were scored of which it is unknown whether they belong: the column that says so is damaged.
    """
    task, unknown = own.names[0], int(np.count_nonzero(~np.isin(own.rows, part.rows)))
    if unknown:
        note = f"unknown of {unknown} of {len(own.rows)} rows"
        return Check("rows", task, False, "known to be in or out", note=note, part=part.name)
    reason = _lacking(own, inside, part.config.min_positives)
    return Check(_name(own), task, True, _bound(part), note=reason, part=part.name) if reason else None


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
