"""A study on disk or in a database: opened once by many workers, its next trial drawn, its hopeless ones stopped."""

from __future__ import annotations

import fcntl
import json
import logging
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from ranking.errors import InputError, one_line
from ranking.files import make_directory
from ranking.redact import redact_text
from ranking.training.search import Dimension, HyperbandPruner, MedianPruner, Pruner, TuneConfig

log = logging.getLogger(__name__)

_ATTEMPTS = 6
_PATIENCE = 60  # s that a worker waits for another's write to SQLite
_DEAD_AFTER = 3  # heartbeats
_PAUSE = 2.0  # s between two looks at a study whose last trials are with other workers

T = TypeVar("T")


class SeededGP(BaseSampler):
    """Optuna's GPSampler, seeded for each trial by its number, that learns from pruned and diverged trials too.

    What a trial tries depends on the seed, its number and the trials before it alone: workers draw different values,
    and a study that goes on does not draw the same ones again. GPSampler sees finished trials only, and would go back
    to where pruning or divergence drove it out; here a pruned trial counts with its last value, and one that was
    refused or diverged with the worst.
    """

    def __init__(self, seed: int, startup_trials: int) -> None:
        """Remember the seed."""
        self._seed, self._startup = seed, startup_trials

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Seed for this trial, and look back."""
        seed = random.Random(f"{self._seed}/{trial.number}").getrandbits(32)
        self._inner = GPSampler(seed=seed, n_startup_trials=self._startup, warn_independent_sampling=False)
        self._past, self._now = as_seen(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As GPSampler."""
        return self._inner.infer_relative_search_space(self._past, self._now)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As GPSampler."""
        return self._inner.sample_relative(self._past, self._now, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As GPSampler."""
        return self._inner.sample_independent(self._past, self._now, param_name, param_distribution)


def open_study(
    settings: TuneConfig,
    name: str,
    seed: int,
    directory: Path,
    first: Mapping[str, Any] = MappingProxyType({}),
    steps: tuple[int, int] = (1, 1),
) -> Study:
    """The study of a run directory or a database, created by the first worker that comes.

    Args:
        settings: the `tune` section.
        name: of the study, where the section has none.
        seed: of its proposals.
        directory: where SQLite puts it.
        first: what its first trial tries, by path; where the space does not hold it, the sampler draws that one too.
        steps: where a trial is first and last evaluated, for Hyperband.

    Raises:
        InputError: the storage cannot be reached, or the study looks for something else.
    """
    url = settings.storage.get_secret_value() or f"sqlite:///{directory / 'study.db'}"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with locked(directory), _storage_errors(url):
        storage = _with_patience(lambda: _storage(url, settings))
        named = {"study_name": settings.study or name, "storage": storage}
        how = {"sampler": SeededGP(seed, settings.startup_trials), "pruner": _pruner(settings.pruner, *steps)}
        try:
            study = optuna.create_study(**named, **how, direction=settings.better)
        except DuplicatedStudyError:
            study = optuna.load_study(**named, **how)
        else:
            _enqueue(study, settings.space, first)
        _require_same(study, settings)
    return study


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other workers on this file system out."""
    make_directory(directory, "output")
    with (directory / "study.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def suggestions(settings: TuneConfig, trial: optuna.Trial) -> dict[str, Any]:
    """What a trial tries, by path."""
    return {path: dimension.suggest(trial, path) for path, dimension in settings.space.items()}


def requeue(study: Study, number: int) -> None:
    """Queue a trial that ended through no fault of its own to be taken up again where it stood.

    That happens however often: `tune.retries` counts killed workers alone, which optuna keeps in `retry_history`. A
    trial that was taken for dead meanwhile is queued already.
    """
    ended, *later = study.get_trials()[number:]
    if all(origin(each) != origin(ended) for each in later):
        study.add_trial(
            optuna.create_trial(
                state=TrialState.WAITING,
                params=ended.params,
                distributions=ended.distributions,
                user_attrs=ended.user_attrs,
                system_attrs={**ended.system_attrs, "failed_trial": origin(ended)},
                intermediate_values=ended.intermediate_values,
            )
        )


def origin(trial: FrozenTrial) -> int:
    """Number of the first attempt at a trial: all attempts go on in one directory."""
    return int(trial.system_attrs.get("failed_trial", trial.number))


def judged(study: Study) -> list[FrozenTrial]:
    """Trials that used up their share of the budget: finished, pruned, or refused for what they tried."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    return [t for t in study.get_trials(deepcopy=False) if t.state in ended or "error" in t.user_attrs]


