"""A worker: takes trials of a study one after another, on one rank or many, until the study has enough of them."""

from __future__ import annotations

import gc
import logging
import shutil
from pathlib import Path

import optuna
from optuna.study import Study

from pipelines.assembly import Assembly
from pipelines.fit import StoppedError
from pipelines.tuning import study as studies
from pipelines.tuning.report import begin, publish
from pipelines.tuning.trial import RefusedError, TrialAssignment, run_trial
from ranking.config import RunConfig, revise, setting
from ranking.distributed.collectives import broadcast, on_rank_zero
from ranking.distributed.world import World
from ranking.errors import EXIT_STOPPED, InputError
from ranking.redact import redact_text

log = logging.getLogger(__name__)

_WAIT = "wait"
_INTERRUPTIONS = (StoppedError, InputError, OSError)
"""What ends a worker and is no trial's fault: SIGTERM, a service, the machine, another launch in its directory."""


def tune_model(config: RunConfig, world: World) -> int | None:
    """Search settings of the training; one worker of a study that any number may share.

    Returns:
        75 after SIGTERM, when the trial in hand waits to be taken up again; None when the study is over.
    """
    directory = config.output / "tune" / "model"
    steps = _evaluated(config, world)
    last, opened = steps[1], list[Study]()
    on_rank_zero(lambda: opened.append(_open(config, directory, steps)), world)
    try:
        if world.is_rank_zero:
            _Leader(opened[0], config, world, directory / "trials", last).work()
        else:
            _follow(config, world, directory / "trials")
    except StoppedError:
        broadcast(None, world)  # a launcher ends all with the first that ends: rank 0 has queued the trial by now
        log.warning("stopped after a commit; run the same command again to resume the trial")
        return EXIT_STOPPED
    on_rank_zero(lambda: publish(opened[0], config, directory, config.tune.metric), world)
    return None


def _evaluated(config: RunConfig, world: World) -> tuple[int, int]:
    """Steps at which a trial is first and last evaluated; unreadable data are found here, before any trial."""
    parts = Assembly(config, world)
    epoch = parts.plan(parts.manifest("train")).steps
    parts.manifest("validation")
    return config.evaluation.every or epoch, config.training.total_steps(epoch)


def _open(config: RunConfig, directory: Path, steps: tuple[int, int]) -> Study:
    """The study; its first trial, where the space holds it, is the configuration as it stands."""
    _require_space(config)
    first = {path: setting(config, path) for path in config.tune.space}
    study = studies.open_study(config.tune, config.name, config.seed, directory, first, steps)
    with studies.locked(directory):
        begin(study, config, directory)
    return study


def _require_space(config: RunConfig) -> None:
    """Every dimension must hold a value that makes a valid run."""
    if not config.tune.space:
        raise InputError("tune.space: empty; expected settings by path, such as optimizer.dense.learning_rate")
    for path, dimension in config.tune.space.items():
        reasons = []
        for value in dimension.choices or (dimension.low, dimension.high):
            try:
                revise(config, {path: value})
                break
            except InputError as error:
                reasons.append(str(error))
        else:
            raise InputError(f"tune.space: {reasons[0]}")


class _Leader:
    """Rank 0's side of the trials."""

    def __init__(self, study: Study, config: RunConfig, world: World, directory: Path, last: int) -> None:
        self.study, self.config, self.world, self.directory, self.last = study, config, world, directory, last
        self.interrupted: tuple[int, Exception] | None = None

    def work(self) -> None:
        """Take trials until the study has enough; wait for those of other workers, and take over dead ones'."""
        for _ in studies.turns(self.study, self.config.tune, lambda: broadcast(_WAIT, self.world)):
            self._take()
        broadcast(None, self.world)

    def _take(self) -> None:
        """Train a trial; what interrupts it ends this worker, and the trial waits for whoever comes next."""
        try:
            self.study.optimize(self._train, n_trials=1, catch=(RefusedError,), gc_after_trial=True)
        except Exception:
            if self.interrupted is None:
                raise
            number, interruption = self.interrupted
            studies.requeue(self.study, number)
            raise interruption from None  # optuna has an error of its own where the trial was taken for dead meanwhile

    def _train(self, trial: optuna.Trial) -> float:
        """One trial: tell the other ranks, train, tell the study."""
        values = studies.suggestions(self.config.tune, trial)
        own = self.study.get_trials(deepcopy=False)[trial.number]
        assignment = TrialAssignment(studies.origin(own), values, self.study.user_attrs.get("mlflow.run_id", ""))
        broadcast(assignment, self.world)
        log.info("trial %d: %s", trial.number, values)

        def judge(step: int, value: float) -> bool:
            if step not in own.intermediate_values:  # an earlier attempt may have said so
                trial.report(value, step)
            return step < self.last and trial.should_prune()

        try:
            value = run_trial(self.config, assignment, self.world, self.directory, judge)
        except _INTERRUPTIONS as error:
            self.interrupted = trial.number, error
            raise
        except (RefusedError, optuna.TrialPruned) as end:
            log.info("trial %d: %s", trial.number, end)
            if isinstance(end, RefusedError):
                trial.set_user_attr("error", redact_text(str(end)))
            self._tidy(assignment)
            raise
        self._tidy(assignment)
        log.info("trial %d: %s %.5g", trial.number, self.config.tune.metric, value)
        return value

    def _tidy(self, assignment: TrialAssignment) -> None:
        if not self.config.tune.keep_checkpoints:
            shutil.rmtree(self.directory / assignment.name / "checkpoints", ignore_errors=True)


def _follow(config: RunConfig, world: World, directory: Path) -> None:
    """The other ranks' side: train what rank 0 says."""
    while (assignment := broadcast(None, world)) is not None:
        if assignment != _WAIT:
            try:
                run_trial(config, assignment, world, directory, lambda _step, _value: False)
            except (RefusedError, optuna.TrialPruned):
                pass
            gc.collect()
