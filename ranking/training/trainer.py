"""The loop: step, log, evaluate, checkpoint."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from ranking.data.plan import Position
from ranking.data.quarantine import Damage
from ranking.distributed.collectives import all_gather, all_reduce_host, collective_error, on_rank_zero
from ranking.distributed.world import World
from ranking.metrics.gating import collapse_warning
from ranking.metrics.report import EvaluationReport
from ranking.schema import Schema
from ranking.training.checkpoint import Checkpoints
from ranking.training.commits import Commit
from ranking.training.config import EvaluationConfig, TrainingConfig
from ranking.training.evaluate import AbandonedError, Evaluation
from ranking.training.feed import Feed, Stop
from ranking.training.saving import Saves
from ranking.training.state import Progress, TrainState
from ranking.training.step import Output, build_pipeline

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Where numbers go; must never block or fail."""

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """One point of every curve."""

    def log_checkpoint(self, step: int, uri: str, metrics: Mapping[str, float]) -> None:
        """An evaluated checkpoint; its metrics are points of the run's curves too."""


@dataclass
class Trainer:
    """Runs a plan to its step budget on this rank.

    Attributes:
        state: model, optimizers and progress; resumed already where there was something to resume.
        schema: tasks.
        feed: makes the training feed from a position on, which a stop ends.
        evaluate: scores the validation manifest at a step; AbandonedError where a stop came first.
        checkpoints: of the run directory.
        tracker: where rank 0 logs.
        config: the `training` section.
        evaluation: the `evaluation` section.
        steps_per_epoch: of the plan.
        quarantined: tells what damaged row groups were left out so far.
        place: names where a row of the training manifest lies.
    """

    state: TrainState
    schema: Schema
    feed: Callable[[Position, Stop], Feed]
    evaluate: Callable[[int, Stop], Evaluation]
    checkpoints: Checkpoints
    tracker: Tracker
    config: TrainingConfig
    evaluation: EvaluationConfig
    steps_per_epoch: int
    quarantined: Callable[[], tuple[Damage, ...]] = tuple
    place: Callable[[int], str] = str

    @property
    def total_steps(self) -> int:
        """Updates of the whole run."""
        return self.config.total_steps(self.steps_per_epoch)

    def train(self) -> bool:
        """Run to the step budget, evaluating and checkpointing on the way.

        Returns:
            True at the end of the budget; False when stopped by SIGTERM, after a commit.
        """
        with self.saves, Stop().by_sigterm() as stop, self._bar() as bar:
            return self._train(stop, bar)

    def _train(self, stop: Stop, bar: tqdm[Any]) -> bool:
        state = self.state
        batches = self.feed(state.progress.position, stop)
        window = _Window(self.schema.task_names, state.progress.window, state.world, lambda: batches.waited)
        goes_on = not self._owed() or self._evaluate(window, stop)
        pipeline = build_pipeline(state.model, state.optimizers, state.world, state.progress.step, self.place)
        while goes_on and state.progress.step < self.total_steps and (output := _next(pipeline.progress, batches)):
            window.add(output)
            state.progress = self._after(output)
            state.world.heartbeat.step = state.progress.step
            bar.update(1)
            if state.progress.step % self.config.log_every == 0:
                self._log(window, bar)
            if self._due(state.progress.step):
                with pipeline.paused():
                    goes_on = self._evaluate(window, stop)
        pipeline.close()
        batches.close()
        done = goes_on and state.progress.step >= self.total_steps
        self._conclude(window, done)
        return done

    @cached_property
    def saves(self) -> Saves:
        """The saves of this training."""
        return Saves(self.checkpoints)

    def _evaluate(self, window: _Window, stop: Stop) -> bool:
        """Evaluate and save; False where a stop came first, and the step is left to be evaluated on resuming."""
        try:
            found = self.evaluate(self.state.progress.step, stop)
        except AbandonedError:
            return False
        self._warn(found.report)
        self.state.progress = self.state.progress.model_copy(
            update={"history": (*self.state.progress.history, found.report)}
        )
        metrics = {f"validation/{name}": value for name, value in found.report.metrics().items()}
        self._save(window, found.score(self.evaluation), metrics)
        return True

    def _warn(self, report: EvaluationReport) -> None:
        """Say once in the life of a run that a gate collapsed."""
        level = self.evaluation.collapse
        before = [health for past in self.state.progress.history for health in past.experts.values()]
        line = collapse_warning(report.experts, level, report.step)
        if line and self.state.world.is_rank_zero and not any(health.collapsed(level) for health in before):
            log.warning(line)

    def _save(self, window: _Window, score: float | None, metrics: Mapping[str, float]) -> None:
        sums = tuple(all_gather(window.sums(), self.state.world))
        self._require_finite([value for own in sums for value in own])
        self.state.progress = self.state.progress.model_copy(update={"window": sums, "quarantined": self.quarantined()})
        step = self.state.progress.step

        def then(commit: Commit | None) -> None:
            if commit is None:
                self.tracker.log_metrics({**metrics, "checkpoint/failures": self.saves.failures + 1.0}, step)
            elif metrics:
                self.tracker.log_checkpoint(step, str(self.checkpoints.path(commit)), metrics)

        with self.state.world.heartbeat.during("checkpoint"):
            self.saves.save(self.state, score, then)

    def _conclude(self, window: _Window, done: bool) -> None:
        """Whatever was trained lasts; a stop in between costs no step."""
        with self.state.world.heartbeat.during("checkpoint"):
            self.saves.settle()
        if not done and self._newest() != self.state.progress.step:
            self._save(window, None, {})
        with self.state.world.heartbeat.during("checkpoint"):
            self.saves.finish()

    def _require_finite(self, losses: Iterable[float]) -> None:
        """Stop all ranks; on CUDA no step waits for its own loss, so that every log line and checkpoint asks."""
        if not all(map(math.isfinite, losses)):
            raise collective_error(
                f"step {self.state.progress.step}: a loss since the last log line is not finite; expected finite "
                "features, labels and weights: lower the learning rate or run doctor (nothing was committed)",
                self.state.world,
            )

    def _after(self, output: Output) -> Progress:
        epoch, step = divmod(output.batch.step + 1, self.steps_per_epoch)
        return self.state.progress.model_copy(
            update={"step": output.batch.step + 1, "epoch": epoch, "step_in_epoch": step}
        )

    def _due(self, step: int) -> bool:
        every = self.evaluation.every or self.steps_per_epoch
        return step % every == 0 or step == self.total_steps

    def _owed(self) -> bool:
        """Whether the step that was resumed at is due, and its evaluation was abandoned."""
        progress = self.state.progress
        return progress.step > 0 and self._due(progress.step) and not progress.evaluated

    def _log(self, window: _Window, bar: tqdm[Any]) -> None:
        steps, metrics = window.steps, window.take()
        self._require_finite(metrics.values())
        self._observe(metrics, steps)
        if damaged := self.quarantined():
            metrics["data/quarantined_rows"] = float(sum(each.rows for each in damaged))
        self.tracker.log_metrics(metrics, self.state.progress.step)
        if self.state.world.is_rank_zero:
            known = {name: metrics.get(f"train/loss/{name}") for name in self.schema.task_names}
            losses = " ".join(f"{name} {'-' if loss is None else f'{loss:.4f}'}" for name, loss in known.items())
            speed = f"{metrics['train/rows_per_second']:.0f} rows/s"
            waiting = f"waiting for input {metrics['train/input_wait_share']:.0%}"
            left = timedelta(seconds=round((self.total_steps - self.state.progress.step) * window.pace))
            line = f"step {self.state.progress.step}/{self.total_steps} {losses} | {speed}, {waiting}, {left} left"
            bar.set_postfix_str(f"{speed}, {waiting}") if not bar.disable else log.info(line)

    def _observe(self, metrics: Mapping[str, float], steps: Tensor) -> None:
        """Show the weighting the window's global losses, the same on every rank."""
        known = [metrics.get(f"train/loss/{name}", 0.0) for name in self.schema.task_names]
        losses = torch.tensor(known, dtype=torch.float64)
        last = self.state.progress.step - 1
        self.state.model.module.objective.weighting.observe(losses, steps, last // self.steps_per_epoch, last)

    def _bar(self) -> tqdm[Any]:
        disable = None if self.state.world.is_rank_zero else True  # None: only on a terminal
        return tqdm(
            total=self.total_steps, initial=self.state.progress.step, unit="step", disable=disable, dynamic_ncols=True
        )

    def _newest(self) -> int | None:
        commits = on_rank_zero(self.checkpoints.commits, self.state.world)
        return commits[-1].step if commits else None


class _Window:
    """This rank's losses since the last log line; sums stay on the device until they are wanted.

    Attributes:
        steps: `[T]` steps in which some rank had an example of the task, the same on every rank.
        losses: `[T]` sums over them of this rank's shares.
        pace: seconds a step took when the window was last taken.
    """

    def __init__(
        self,
        tasks: tuple[str, ...],
        saved: tuple[tuple[float, ...], ...],
        world: World,
        waited: Callable[[], float],
    ) -> None:
        self.tasks, self.world, self.waited = tasks, world, waited
        self.pace, self.timed, self.waited_before = 0.0, 0, waited()
        self.rows, count, nothing = 0, len(tasks), (0.0,) * len(tasks)
        own = [sums[-count:] for sums in saved[world.rank :: world.size]] or [nothing]
        self.losses = torch.tensor(own, dtype=torch.float64).sum(0)
        steps = saved[0][:-count] if saved else nothing  # an old checkpoint's is one number for all tasks
        self.steps = torch.tensor(steps, dtype=torch.float64).expand(count)
        self.began = time.perf_counter()

    def add(self, output: Output) -> None:
        self.timed += 1
        self.rows += len(output.batch.rows)
        device, counts = output.shares.device, output.batch.counts
        self.steps = self.steps.to(device) + (counts > 0)
        self.losses = self.losses.to(device) + output.shares.double()

    def sums(self) -> tuple[float, ...]:
        return (*self.steps.tolist(), *self.losses.tolist())

    def take(self) -> dict[str, float]:
        """Global mean losses, speed and share of time waiting for input since the last call; it starts anew.

        A loss is the mean over the steps that had an example of the task, and left out where none had.
        """
        own = torch.tensor([float(self.rows), self.waited() - self.waited_before], dtype=torch.float64)
        packed = all_reduce_host(torch.cat([self.losses.cpu(), own]), self.world)
        now = time.perf_counter()
        elapsed = max(now - self.began, 1e-9)
        means = (packed[:-2] / self.steps.cpu()).tolist()  # 0 / 0, NaN, without an example
        found = {f"train/loss/{n}": m for n, m, k in zip(self.tasks, means, self.steps.tolist(), strict=True) if k}
        found["train/rows_per_second"] = packed[-2].item() / elapsed
        found["train/input_wait_share"] = min(packed[-1].item() / self.world.size / elapsed, 1.0)
        self.pace, self.timed, self.waited_before = elapsed / max(self.timed, 1), 0, self.waited()
        self.rows, self.began = 0, now
        self.steps, self.losses = torch.zeros_like(self.steps), torch.zeros_like(self.losses)
        return found


def _next(progress: Callable[[Feed], Output], batches: Feed) -> Output | None:
    try:
        return progress(batches)
    except StopIteration:
        return None
