"""Contract 2 on one device; tests/distributed/test_gradients.py takes it to several ranks."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from ranking.objective.loss import Objective, ObjectiveConfig
from ranking.schema import Task

LOSSES = ("mse", "bce", "huber", "bce")  # neither sorted nor grouped
TASKS = tuple(
    Task.model_validate({"name": f"t{i}", "label": "x", "loss": loss, "weight": i + 1, "gamma": 0.5})
    for i, loss in enumerate(LOSSES)
)


def objective(world_size: int = 1, **settings: object) -> Objective:
    return Objective(ObjectiveConfig.model_validate(settings), TASKS, world_size)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (9, 4)).float()
    labels[:, [0, 2]] = torch.randn(9, 2) * 3
    return torch.randn(9, 4, requires_grad=True), labels, torch.randint(0, 2, (9, 4)).float()


def test_every_column_has_the_loss_of_its_task(batch) -> None:
    logits, labels, _ = batch
    found = objective(huber_delta=0.7).example_losses(logits, labels)
    expected = [
        (logits[:, 0] - labels[:, 0]) ** 2,
        functional.binary_cross_entropy_with_logits(logits[:, 1], labels[:, 1], reduction="none"),
        functional.huber_loss(logits[:, 2], labels[:, 2], reduction="none", delta=0.7),
        functional.binary_cross_entropy_with_logits(logits[:, 3], labels[:, 3], reduction="none"),
    ]
    torch.testing.assert_close(found, torch.stack(expected, dim=1))


def test_each_task_is_the_mean_over_its_sample_space(batch) -> None:
    logits, labels, masks = batch
    counts = masks.sum(0)
    shares = objective().task_losses(logits, labels, masks, counts)
    losses = objective().example_losses(logits, labels)
    expected = [losses[masks[:, k] > 0, k].mean() for k in range(4)]
    torch.testing.assert_close(shares, torch.stack(expected))
    total = objective(weighting={"type": "static", "interval": 10})(shares, epoch=0, step=20)
    torch.testing.assert_close(total, sum((k + 1) * 0.25 * expected[k] for k in range(4)))


def test_an_empty_space_is_zero_and_stays_in_the_graph(batch) -> None:
    logits, labels, masks = batch
    masks[:, 1] = 0
    shares = objective().task_losses(logits, labels, masks, masks.sum(0))
    assert shares[1] == 0
    objective()(shares, 0, 0).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 1] == 0).all()
    assert (logits.grad[:, [0, 2, 3]] != 0).any(0).all()


def test_nothing_outside_the_space_reaches_the_gradient(batch) -> None:
    logits, labels, masks = batch
    objective()(objective().task_losses(logits, labels, masks, masks.sum(0)), 0, 0).backward()
    assert ((logits.grad != 0) <= (masks > 0)).all()


@pytest.mark.parametrize("label", [2.0**64, -torch.inf, torch.nan])
def test_a_label_outside_the_space_may_be_anything(label: float, batch) -> None:
    logits, labels, masks = batch
    expected = objective().task_losses(logits, labels, masks, masks.sum(0))
    shares = objective().task_losses(logits, labels.where(masks > 0, label), masks, masks.sum(0))
    assert torch.equal(shares, expected)
    shares.sum().backward()
    assert logits.grad.isfinite().all()


def test_weights_of_rows_may_be_fractions(batch) -> None:
    logits, labels, masks = batch
    whole, part = (objective().task_losses(logits, labels, m, m.sum(0)) for m in (masks, masks / 32))
    torch.testing.assert_close(part, whole)


def test_ranks_scale_by_the_world_so_that_averaging_gives_the_global_mean(batch) -> None:
    logits, labels, masks = batch
    counts = masks.sum(0)
    whole = objective()(objective().task_losses(logits, labels, masks, counts), 0, 0)
    parts = []
    for rows in (slice(0, 2), slice(2, 9)):
        shares = objective(2).task_losses(logits[rows], labels[rows], masks[rows], counts)
        parts.append(objective(2)(shares, 0, 0))
    torch.testing.assert_close(sum(parts) / 2, whole)


def test_a_penalty_is_added_once_whatever_the_world() -> None:
    shares = torch.ones(4)
    for size in (1, 2):
        found = objective(size)(shares, 0, 0, torch.tensor(0.5))
        assert found == size * (1 + 2 + 3 + 4) + 0.5  # every rank adds it, and gradients are averaged


def test_half_precision_logits_give_a_single_precision_loss(batch) -> None:
    logits, labels, masks = batch
    shares = objective().task_losses(logits.bfloat16(), labels, masks, masks.sum(0))
    assert shares.dtype == torch.float32
