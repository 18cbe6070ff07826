"""Fit: one training as a value, resumed where there is something to resume; shared by every job that trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.assembly import Assembly
from pipelines.origin import begin
from pipelines.run_directory import pin, require_pinned
from ranking.config import RunConfig
from ranking.data.manifest import Manifest
from ranking.distributed.collectives import collective_error, on_rank_zero
from ranking.distributed.world import World, versions
from ranking.metrics import EvaluationReport
from ranking.redact import redact
from ranking.tracking.runs import flatten
from ranking.training.checkpoint import Checkpoints
from ranking.training.evaluate import Evaluation
from ranking.training.feed import Stop
from ranking.training.state import Progress, TrainState
from ranking.training.trainer import Tracker, Trainer

_SHOWN = 3
"""Settings named in one error."""
_SETTLED = ("schema", "model", "objective", "optimizer")
"""Sections that a run cannot change on the way."""
_SCORING = ("best", "tasks", "min_positives")
"""Of `evaluation`, what its scores follow from: no run is to rank checkpoints by scores of two kinds."""


class StoppedError(Exception):
    """SIGTERM stopped a training after a commit: for jobs of several trainings to unwind."""


class Fit:
    """Data, state and checkpoints of one run directory on this rank.

    Attributes:
        parts: what the configuration describes.
        manifest: the training shards.
        steps: of an epoch.
        state: model, optimizers and progress, continued from the newest committed checkpoint or fresh.
        checkpoints: of the run directory.

    Args:
        config: the run.
        world: the ranks it trains on.
        fence: of the run directory's lease, which is held; None where nobody else can write there.

    Raises:
        InputError: the run directory's checkpoint belongs to other data, or to another order of it, or is scored on
            other data.
    """

    def __init__(self, config: RunConfig, world: World, fence: Callable[[], None] | None = None) -> None:
        """Read the footers, build the model and restore it."""
        self.parts = Assembly(config, world)
        self.manifest = self.parts.manifest("train")
        self.validation = self.parts.manifest("validation")
        self.steps = self.parts.plan(self.manifest).steps
        self.state = self.parts.state(config.training.total_steps(self.steps))
        self.checkpoints = Checkpoints(
            config.output / "checkpoints", config.checkpoints, world, fence or (lambda: None)
        )
        if fence is not None:
            self.checkpoints.sweep()
        resume(self.checkpoints, self.state, self.parts, self.manifest)
        on_rank_zero(self._pin_validation, world)

    @property
    def finished(self) -> bool:
        """Whether the steps of the budget are done and evaluated."""
        training, progress = self.parts.config.training, self.state.progress
        return progress.evaluated and progress.step >= training.total_steps(self.steps)

    def _pin_validation(self) -> None:
        """Let all scores of the run be of the same rows; where none was found yet, these are the ones."""
        config = self.parts.config
        if self.finished:
            return
        if not (self.state.progress.history and require_pinned(config, self.validation, "validation")):
            pin(config, self.validation, "validation")

    def train(self, tracker: Tracker, watch: Callable[[EvaluationReport], None] = lambda _: None) -> bool:
        """Run to the step budget; False when SIGTERM stopped it after a commit.

        Args:
            tracker: where numbers go.
            watch: shown every evaluation, on every rank; may raise to end the training there.
        """

        def evaluate(step: int, stop: Stop) -> Evaluation:
            found = self.parts.evaluate(self.validation, self.state, step, stop)
            watch(found.report)
            return found

        trainer = Trainer(
            state=self.state,
            schema=self.parts.config.schema,
            feed=lambda position, stop: self.parts.training_feed(self.manifest, position, stop),
            evaluate=evaluate,
            checkpoints=self.checkpoints,
            tracker=tracker,
            config=self.parts.config.training,
            evaluation=self.parts.config.evaluation,
            steps_per_epoch=self.steps,
            quarantined=self.parts.damage,
            place=self.manifest.place,
        )
        heartbeat = self.parts.world.heartbeat
        heartbeat.step = self.state.progress.step
        with heartbeat.during("training"):
            return trainer.train()


def trained(config: RunConfig, world: World) -> tuple[Assembly, TrainState, Checkpoints]:
    """A run of another job, to be read by all ranks: nothing in its directory is written, pinned or set aside.

    Raises:
        InputError: nothing is committed there, or its newest checkpoint is damaged, or belongs to other data or
            settings.
    """
    parts = Assembly(config, world)
    checkpoints = Checkpoints(config.output / "checkpoints", config.checkpoints, world)
    commits = on_rank_zero(checkpoints.commits, world)
    if not commits:
        raise collective_error(
            f"output: {config.output}: no committed checkpoint; expected the directory of a trained run", world
        )
    manifest = parts.manifest("train")
    state = parts.state(config.training.total_steps(parts.plan(manifest).steps))
    fresh = _fresh(parts, state, manifest)
    state.progress = checkpoints.load(state, commits[-1], lambda before: _require_same(before, fresh, parts, manifest))
    parts.known_damage = state.progress.quarantined
    return parts, state, checkpoints


def resume(checkpoints: Checkpoints, state: TrainState, parts: Assembly, manifest: Manifest) -> None:
    """Continue from the newest committed checkpoint, or begin.

    Raises:
        InputError: the checkpoint belongs to other data, to another order of it, or to another model.
    """
    config, fresh = parts.config, _fresh(parts, state, manifest)
    found = checkpoints.restore(state, lambda before: _require_same(before, fresh, parts, manifest))
    if found is not None:
        parts.known_damage = found.quarantined
        fresh = found.model_copy(update={name: getattr(fresh, name) for name in ("world_size", "config", "versions")})
    else:
        fresh = fresh.model_copy(update={"warm_start": begin(parts, state)})
        on_rank_zero(lambda: pin(config, manifest, "train"), state.world)
    state.progress = fresh


def _fresh(parts: Assembly, state: TrainState, manifest: Manifest) -> Progress:
    """The progress of a run that begins as configured."""
    config = parts.config
    return Progress(
        plan=parts.plan(manifest).digest,
        transforms=parts.transforms.fingerprint,
        seed=config.seed,
        world_size=state.world.size,
        config={
            name: section if name in _SETTLED else redact(section, name)  # checkpoints are copied around
            for name, section in config.model_dump(mode="json").items()
        },
        versions=versions(),
    )


def _require_same(before: Progress, fresh: Progress, parts: Assembly, manifest: Manifest) -> None:
    """Refuse to go on with another model, other data, or another order of it."""
    config, world = parts.config, parts.world
    _require_settings(before, fresh, world, config.output)
    on_rank_zero(lambda: require_pinned(config, manifest, "train"), world)
    _require_order(before, fresh, world, config.output)


def _require_settings(before: Progress, now: Progress, world: World, output: Path) -> None:
    """Refuse to go on with settings that make another model."""
    old, new = (dict(flatten(_settled(each.config))) for each in (before, now))
    differ = [
        f"{key}: got {new.get(key, 'nothing')}; expected {old.get(key, 'nothing')}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]
    if differ:
        more = f" (and {len(differ) - _SHOWN} more)" if len(differ) > _SHOWN else ""
        raise collective_error(
            f"{'; '.join(differ[:_SHOWN])}{more}, as the run in {output} was started, or another `output`", world
        )


def _require_order(before: Progress, now: Progress, world: World, output: Path) -> None:
    """Refuse to go on with another order of examples, or with other transforms."""
    if before.plan != now.plan:
        raise collective_error(
            f"{output}: the run was started on plan {before.plan:.12}, got {now.plan:.12}; "
            "expected the same shards, seed, batch size, lanes, block and order, or another `output`",
            world,
        )
    if before.transforms != now.transforms:
        raise collective_error(
            f"{output}: the run was started with other transforms; expected them, or another `output`", world
        )


def _settled(config: dict[str, Any]) -> dict[str, Any]:
    scoring = {name: config["evaluation"][name] for name in _SCORING}
    return {name: config[name] for name in _SETTLED} | {"evaluation": scoring}
