"""Weights that are learned or follow the losses: uncertainty, DWA, DTP."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from ranking.objective.loss import Objective, ObjectiveConfig
from ranking.objective.static import StaticWeighting
from ranking.objective.weighting import WeightingConfig, build_weighting
from ranking.schema import Task

TASKS = tuple(
    Task.model_validate(task)
    for task in (
        {"name": "click", "label": "x", "weight": 2.0},
        {"name": "watch", "label": "y", "loss": "mse", "gamma": 0.5},
        {"name": "dwell", "label": "z", "loss": "huber"},
    )
)
STATIC = torch.tensor([2.0, 1.0, 1.0])


def weighting(**section: Any) -> StaticWeighting:
    return build_weighting(TypeAdapter(WeightingConfig).validate_python(section), TASKS)


def observe(weights: StaticWeighting, *periods: list[float]) -> None:
    """A window of losses for each epoch, of one step that had an example of every task whose loss is not 0."""
    for epoch, losses in enumerate(periods):
        found = torch.tensor(losses)
        weights.observe(found, found > 0, epoch, epoch)


@pytest.mark.parametrize("name", ["static", "uncertainty", "dwa", "dtp", "gradnorm"])
def test_without_history_weights_are_the_static_ones(name: str) -> None:
    weights = weighting(type=name)
    half = torch.tensor([1.0, 0.5, 1.0]) if name == "uncertainty" else torch.ones(3)
    torch.testing.assert_close(weights(0, 0), STATIC * half)
    torch.testing.assert_close(weights(2, 7), STATIC * half * torch.tensor([1.0, 0.25, 1.0]))


def test_an_unknown_weighting_is_refused() -> None:
    with pytest.raises(ValidationError, match="'static', 'uncertainty', 'dwa', 'dtp', 'gradnorm'"):
        weighting(type="best")


@pytest.mark.parametrize("name", ["uncertainty", "dwa", "dtp"])
def test_the_state_goes_round(name: str) -> None:
    weights, other = weighting(type=name), weighting(type=name)
    observe(weights, [0.6, 2.0, 1.0], [0.5, 1.0, 1.0], [0.4, 0.9, 1.0])
    if name == "uncertainty":
        torch.nn.init.normal_(weights.log_variance)
    assert not torch.equal(weights(3, 3), other(3, 3))
    other.load_state_dict(weights.state_dict())
    torch.testing.assert_close(other(3, 3), weights(3, 3), rtol=0, atol=0)
    if name == "dwa":  # the t under way, too
        observe(weights, *[[9.0, 9.0, 1.0]] * 5)
        observe(other, *[[9.0, 9.0, 1.0]] * 5)
        torch.testing.assert_close(other(5, 5), weights(5, 5), rtol=0, atol=0)


def uncertainty_loss(losses: Tensor, world: int = 1, counts: Tensor | None = None) -> tuple[Objective, Tensor]:
    config = ObjectiveConfig.model_validate({"weighting": {"type": "uncertainty"}})
    objective = Objective(config, TASKS, world)
    with torch.no_grad():
        objective.weighting.log_variance.copy_(torch.tensor([0.3, -0.7, 1.1]))
    return objective, objective(losses / world, 0, 0, counts=counts)


def test_uncertainty_is_kendalls_loss() -> None:
    losses, s = [0.6, 3.0, 1.0], [0.3, -0.7, 1.1]
    _, loss = uncertainty_loss(torch.tensor(losses))
    bce, mse, huber = (math.exp(-v) * value for v, value in zip(s, losses, strict=True))
    expected = 2 * (bce + s[0] / 2) + (mse / 2 + s[1] / 2) + (huber + s[2] / 2)
    assert loss.item() == pytest.approx(expected)


def test_the_mean_over_ranks_is_the_one_process_gradient() -> None:
    """Four ranks with unequal shares: DDP's mean of their gradients is that of the whole batch."""
    losses = torch.tensor([0.6, 3.0, 1.0])
    whole, loss = uncertainty_loss(losses)
    loss.backward()
    parts = torch.tensor([[0.1, 1.0, 0.0], [0.2, 0.5, 0.0], [0.3, 0.0, 1.0], [0.0, 1.5, 0.0]])
    gradients = []
    for share in parts:
        objective, loss = uncertainty_loss(share * 4, world=4)
        loss.backward()
        gradients.append(objective.weighting.log_variance.grad)
    torch.testing.assert_close(torch.stack(gradients).mean(0), whole.weighting.log_variance.grad)


def test_uncertainty_settles_at_the_noise_of_each_task() -> None:
    objective, _ = uncertainty_loss(torch.zeros(3))
    optimizer, losses = torch.optim.Adam(objective.parameters(), 0.05), torch.tensor([0.6, 3.0, 0.2])
    for _ in range(500):
        optimizer.zero_grad()
        objective(losses, 0, 0).backward()
        optimizer.step()
    variance = objective.weighting.log_variance.exp().detach()
    torch.testing.assert_close(variance, torch.tensor([1.2, 3.0, 0.4]), rtol=1e-2, atol=1e-2)


