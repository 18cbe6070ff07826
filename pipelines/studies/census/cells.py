"""Tunes a cell and makes its runs, from wherever an earlier start of the study had come to."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from pydantic import Field

from pipelines.studies.census.config import Cell, CensusStudyConfig
from pipelines.studies.census.table import Splits, number
from pipelines.studies.census.train import Numbers, Trained, areas
from pipelines.studies.record import machine
from ranking.errors import InputError
from ranking.files import write_atomically
from ranking.metrics import roc_auc
from ranking.metrics.significance import delong
from ranking.schema import Frozen
from ranking.tracking.runs import git_revision

log = logging.getLogger(__name__)

_WEIGHTS = 1_000_003  # between the seeds of the tuner's runs and those of the final ones


class Result(Frozen):
    """The runs of a cell so far: its file in the output directory.

    Attributes:
        settings: what they were trained with.
        digest: of what their rows depend on; empty: not known.
        validation: AUC `[R][T]` on validation rows.
        test: AUC `[R][T]` on test rows.
        pooled: AUC `[P][T]` on test rows of the mean probability over every `pool` runs that were trained together.
        pool: how many those are.
        reach: half the 95 % interval of the first run's AUC over samples of test rows, of every task.
        trees: AUC of the trees' log-odds alone on the main task, of validation and test rows, where the model reads
            them.
        seconds: of training and scoring them.
        trials: of the tuner behind the settings.
        revision: of the code that trained them; of several where it changed in between.
        machine: as the revision.
    """

    settings: dict[str, Any]
    digest: str = ""
    validation: tuple[tuple[float, ...], ...] = ()
    test: tuple[tuple[float, ...], ...] = ()
    pooled: tuple[tuple[float, ...], ...] = ()
    pool: int = Field(1, ge=1)
    reach: tuple[float, ...] = ()
    trees: tuple[float, ...] = ()
    seconds: float = 0.0
    trials: int = Field(0, ge=0)
    revision: str = ""
    machine: str = ""


def finish(config: CensusStudyConfig, group: str, model: str, splits: Splits) -> Iterator[Result]:
    """Tune, then train what is missing of the runs; the result after every part of them."""
    tuned, trials = tune(config, group, model, splits)
    cell = config.cell(group, model, tuned)
    file, together = path(config, group, model), max(1, config.together // cell.members)
    fresh = Result(settings=cell.model_dump(mode="json"), digest=_digest(_data(config, group, model)), pool=together)
    result = read(file)
    if result is None or any(getattr(result, name) != getattr(fresh, name) for name in ("settings", "digest", "pool")):
        result = fresh
    result = result.model_copy(update={"trials": trials, "trees": _trees(config, group, model, splits)})
    write_atomically(file, result.model_dump_json().encode())
    while (done := len(result.test)) < config.runs:
        seed = _seed(config, group, model) + _WEIGHTS + done
        result = _more(result, cell, splits, min(together, config.runs - done), seed)
        write_atomically(file, result.model_dump_json().encode())
        log.info("%s %s: %d of %d runs, test AUC %.5f", group, model, len(result.test), config.runs, _mean(result))
        yield result


def tune(config: CensusStudyConfig, group: str, model: str, splits: Splits) -> tuple[dict[str, Any], int]:
    """The best settings by dotted path, on validation AUC of the main task, and the number of trials behind them.

    Raises:
        InputError: every trial diverged.
    """
    space = config.space(group, model)
    if not space:
        return {}, 0
    seed, wanted = _seed(config, group, model), config.tuner
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{config.output / 'trials.db'}",
        sampler=optuna.samplers.GPSampler(seed=seed, n_startup_trials=wanted.startup_trials),
        study_name=f"{group}-{model}-{_digest(_searched(config, group, model))}",
        direction="maximize",
        load_if_exists=True,
    )

    def value(trial: optuna.Trial) -> float:
        drawn = {name: dimension.suggest(trial, name) for name, dimension in space.items()}
        trained = Trained(config.cell(group, model, drawn), splits, wanted.runs, seed + trial.number)
        found = float(areas(trained.probabilities(splits.validation), splits.validation)[:, 0].mean())
        log.info("%s %s: trial %d, validation AUC %.5f with %s", group, model, trial.number, found, drawn)
        return found  # NaN of a divergence fails the trial

    ended = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))  # one cut short is not
    study.optimize(value, n_trials=max(0, wanted.trials - ended))
    done = [trial for trial in study.get_trials() if trial.state == optuna.trial.TrialState.COMPLETE]
    if not done:
        raise InputError(f"spaces.{model}: every trial of {group} diverged; expected smaller learning rates")
    best = study.best_trial.params
    return {name: _drawn(space[name].values, best[name]) for name in space}, len(done)


def path(config: CensusStudyConfig, group: str, model: str) -> Path:
    """A cell's file."""
    return config.output / "cells" / f"{group}-{model}.json"


