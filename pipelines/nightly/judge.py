"""Champion and challenger on the same rows, task by task, with intervals: what a report shows of the judgement."""

from __future__ import annotations

import numpy as np

from pipelines.champion_challenger import BothVersions
from pipelines.nightly.night import Duel, Score
from ranking.config import RunConfig
from ranking.metrics import Predictions, delong, paired_difference, r2, r2_interval
from ranking.metrics.report import Array


def duels(both: BothVersions, config: RunConfig) -> tuple[Duel, ...]:
    """Every task of the challenger in its sample space; one that the champion has not, on the same rows, stands alone.

    Args:
        both: predictions of both on the same rows.
        config: level of the intervals.
    """
    new, champion = both.challenger_output.predictions, both.champion_output if both.aligned else None
    return tuple(_duel(task, new, champion and champion.predictions, config) for task in new.names)


def _duel(task: str, new: Predictions, old: Predictions | None, config: RunConfig) -> Duel:
    place = new.names.index(task)
    inside = np.flatnonzero(new.in_space[:, place])
    labels, now = new.labels[inside, place], new.scores[inside, place]
    binary = new.kinds[place] == "binary"
    champion = change = None
    if old is not None and task in old.names:
        before = old.scores[inside, old.names.index(task)]
        champion, change = _score(before, labels, binary, config), _change(before, now, labels, binary, config)
    return Duel(
        task=task,
        metric="auc" if binary else "r2",
        judged=not config.gate.tasks or task in config.gate.tasks,
        rows=len(inside),
        challenger=_score(now, labels, binary, config),
        champion=champion,
        change=change,
    )


def _score(scores: Array, labels: Array, binary: bool, config: RunConfig) -> Score:
    if binary:
        found = delong(scores, labels, config.gate.level)
        return Score(value=None) if found is None else Score(value=found.value, low=found.low, high=found.high)
    value, ends = r2(scores, labels), r2_interval(scores, labels, config.gate.level)
    return Score(value=value, low=ends[0], high=ends[1]) if ends else Score(value=value)


def _change(before: Array, now: Array, labels: Array, binary: bool, config: RunConfig) -> Score | None:
    found = paired_difference(binary, before, now, labels, config.gate.level, config.gate.resamples)
    return None if found is None else Score(value=found.value, low=found.low, high=found.high)
