"""A trial: a real training of the project on all ranks, judged at every evaluation and stopped where it is hopeless."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna import TrialPruned

from pipelines.fit import Fit, StoppedError
from pipelines.train import open_run
from ranking.config import RunConfig, revise
from ranking.distributed.collectives import broadcast, collective_error, on_rank_zero
from ranking.distributed.world import World
from ranking.errors import EXIT_INPUT, InputError
from ranking.metrics import EvaluationReport
from ranking.tracking.runs import NullRun, Status
from ranking.training.lease import hold
from ranking.training.search import TuneConfig

Judge = Callable[[int, float], bool]
"""Takes a step and the objective there; whether the trial should stop."""


class RefusedError(Exception):
    """What a trial tries cannot be judged: no valid run, a loss that is not finite, an objective without a value."""


@dataclass(frozen=True)
class TrialAssignment:
    """What rank 0 tells the others to do.

    Attributes:
        number: of the trial's first attempt.
        values: what it tries, by path.
        parent: MLflow's id of the study's run.
    """

    number: int
    values: Mapping[str, Any]
    parent: str

    @property
    def name(self) -> str:
        """Name of its directory: a digest of the values keeps another study's trials apart."""
        return f"{self.number:04}-{hashlib.sha256(repr(sorted(self.values.items())).encode()).hexdigest()[:8]}"


def run_trial(config: RunConfig, assignment: TrialAssignment, world: World, directory: Path, judge: Judge) -> float:
    """Train with the assigned values; goes on where an earlier attempt at the trial stopped.

    Args:
        config: the configuration that the values change.
        assignment: the trial.
        world: the ranks that train it.
        directory: of all trials.
        judge: asked on rank 0 after every evaluation.

    Returns:
        The best value of the objective on validation, over the evaluated steps.

    Raises:
        TrialPruned: the judge said so.
        StoppedError: SIGTERM.
        RefusedError: the values do not make a valid run, its loss is not finite, or the objective is undefined.
        InputError: another launch holds the trial's directory; or a ServiceError.
    """
    place = directory / assignment.name
    own = {"output": place, "name": f"{config.name}-{assignment.number:04}", "tune": TuneConfig()}
    with hold(place, world) as fence, _refusing():
        revised = revise(config, assignment.values).model_copy(update=own)
        fit = Fit(revised, world, fence)
        run = open_run(revised, fit.manifest, world)
        run.log_tags({"mlflow.parentRunId": assignment.parent, "tune.trial": str(assignment.number)})
        return _followed(fit, run, config, judge)


@contextmanager
def _refusing() -> Iterator[None]:
    """Charge bad input to the trial; a service or a machine that fails is none of its doing."""
    try:
        yield
    except InputError as error:
        if error.code != EXIT_INPUT:
            raise
        raise RefusedError(str(error)) from error


def _followed(fit: Fit, run: NullRun, config: RunConfig, judge: Judge) -> float:
    """Train under the judge's eyes, and end the run as the trial ended."""
    watch = _Watch(run, fit, config, judge)
    status: Status = "FAILED"
    try:
        watch.recall()
        if not fit.train(run, watch):
            raise StoppedError
        best, status = watch.best(), "FINISHED"
    except TrialPruned:
        status = "KILLED"
        run.log_tags({"tune.state": "pruned"})
        raise
    except StoppedError:
        run.log_tags({"tune.state": "stopped"})
        on_rank_zero(run.stop, fit.parts.world)
        raise
    finally:
        run.finish(status)
    return best


def objective(config: RunConfig, report: EvaluationReport) -> float | None:
    """What a study looks for, in one evaluation; None where it is undefined."""
    settings = config.tune
    tasks = settings.tasks or config.evaluation.tasks or config.schema.task_names
    suited = [name for name in tasks if settings.suits(config.schema.task(name).kind)]
    return report.objective(settings.metric, suited)


class _Watch:
    """Shows a training's evaluations to the judge, and ends it where the judge says so."""

    def __init__(self, run: NullRun, fit: Fit, config: RunConfig, judge: Judge) -> None:
        self.run, self.fit, self.config, self.judge = run, fit, config, judge
        past = {report.step: objective(config, report) for report in fit.state.progress.history}
        self.values = {step: value for step, value in past.items() if value is not None}

    def __call__(self, report: EvaluationReport) -> None:
        value, world = objective(self.config, report), self.fit.state.world
        if value is None:
            return
        self.values[report.step] = value
        if broadcast(world.is_rank_zero and self.judge(report.step, value), world):
            self.run.log_metrics({f"validation/{name}": v for name, v in report.metrics().items()}, report.step)
            raise TrialPruned(f"stopped at step {report.step}")

    def recall(self) -> None:
        """Show the judge what an earlier attempt found; it may have been killed before it could."""
        for step, value in self.values.items() if self.fit.state.world.is_rank_zero else ():
            self.judge(step, value)

    def best(self) -> float:
        """The objective at its best evaluation.

        Raises:
            InputError: on all ranks, when it was undefined at every one.
        """
        if not self.values:
            metric = self.config.tune.metric
            raise collective_error(
                f"tune.metric: {metric} is undefined on validation; expected another", self.fit.state.world
            )
        return (max if self.config.tune.better == "maximize" else min)(self.values.values())