def read(file: Path) -> Result | None:
    """What is finished of a cell; None before its first runs."""
    return Result.model_validate_json(file.read_text()) if file.exists() else None


def _more(result: Result, cell: Cell, splits: Splits, runs: int, seed: int) -> Result:
    """Train some runs more."""
    start, code, place = time.perf_counter(), git_revision(), machine()
    trained = Trained(cell, splits, runs, seed)
    scores = trained.probabilities(splits.test)
    test = areas(scores, splits.test)
    validation = areas(trained.probabilities(splits.validation), splits.validation)
    pooled = areas(scores.mean(0, keepdims=True), splits.test) if runs == result.pool else test[:0]
    if not (np.isfinite(validation).all() and np.isfinite(test).all()):
        raise InputError(f"learning_rate: a run diverged at {cell.learning_rate:g}; expected smaller ones")
    return result.model_copy(
        update={
            "validation": (*result.validation, *map(tuple, validation.tolist())),
            "test": (*result.test, *map(tuple, test.tolist())),
            "pooled": (*result.pooled, *map(tuple, pooled.tolist())),
            "reach": result.reach or _reach(scores[0], splits),
            "seconds": result.seconds + time.perf_counter() - start,
            "revision": _with(result.revision, code),
            "machine": _with(result.machine, place),
        }
    )


def _with(known: str, new: str) -> str:
    return new if not known else known if new in known.split(" and ") else f"{known} and {new}"


def _reach(scores: Numbers, splits: Splits) -> tuple[float, ...]:
    labels = splits.test.labels.numpy()
    intervals = [delong(scores[:, task], labels[:, task]) for task in range(labels.shape[1])]
    return tuple((found.high - found.low) / 2 for found in intervals if found is not None)


def _trees(config: CensusStudyConfig, group: str, model: str, splits: Splits) -> tuple[float, ...]:
    if "trees" not in config.made(model) or config.recipe.trees is None:
        return ()
    label = str(config.groups[group].tasks[0].label)
    return tuple(
        roc_auc(number(splits.schema, split, name).numpy(), split.labels[:, 0].numpy())
        for name in config.recipe.trees.columns(label)
        for split in (splits.validation, splits.test)
    )


def _mean(result: Result) -> float:
    return float(np.mean(result.test, axis=0)[0])


def _seed(config: CensusStudyConfig, group: str, model: str) -> int:
    """Differs between cells, and stays the same when others are added."""
    return config.seed + int.from_bytes(hashlib.sha256(f"{group}/{model}".encode()).digest()[:2], "big") * 1000


def _data(config: CensusStudyConfig, group: str, model: str) -> list[Any]:
    """What a model's rows depend on."""
    schema, made = config.schema_of(group, config.made(model)), config.made(model)
    sections = config.recipe.model_dump(mode="json", exclude={"rates", "trees"} - set(made))
    return [[feature.model_dump(mode="json") for feature in schema.features], config.embedding_dim, sections]


def _searched(config: CensusStudyConfig, group: str, model: str) -> list[Any]:
    """Everything a trial depends on: other settings are another study."""
    space = {name: dimension.model_dump(mode="json") for name, dimension in config.space(group, model).items()}
    fixed = config.cell(group, model).model_dump(mode="json")
    return [fixed, space, _data(config, group, model), config.seed, config.tuner.runs]


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def _drawn(values: Mapping[Any, Any], label: Any) -> Any:
    return values.get(label, label)
