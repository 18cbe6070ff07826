"""Powers of the served score, searched on validation: the weighted GAUC of all tasks under one score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.assembly import Assembly
from pipelines.fit import trained
from pipelines.offline import narrowed, predict
from pipelines.release import score_best
from pipelines.score import load, model_uri
from pipelines.tuning import study as studies
from pipelines.tuning.report import begin, publish
from ranking.config import RunConfig
from ranking.data.columns import RawRows
from ranking.data.manifest import Manifest
from ranking.distributed.world import World
from ranking.errors import InputError
from ranking.metrics import Predictions, gauc
from ranking.promotion.registry import Registry
from ranking.serving.fusion import fuse
from ranking.training.search import Dimension, TuneConfig

_LABEL = "weighted_gauc"
_PATH = "fusion.powers."
_RANGE = Dimension(low=0.0, high=2.0)


def tune_fusion(config: RunConfig, world: World) -> None:
    """Search `fusion.powers` on rank 0, from predictions that are made once.

    The first trial has the powers as they stand, so that the study can only gain.

    Raises:
        InputError: there is no user to group by, or a weighted task is none that GAUC can judge.
    """
    settings, powers = _settings(config), _powers(config)
    counted = weights(config)
    found, rows = predictions(config, world)
    if found is None:
        return
    judge = Judge(config, found, counted, lengths(config, rows, found))
    directory = config.output / "tune" / "fusion"
    first = {path: powers[path] for path in settings.space}
    study = studies.open_study(settings, f"{config.name}-fusion", config.seed, directory, first)
    config = config.model_copy(update={"tune": settings})
    with studies.locked(directory):
        begin(study, config, directory)
    for _ in studies.turns(study, settings):
        study.optimize(lambda trial: judge({**powers, **studies.suggestions(settings, trial)}), n_trials=1)
    publish(study, config, directory, _LABEL, powers)


class Judge:
    """The objective: sum over tasks of weight times the GAUC of the fused score.

    Args:
        config: tasks, factors of the score, and the rows that count.
        found: predictions on the validation rows.
        weights: of the tasks that count.
        lengths: `[N]` values of `fusion.length.column` in the order of `found`; None without that factor.
    """

    def __init__(
        self, config: RunConfig, found: Predictions, weights: Mapping[str, float], lengths: Tensor | None
    ) -> None:
        """Cut out what never changes between trials."""
        self.tasks, self.fusion, self.lengths = config.schema.tasks, config.fusion, lengths
        self.scores, self.groups = torch.from_numpy(found.scores).double(), found.groups
        masks = found.observed if config.tune.fusion.space == "entire" else found.in_space
        places = {name: found.names.index(name) for name in weights}
        self.parts = [
            (w, masks[:, places[n]], found.labels[masks[:, places[n]], places[n]]) for n, w in weights.items()
        ]

    def __call__(self, powers: Mapping[str, Any]) -> float:
        """The weighted sum under powers by path.

        Raises:
            InputError: no user has both classes of a task.
        """
        named = {path.removeprefix(_PATH): power for path, power in powers.items()}
        fusion = self.fusion.model_copy(update={"powers": named})
        score = fuse(self.scores, self.tasks, fusion, self.lengths).numpy()
        assert self.groups is not None  # schema.user is set
        areas = [(w, gauc(score[mask], labels, self.groups[mask]).value) for w, mask, labels in self.parts]
        if any(area is None for _, area in areas):
            raise InputError("tune.fusion.weights: a task has no user with both classes on validation; leave it out")
        return math.fsum(weight * (area or 0.0) for weight, area in areas)


def predictions(config: RunConfig, world: World) -> tuple[Predictions | None, Manifest]:
    """What the chosen model says about the validation rows, on rank 0, and which rows they are."""
    source = config.tune.fusion.source
    if source == "run":
        parts, state, checkpoints = trained(config, world)
        rows = parts.manifest("validation")
        return score_best(parts, state, checkpoints, rows)[1].predictions, rows
    rows = Assembly(config, world).manifest("validation")
    if not world.is_rank_zero:
        return None, rows
    ranker = load(model_uri(Registry(config.tracking.uri, config.registry.name), source))
    return predict(ranker, rows, config), rows


def lengths(config: RunConfig, rows: Manifest, found: Predictions) -> Tensor | None:
    """`[N]` values of `fusion.length.column` in the order of `found`; None without that factor.

    Raises:
        InputError: a row was scored whose value is in quarantine.
    """
    factor = config.fusion.length
    if factor is None:
        return None
    values, known = np.full(rows.rows, np.nan), np.zeros(rows.rows, np.bool_)
    for index, table in config.data.row_groups(narrowed(rows, [factor.column])):
        values[index], known[index] = RawRows(table, index).column(factor.column).finite(), True
    lost = np.count_nonzero(~known[found.rows])
    if lost:
        raise InputError(
            f"fusion.length.column: {factor.column!r} is damaged in {lost} of {len(found.rows)} rows that were scored; "
            "expected all of them to have it"
        )
    return torch.from_numpy(values[found.rows])


def weights(config: RunConfig) -> dict[str, float]:
    """Weight of every task's GAUC.

    Raises:
        InputError: there is no user to group by, or a task is none that GAUC can judge.
    """
    schema = config.schema
    if not schema.user:
        raise InputError("schema.user: missing; expected the column that GAUC groups by")
    binary = [task.name for task in schema.tasks if task.kind == "binary"]
    found = dict(config.tune.fusion.weights) or dict.fromkeys(binary, 1.0)
    odd = sorted(set(found) - set(binary))
    if odd:
        raise InputError(f"tune.fusion.weights: {odd[0]!r} is a regression task; GAUC wants some of {binary}")
    return found


def _settings(config: RunConfig) -> TuneConfig:
    wanted = config.tune.fusion.powers or {path.removeprefix(_PATH): _RANGE for path in _powers(config)}
    return config.tune.model_copy(update={"space": {_PATH + name: dim for name, dim in wanted.items()}})


def _powers(config: RunConfig) -> dict[str, float]:
    """Every task's power as it stands, by path; tasks that do not count are left out unless they are searched."""
    tasks, searched = config.schema.tasks, config.tune.fusion.powers
    pairs = zip(config.schema.task_names, config.fusion.exponents(tasks), strict=True)
    return {_PATH + name: power for name, power in pairs if power or name in searched}
