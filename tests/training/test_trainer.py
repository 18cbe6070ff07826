"""What the loop keeps between two log lines, at any number of ranks and across checkpoints."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ranking.distributed.world import World
from ranking.training.trainer import _Window
from tests.launch import launch

TASKS = ("click", "like", "buy")
LOSSES = [[0.6, 0.0, 0.0], [0.4, 0.8, 0.0], [0.2, 0.0, 0.0]]  # global, step by step; like has one example, buy none
Saved = tuple[tuple[float, ...], ...]


def window(world: World, saved: Saved) -> _Window:
    return _Window(TASKS, saved, world, lambda: 0.0)


def add(found: _Window, world: World, losses: list[float]) -> None:
    """A step in which each rank has an equal part of the losses."""
    whole = torch.tensor(losses)
    batch: Any = SimpleNamespace(rows=[0], counts=(whole > 0).float())
    found.add(SimpleNamespace(batch=batch, shares=whole / world.size))  # type: ignore[arg-type]


def means(world: World, saved: Saved, steps: list[list[float]]) -> tuple[dict[str, float], tuple[float, ...]]:
    found = window(world, saved)
    for losses in steps:
        add(found, world, losses)
    sums = found.sums()
    taken = found.take()
    assert found.sums() == (0.0,) * 6
    return {name: value for name, value in taken.items() if "loss" in name}, sums


@pytest.mark.parametrize("size", [1, 2])
def test_a_loss_is_the_mean_over_the_steps_that_had_an_example(size: int) -> None:
    for losses, _ in launch(means, size, (), LOSSES):
        assert losses == pytest.approx({"train/loss/click": 0.4, "train/loss/like": 0.8})


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 2)])
def test_a_window_goes_on_at_any_number_of_ranks(before: int, after: int) -> None:
    saved = tuple(sums for _, sums in launch(means, before, (), LOSSES[:2]))
    for losses, _ in launch(means, after, saved, LOSSES[2:]):
        assert losses == pytest.approx({"train/loss/click": 0.4, "train/loss/like": 0.8})


def test_a_window_of_an_old_checkpoint_had_every_task_in_every_step() -> None:
    for losses, _ in launch(means, 2, ((2.0, 0.5, 0.4, 0.0), (2.0, 0.5, 0.4, 0.0)), LOSSES[2:]):
        assert losses == pytest.approx({"train/loss/click": 0.4, "train/loss/like": 0.4, "train/loss/buy": 0.0})
