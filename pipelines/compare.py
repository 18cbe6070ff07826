"""Compare: what sharing gains or costs every task, against the same task trained alone with the same budget."""

from __future__ import annotations

import gc
import logging
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import torch

from pipelines.assembly import Assembly
from pipelines.fit import Fit, StoppedError, trained
from pipelines.job import job, say
from pipelines.release import score_best
from pipelines.supervision import supervised
from pipelines.train import open_run
from ranking.config import RunConfig, complete, revise
from ranking.data.plan import Position
from ranking.distributed.collectives import on_rank_zero
from ranking.distributed.world import World, join
from ranking.errors import EXIT_STOPPED, InputError
from ranking.files import make_directory, write_atomically
from ranking.metrics import Predictions
from ranking.models.base import ArchitectureConfig
from ranking.schema import Task
from ranking.tracking import sharing
from ranking.tracking.runs import Run, git_revision
from ranking.training.checkpoint import Checkpoints
from ranking.training.commits import Commit, attempt_path, read_commits
from ranking.training.evaluate import Evaluation
from ranking.training.lease import hold
from ranking.training.ledger import Ledger, compare_task, gradient_cosines
from ranking.training.state import Progress, TrainState

log = logging.getLogger(__name__)

BestPredictions = tuple[int, Predictions | None]
"""Step of the best checkpoint, and on rank 0 what it predicts."""


def compare(config: RunConfig) -> int | None:
    """Train the model and every task alone, and report each task's gain or loss from sharing.

    The model is that of `output`, where it has been trained already, and a task's baseline that of
    `compare.baselines`; what is not there is trained, in `output` and `output`/compare. A baseline is a bottom and a
    tower of the model's widths over feature crosses like its own, with the same data, seed, steps and optimizers, in
    whose loss the other tasks weigh nothing, and whose checkpoint is chosen by its own task. Started again it goes on.
    """
    with (
        join(config.device, timedelta(seconds=config.training.collective_timeout)) as world,
        supervised(world, config.output / "stacks", config.training.hang_timeout),
    ):
        directory = config.output / "compare"
        parent = on_rank_zero(lambda: _begin(config, directory), world)
        try:
            ledger = measure(config, world, directory, parent)
        except StoppedError:
            log.warning("stopped after a commit; run the same command again to resume")
            on_rank_zero(lambda: _run(config, directory).stop(), world)
            return EXIT_STOPPED
        on_rank_zero(lambda: publish(ledger, config, directory), world)
    return None


def measure(config: RunConfig, world: World, directory: Path, parent: str) -> Ledger:
    """Train or take every model, and set them side by side; complete on rank 0."""
    taken = on_rank_zero(
        lambda: {name: _taken(run, config, name) for name, run in config.compare.baselines.items()}, world
    )
    shared, cosines = _shared(config, world, parent)
    entries = []
    for task in config.schema.tasks:
        own = _baseline(taken.get(task.name) or alone(config, task, directory), task.name in taken, world, parent)
        if own[1] is not None and shared[1] is not None:
            try:
                entries.append(compare_task(task.name, own[1], shared[1], config.compare, (own[0], shared[0])))
            except ValueError as error:
                raise InputError(
                    f"compare.baselines: {error}; expected runs on the data of this configuration"
                ) from None
    names = config.schema.task_names
    settings = config.compare
    return Ledger(
        revision=git_revision(),
        model=config.model.type,
        split=settings.split,
        confidence=settings.confidence,
        entries=tuple(entries),
        tasks=names,
        cosines=cosines,
        gradient_batches=settings.gradient_batches if cosines else 0,
    )


def alone(config: RunConfig, task: Task, directory: Path) -> RunConfig:
    """The configuration of one task's baseline."""
    binary = task.kind == "binary"
    model = config.model.model_dump(mode="json", include=set(ArchitectureConfig.model_fields))
    changes: dict[str, object] = {
        "name": f"{config.name}-{task.name}-alone",
        "output": str(directory / task.name),
        "model": model | {"type": "shared_bottom"},
        "objective.weighting": {"type": "static"},
        "warm_start.run": "",
        "evaluation.best": config.evaluation.best if binary and config.evaluation.best != "r2" else "r2",
        "evaluation.tasks": [task.name],
    }
    for other in config.schema.tasks:
        changes |= {f"schema.tasks.{other.name}.weight": float(other.name == task.name)}
        changes |= {f"schema.tasks.{other.name}.gamma": 1.0}
    return revise(config, changes)


