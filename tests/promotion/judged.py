"""Predictions of models of known skill on the same rows, for the tests of the gate."""

import dataclasses

import numpy as np

from ranking.metrics import Predictions
from ranking.promotion.gate import GateConfig

ROWS = 4000
CLICK, LIKE, WATCH = range(3)
CONFIG = GateConfig(margin=0.01, resamples=100)


def model(skill: float = 1.0, seed: int = 1) -> Predictions:
    """A click, a like among clicks and a watch time among clicks; the same rows and labels whatever the model.

    Args:
        skill: 1 predicts the true probability and mean, 0 only the base rate.
        seed: of the model's own noise, none for 0.
    """
    world = np.random.default_rng(5)
    logits = world.normal(0, 1.2, (ROWS, 2))
    truth = 1 / (1 + np.exp(-logits))
    labels = (world.random((ROWS, 2)) < truth).astype(np.float32)
    mean = world.normal(10, 3, ROWS)
    watch = mean + world.normal(0, 2, ROWS)
    noise = np.random.default_rng(seed).normal(0, 0.02 if seed else 0, (ROWS, 3))
    clicked, every = labels[:, CLICK] == 1, np.ones(ROWS, bool)
    scores = 1 / (1 + np.exp(-skill * logits - noise[:, :2]))
    return Predictions(
        names=("click", "like", "watch"),
        kinds=("binary", "binary", "regression"),
        scores=np.column_stack([scores, 10 + skill * (mean - 10) + noise[:, 2]]).astype(np.float32),
        labels=np.column_stack([labels, np.where(clicked, watch, np.nan)]),
        in_space=np.column_stack([every, clicked, clicked]),
        observed=np.column_stack([every, every, clicked]),
        rows=np.arange(ROWS) * 3,
    )


def blurred(share: float, task: int = CLICK) -> Predictions:
    """The good model with some rows of one task scored like others: as calibrated, ranking worse."""
    predictions = model()
    scores = predictions.scores.copy()
    some = np.random.default_rng(3).permutation(ROWS)[: int(share * ROWS)]
    scores[some, task] = scores[np.roll(some, 1), task]
    return dataclasses.replace(predictions, scores=scores)


def changed(predictions: Predictions, task: int, change, rows=slice(None)) -> Predictions:
    scores = predictions.scores.copy()
    scores[rows, task] = change(scores[rows, task])
    return dataclasses.replace(predictions, scores=scores)


def failed(verdict) -> set[tuple[str, str]]:
    assert verdict.promote == all(check.passed for check in verdict.checks)
    return {(check.name, check.task) for check in verdict.checks if not check.passed}


def narrowed(predictions: Predictions, *tasks: int) -> Predictions:
    columns = {key: getattr(predictions, key)[:, tasks] for key in ("scores", "labels", "in_space", "observed")}
    names, kinds = ([getattr(predictions, key)[task] for task in tasks] for key in ("names", "kinds"))
    return dataclasses.replace(predictions, names=tuple(names), kinds=tuple(kinds), **columns)