def remaining(study: Study, settings: TuneConfig) -> int | None:
    """Trials a worker may begin now; None when the study is over. What dead workers held is queued first."""
    with _quiet():
        optuna.storages.fail_stale_trials(study)
    left = settings.trials - len(judged(study))
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return None if left <= 0 else max(0, left - len(running))


def turns(study: Study, settings: TuneConfig, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Once for every trial that a worker is to take, until the study is over.

    While the last trials are with other workers, of which one may die, it calls `waiting` every other second.
    """
    while (left := remaining(study, settings)) is not None:
        if left:
            yield
        else:
            waiting()
            time.sleep(_PAUSE)


def best(study: Study) -> FrozenTrial:
    """The best finished trial.

    Raises:
        InputError: none finished, for the reason the last one had.
    """
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if finished:
        return study.best_trial
    reasons = [trial.user_attrs["error"] for trial in study.get_trials(deepcopy=False) if "error" in trial.user_attrs]
    raise InputError(f"tune: no trial finished; the last one: {reasons[-1] if reasons else 'pruned'}")


def as_seen(study: Study, trial: FrozenTrial) -> tuple[Study, FrozenTrial]:
    """The study as the sampler shall see it, and the trial in it."""
    past = [each for each in study.get_trials(deepcopy=False) if each.number != trial.number]
    values = [each.value for each in past if each.value is not None]
    worst = (min if study.direction == StudyDirection.MAXIMIZE else max)(values, default=None)
    seen = optuna.create_study(direction=study.direction)
    for each in past:
        value = worst if "error" in each.user_attrs else each.value
        state = TrialState.COMPLETE if value is not None else each.state
        if state in (TrialState.COMPLETE, TrialState.RUNNING):
            seen.add_trial(
                optuna.create_trial(state=state, value=value, params=each.params, distributions=each.distributions)
            )
    seen.add_trial(optuna.create_trial(state=TrialState.RUNNING))
    return seen, seen.get_trials(deepcopy=False)[-1]


def _enqueue(study: Study, space: Mapping[str, Dimension], first: Mapping[str, Any]) -> None:
    """Let the first trial try these values, or say why it does not."""
    labels = {path: space[path].label(value) for path, value in first.items()}
    outside = [
        f"{path} is {first[path]!r}, the space {space[path].model_dump_json(exclude_defaults=True)}"
        for path, label in labels.items()
        if label is None
    ]
    if outside:
        log.warning("the first trial is drawn, not the configuration as it stands: %s", "; ".join(outside))
    elif labels:
        study.enqueue_trial(labels)


def _storage(url: str, settings: TuneConfig) -> RDBStorage:
    backend = make_url(url).get_backend_name()
    engine: dict[str, Any] = {"pool_pre_ping": True}
    if backend == "sqlite":
        engine = {"connect_args": {"timeout": _PATIENCE}}
    with _quiet():
        return RDBStorage(
            url,
            engine_kwargs=engine,
            heartbeat_interval=settings.heartbeat,
            grace_period=_DEAD_AFTER * settings.heartbeat,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(
                settings.retries, inherit_intermediate_values=True
            ),
        )


def _pruner(settings: Pruner, first: int, last: int) -> optuna.pruners.BasePruner:
    if isinstance(settings, MedianPruner):
        return optuna.pruners.MedianPruner(settings.startup_trials, settings.warmup_steps)
    if isinstance(settings, HyperbandPruner):
        return optuna.pruners.HyperbandPruner(first, last, settings.reduction_factor)
    return optuna.pruners.NopPruner()


def _require_same(study: Study, settings: TuneConfig) -> None:
    """Trials of one study must be comparable."""
    looked_for = {"target", "space", "metric", "tasks", "direction", "fusion"}
    now: Mapping[str, Any] = json.loads(settings.model_dump_json(include=looked_for))
    before = study.user_attrs.get("tune")
    if before is None:
        study.set_user_attr("tune", now)
        return
    odd = next((key for key in sorted(now) if before.get(key) != now[key]), None)
    if odd is not None:
        raise InputError(
            f"tune.{odd}: got {now[odd]}; expected {before.get(odd)}, as the study {study.study_name} was begun, "
            "or another tune.study"
        )


def _with_patience(work: Callable[[], T]) -> T:
    """Try again where several workers create the tables of a database at once."""
    for attempt in range(_ATTEMPTS):
        try:
            return work()
        except (IntegrityError, ProgrammingError):
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.1 * 2**attempt * random.uniform(0.5, 1.5))
    raise AssertionError


@contextmanager
def _storage_errors(url: str) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, ImportError, RuntimeError) as error:
        reason = redact_text(one_line(error))[:300]
        raise InputError(f"tune.storage: got {redact_text(url)}: {reason}; expected a database to write to") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Heartbeats are what optuna calls experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