def publish(ledger: Ledger, config: RunConfig, directory: Path) -> None:
    """Write `ledger.json`, `ledger.md` and the figures, and log them."""
    rows = [(e.task, e.metric, e.gain, *e.interval) for e in ledger.entries if e.gain is not None and e.interval]
    figures = {"gains": sharing.gains(rows)}
    if ledger.cosines is not None:
        matrix = torch.tensor([[float("nan") if v is None else v for v in row] for row in ledger.cosines])
        figures["gradients"] = sharing.gradient_cosines(matrix.double().numpy(), ledger.tasks)
    text = ledger.markdown(list(figures))
    write_atomically(directory / "ledger.json", (ledger.model_dump_json(indent=1) + "\n").encode())
    write_atomically(directory / "ledger.md", text.encode())
    with _run(config, directory) as run:
        for name, figure in figures.items():
            figure.savefig(directory / f"{name}.png")
            run.log_figure(directory / f"{name}.png")
        run.log_metrics(ledger.metrics(), 0)
        run.log_text("ledger.json", ledger.model_dump_json(indent=1))
        run.log_card(text)
    say(ledger.table())
    say(f"\n{directory / 'ledger.md'}")


def _shared(
    config: RunConfig, world: World, parent: str
) -> tuple[BestPredictions, tuple[tuple[float | None, ...], ...] | None]:
    """The model that shares, and the cosines of its task gradients."""
    with hold(config.output, world) as fence:
        fit = _trained(Fit(config, world, fence), parent)
        best, found = _scored(fit.parts, fit.state, fit.checkpoints)
        step, count = fit.state.model.module, config.compare.gradient_batches
        if not count or not step.model.architecture.shared_layer():
            return (best.step, found.predictions), None
        with closing(fit.parts.training_feed(fit.manifest, Position())) as feed:
            cosines = gradient_cosines(step, feed, count, world).tolist()
    rows = tuple(tuple(None if value != value else value for value in row) for row in cosines)  # NaN has no JSON
    return (best.step, found.predictions), rows


def _baseline(config: RunConfig, taken: bool, world: World, parent: str) -> BestPredictions:
    """A task on its own, read from its run directory or trained there."""
    if taken:
        best, found = _scored(*trained(config, world))
    else:
        with hold(config.output, world) as fence:
            fit = _trained(Fit(config, world, fence), parent)
            best, found = _scored(fit.parts, fit.state, fit.checkpoints)
    gc.collect()
    return best.step, found.predictions


def _scored(parts: Assembly, state: TrainState, checkpoints: Checkpoints) -> tuple[Commit, Evaluation]:
    """The best checkpoint on the rows to compare on."""
    return score_best(parts, state, checkpoints, parts.manifest(parts.config.compare.split))


def _trained(fit: Fit, parent: str) -> Fit:
    """Train what is left to train.

    Raises:
        StoppedError: SIGTERM.
    """
    if fit.finished:
        return fit
    with open_run(fit.parts.config, fit.manifest, fit.parts.world) as run:
        run.log_tags({"mlflow.parentRunId": parent} if parent else {})
        if not fit.train(run):
            on_rank_zero(run.stop, fit.parts.world)
            raise StoppedError
    return fit


def _taken(directory: Path, config: RunConfig, task: str) -> RunConfig:
    """What a run directory was trained by, with the rows to compare on.

    Raises:
        InputError: nothing is committed there, or it has no such task.
    """
    commits = read_commits(directory / "checkpoints")
    if not commits:
        raise InputError(f"compare.baselines: {directory}: no committed checkpoint; expected the directory of a run")
    saved = attempt_path(directory / "checkpoints", commits[-1]) / "progress.json"
    own = complete(Progress.model_validate_json(saved.read_text()).config)
    if task not in own.schema.task_names:
        known = list(own.schema.task_names)
        raise InputError(f"compare.baselines: {directory}: no task {task!r}; expected a run of it, not of {known}")
    split = config.compare.split
    data = own.data.model_copy(update={split: getattr(config.data, split)})
    return own.model_copy(update={"output": directory, "data": data, "compare": config.compare})


def _begin(config: RunConfig, directory: Path) -> str:
    """The MLflow run above the trainings; its id, or "" while MLflow is out of reach."""
    config.data.urls(config.compare.split)
    make_directory(directory, "output")
    run = _run(config, directory)
    run.finish("RUNNING")
    return run.run_id


def _run(config: RunConfig, directory: Path) -> Run:
    tracking = config.tracking.model_copy(update={"run_name": f"{config.tracking.run_name or config.name}-compare"})
    return Run.open(tracking, directory, config.model_dump(mode="json"), tags={"git.revision": git_revision()})


main = job(compare)

if __name__ == "__main__":
    main()
