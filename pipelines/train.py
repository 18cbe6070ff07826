"""Train: Parquet to a registered challenger. Run it under torchrun for more than one process."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from pipelines.assembly import Assembly
from pipelines.fit import Fit
from pipelines.job import job, say
from pipelines.release import describe, register, score_best, write_report
from pipelines.run_directory import pin
from pipelines.supervision import supervised
from ranking.config import RunConfig
from ranking.data.manifest import Manifest
from ranking.distributed.collectives import broadcast, on_rank_zero
from ranking.distributed.world import World, join
from ranking.errors import EXIT_STOPPED
from ranking.metrics import auc_table
from ranking.tracking import logs
from ranking.tracking.runs import Dataset, NullRun, Run, git_revision
from ranking.tracking.textfile import Textfile, Watched
from ranking.training.lease import hold
from ranking.training.trainer import Tracker

log = logging.getLogger(__name__)


def train(config: RunConfig) -> int | None:
    """Train a model, track it, and register the best checkpoint as the challenger.

    Resumes by itself from the newest committed checkpoint of the run directory, which one launch at a time may use.
    Stopped by SIGTERM it commits and exits with 75; the same command resumes. Whatever fails or hangs on one rank ends
    all of them with one line.
    """
    with (
        join(config.device, timedelta(seconds=config.training.collective_timeout)) as world,
        supervised(world, config.output / "stacks", config.training.hang_timeout) as supervisor,
        hold(config.output, world) as fence,
    ):
        test = Assembly(config, world).manifest("test")  # its footers, too, before anything is written
        fit = Fit(config, world, fence)
        with open_run(config, fit.manifest, world) as run, supervisor.sharing(lambda: run.finish("FAILED")):
            if run.continued:
                run.log_tags({f"resumed_at.{fit.state.progress.step}": datetime.now(UTC).isoformat(timespec="seconds")})
            run.log_tags(fit.state.progress.warm_start.tags if fit.state.progress.warm_start else {})
            logs.bind(run=broadcast(run.key, world), step=lambda: world.heartbeat.step)
            if not fit.train(watched(run, fit)):
                line = "stopped at step %d after a commit; run the same command again to resume"
                log.warning(line, fit.state.progress.step)
                on_rank_zero(run.stop, world)  # the launcher ends whoever is left when the first rank has ended
                return EXIT_STOPPED
            release(fit, run, test)
    return None


def release(fit: Fit, run: NullRun, test: Manifest) -> None:
    """Report on the best checkpoint and register it; all ranks evaluate, rank 0 writes."""
    parts, state = fit.parts, fit.state
    best, found = score_best(parts, state, fit.checkpoints, test)
    if not parts.world.is_rank_zero:
        return
    say(f"AUC@N-steps on validation, best at step {best.step}\n\n{auc_table(state.progress.history)}\n")
    write_report(parts, best, found, state)
    pin(parts.config, test)
    from pipelines.run_figures import draw  # matplotlib takes most of a second to import, and only this rank draws

    draw(parts, found, state, run)
    run.log_metrics({f"test/{name}": value for name, value in found.report.metrics().items()}, best.step)
    run.log_card(describe(parts, fit.manifest, best, state))
    run.finish()
    if not run.run_id:
        log.warning("MLflow is out of reach: nothing is registered; run the same command again when it is back")
        return
    version, new = register(parts, fit.checkpoints, best, test, run.run_id)
    name = parts.config.registry.name
    say(f"registered {name} version {version} as challenger" if new else f"{name} version {version} holds it already")


def open_run(config: RunConfig, manifest: Manifest, world: World) -> NullRun:
    """The MLflow run of the run directory on rank 0; a silent one elsewhere."""
    if not world.is_rank_zero:
        return NullRun()
    settings = config.model_dump(mode="json")
    dataset = Dataset(name=config.name, digest=manifest.digest, source=config.data.train[0])
    tags = {"git.revision": git_revision(), "world_size": str(world.size), "device": config.device}
    tracking = config.tracking.model_copy(update={"run_name": config.tracking.run_name or config.name})
    return Run.open(tracking, config.output, settings, tags=tags, dataset=dataset)


def watched(run: NullRun, fit: Fit) -> Tracker:
    """The run, with its numbers in the metrics' textfile where there is one; rank 0 writes."""
    config = fit.parts.config
    if config.metrics.textfile is None or not fit.parts.world.is_rank_zero:
        return run
    target = config.training.total_steps(fit.steps)
    return Watched(run, Textfile(config.metrics, config.registry.name), target)


main = job(train)

if __name__ == "__main__":
    main()
