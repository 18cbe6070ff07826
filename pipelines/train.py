"""Train: Parquet to a registered challenger. Run it under torchrun for more than one process."""

from __future__ import annotations

import logging
from pathlib import Path

from pipelines.assembly import Assembly
from pipelines.job import job, say
from pipelines.release import describe, draw, pin, register, score_best, write_report
from ranking.config import RunConfig
from ranking.data.manifest import Manifest
from ranking.distributed.collectives import told
from ranking.distributed.world import World, join, versions
from ranking.errors import EXIT_STOPPED
from ranking.metrics import auc_table
from ranking.tracking.runs import Dataset, NullRun, Run, flatten, git_revision
from ranking.training.checkpoint import Checkpoints
from ranking.training.state import Progress, TrainState
from ranking.training.trainer import Trainer

log = logging.getLogger(__name__)

_SETTLED = ("schema", "model", "objective", "optimizer")
"""Sections that a run cannot change on the way."""


def train(config: RunConfig) -> int | None:
    """Train a model, track it, and register the best checkpoint as the challenger.

    Resumes by itself from the newest committed checkpoint of the run directory. Stopped by SIGTERM it commits and
    exits with 75; the same command goes on.
    """
    with join(config.device) as world:
        parts = Assembly(config, world)
        manifest, validation, test = (parts.manifest(split) for split in ("train", "validation", "test"))
        steps = parts.plan(manifest).steps
        state = parts.state(config.training.steps or config.training.epochs * steps)
        checkpoints = Checkpoints(config.output / "checkpoints", config.checkpoints, world)
        resume(checkpoints, state, parts, manifest)
        with open_run(config, manifest, world) as run:
            trainer = Trainer(
                state=state,
                schema=config.schema,
                feed=lambda position: parts.training_feed(manifest, position),
                evaluate=lambda step: parts.evaluate(validation, state, step),
                checkpoints=checkpoints,
                tracker=run,
                config=config.training,
                evaluation=config.evaluation,
                steps_per_epoch=steps,
            )
            if not trainer.train():
                log.warning("stopped at step %d after a commit; the same command goes on", state.progress.step)
                return EXIT_STOPPED
            release(parts, state, checkpoints, run, manifest, test)
    return None


def release(
    parts: Assembly, state: TrainState, checkpoints: Checkpoints, run: NullRun, manifest: Manifest, test: Manifest
) -> None:
    """Report on the best checkpoint and register it; all ranks evaluate, rank 0 writes."""
    best, found = score_best(parts, state, checkpoints, test)
    if not parts.world.leads:
        return
    say(f"AUC@N-steps on validation, best at step {best.step}\n\n{auc_table(state.progress.history)}\n")
    write_report(parts, best, found, state)
    pin(parts.config, test)
    draw(parts, found, state, run)
    run.log_metrics({f"test/{name}": value for name, value in found.report.metrics().items()}, best.step)
    run.log_card(describe(parts, manifest, best, state))
    run.finish()
    if not run.run_id:
        log.warning("MLflow is out of reach: nothing is registered; the same command registers when it is back")
        return
    version, new = register(parts, checkpoints, best, test, run.run_id)
    name = parts.config.registry.name
    say(f"registered {name} version {version} as challenger" if new else f"{name} version {version} holds it already")


def resume(checkpoints: Checkpoints, state: TrainState, parts: Assembly, manifest: Manifest) -> None:
    """Continue from the newest committed checkpoint, or begin.

    Raises:
        InputError: the checkpoint belongs to other data, or to another order of it.
    """
    config = parts.config
    fresh = Progress(
        plan=parts.plan(manifest).digest,
        transforms=parts.transforms.fingerprint,
        seed=config.seed,
        world_size=state.world.size,
        config=config.model_dump(mode="json"),
        versions=versions(),
    )
    found = checkpoints.restore(state)
    if found is not None:
        _require_same(found, fresh, state.world, config.output)
        fresh = found.model_copy(update={name: getattr(fresh, name) for name in ("world_size", "config", "versions")})
    state.progress = fresh


def _require_same(before: Progress, now: Progress, world: World, output: Path) -> None:
    """Refuse to go on with another order of examples, or with settings that make another model."""
    if before.plan != now.plan:
        raise told(
            f"{output}: the run was started on plan {before.plan:.12}, got {now.plan:.12}; "
            "expected the same shards, seed, batch size, lanes, block and order, or another `output`",
            world,
        )
    if before.transforms != now.transforms:
        raise told(f"{output}: the run was started with other transforms; expected them, or another `output`", world)
    was, is_now = ({name: each.config[name] for name in _SETTLED} for each in (before, now))
    old, new = dict(flatten(was)), dict(flatten(is_now))
    odd = next((key for key in sorted(old.keys() | new) if old.get(key) != new.get(key)), None)
    if odd is not None:
        raise told(
            f"{odd}: got {new.get(odd, 'nothing')}; expected {old.get(odd, 'nothing')}, "
            f"as the run in {output} was started, or another `output`",
            world,
        )


def open_run(config: RunConfig, manifest: Manifest, world: World) -> NullRun:
    """The MLflow run of the run directory on rank 0; a silent one elsewhere."""
    if not world.leads:
        return NullRun()
    settings = config.model_dump(mode="json")
    dataset = Dataset(name=config.name, digest=manifest.digest, source=config.data.train[0])
    tags = {"git.revision": git_revision(), "world_size": str(world.size), "device": config.device}
    tracking = config.tracking.model_copy(update={"run_name": config.tracking.run_name or config.name})
    return Run.open(tracking, config.output, settings, tags=tags, dataset=dataset)


main = job(train)

if __name__ == "__main__":
    main()
