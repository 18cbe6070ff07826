"""A training without MLflow, from the configuration to what it leaves behind: a work for `launch`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipelines.fit import Fit
from ranking.config import load
from ranking.distributed.world import World
from ranking.tracking.runs import NullRun

Left = dict[str, Any]


def train(world: World, files: list[Path], overrides: list[str]) -> Left:
    """Train to `training.steps`, resuming where there is something to resume.

    Returns:
        Every dense tensor by name; `weights`, the tasks' next weights; `gates`, the mean gate weights on validation.
    """
    fit = Fit(load(files, overrides), world)
    assert fit.train(NullRun())
    state, steps = fit.state, fit.steps
    last = state.progress.step
    left: Left = {name: v.numpy() for name, v in state.model.state_dict().items() if "embedding_bags" not in name}
    left["weights"] = state.model.module.objective.weighting(last // steps, last).detach().numpy()
    return left | {"gates": fit.parts.evaluate(fit.validation, state, last).gates}


def train_each(world: World, files: list[Path], overrides: dict[str, list[str]]) -> dict[str, Left]:
    """Several trainings one after the other."""
    return {name: train(world, files, more) for name, more in overrides.items()}


def assert_same(left: Left, right: Left) -> None:
    """Bit for bit."""
    np.testing.assert_equal(left, right)


def steady(output: Path, steps: int) -> list[str]:
    """Overrides under which a run of fewer steps is the beginning of a longer one."""
    return [
        f"--output={output}",
        f"--training.steps={steps}",
        "--training.log_every=4",
        "--evaluation.every=100",
        "--optimizer.schedule.type=constant",
        "--optimizer.schedule.warmup_steps=0",
    ]