def test_a_task_without_examples_keeps_its_uncertainty() -> None:
    objective, loss = uncertainty_loss(torch.tensor([0.6, 0.0, 1.0]), counts=torch.tensor([5.0, 0.0, 5.0]))
    loss.backward()
    gradient = objective.weighting.log_variance.grad
    assert gradient[1] == 0
    assert (gradient[[0, 2]] != 0).all()


def test_dwa_is_the_softmax_of_the_paces() -> None:
    weights = weighting(type="dwa", temperature=2.0)
    observe(weights, [0.8, 4.0, 1.0], [0.4, 3.0, 1.0], [0.1, 0.1, 0.1])
    pace = torch.tensor([0.4 / 0.8, 3.0 / 4.0, 1.0])
    static = STATIC * torch.tensor([1.0, 0.25, 1.0])
    torch.testing.assert_close(weights(2, 2), static * 3 * torch.softmax(pace / 2, 0))


def test_dwa_takes_the_mean_of_a_whole_t() -> None:
    """Windows of unequal length, `interval` steps to a t; the t under way does not count yet."""
    weights = weighting(type="dwa", interval=10)
    for losses, steps, last in (
        ([1.0, 2.0, 1.0], [4, 4, 4], 3),
        ([3.0, 2.0, 1.0], [6, 6, 1], 9),
        ([1.1, 1.0, 1.0], [10, 10, 3], 19),
    ):
        weights.observe(torch.tensor(losses), torch.tensor(steps), 0, last)
    before = weights(0, 19)
    weights.observe(torch.tensor([9.0, 9.0, 9.0]), torch.full((3,), 5), 0, 24)
    torch.testing.assert_close(before, STATIC * torch.tensor([1.0, 0.5, 1.0]))  # one t is not enough
    pace = torch.tensor([1.1 / 2.2, 0.5, 1.0])
    static = STATIC * torch.tensor([1.0, 0.25, 1.0])
    torch.testing.assert_close(weights(0, 24), static * 3 * torch.softmax(pace / 2, 0))


def test_dwa_ignores_a_task_that_had_no_example() -> None:
    weights = weighting(type="dwa")
    observe(weights, [0.8, 0.0, 1.0], [0.4, 3.0, 1.0], [1.0, 1.0, 1.0])
    pace = torch.tensor([0.5, 1.0, 1.0])
    torch.testing.assert_close(weights(0, 0), STATIC * 3 * torch.softmax(pace / 2, 0))


def test_dwa_takes_the_mean_over_the_steps_that_had_an_example() -> None:
    weights = weighting(type="dwa", interval=10)
    for losses, steps, last in (
        ([1.0, 2.0, 0.0], [4, 4, 0], 3),
        ([1.0, 2.0, 0.8], [6, 6, 1], 9),
        ([1.0, 2.0, 0.4], [5, 5, 3], 14),
        ([1.0, 2.0, 0.0], [5, 5, 0], 19),
        ([1.0, 2.0, 0.0], [5, 5, 0], 24),
    ):
        weights.observe(torch.tensor(losses), torch.tensor(steps), 0, last)
    static = STATIC * torch.tensor([1.0, 0.25, 1.0])
    torch.testing.assert_close(weights(0, 24), static * 3 * torch.softmax(torch.tensor([1.0, 1.0, 0.5]) / 2, 0))


def test_dtp_is_the_focal_weight_of_the_progress() -> None:
    weights = weighting(type="dtp", focus=2.0, smoothing=0.25)
    first, second = torch.tensor([0.6, 2.0, 0.1]), torch.tensor([0.3, 1.0, 0.1])
    weights.observe(first, torch.ones(3), 0, 0)
    weights.observe(second, torch.ones(3), 0, 1)
    kappa = 0.75 * torch.exp(-first) + 0.25 * torch.exp(-second)
    torch.testing.assert_close(weights(0, 2), STATIC * -((1 - kappa) ** 2) * kappa.log())


def test_dtp_counts_hard_tasks_for_more() -> None:
    weights = weighting(type="dtp")
    observe(weights, [0.5, 0.5, 2.0])
    easy, _, hard = (weights(0, 0) / STATIC).tolist()
    assert hard > 4 * easy


def test_dtp_skips_a_window_without_examples() -> None:
    weights = weighting(type="dtp", smoothing=1.0)
    observe(weights, [0.6, 2.0, 0.0], [0.6, 0.0, 0.0])
    assert weights.progress.tolist() == pytest.approx([math.exp(-0.6), math.exp(-2.0), 0.0])
    assert weights(0, 0)[2] == STATIC[2]


@pytest.mark.parametrize("name", ["dwa", "dtp"])
def test_no_loss_makes_a_weight_that_is_not_finite(name: str) -> None:
    weights = weighting(type=name)
    observe(weights, [1e-12, 1e6, 700.0], [1e3, 1e-9, 1e-9], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0])
    assert weights(0, 0).isfinite().all()
    assert (weights(0, 0) >= 0).all()
