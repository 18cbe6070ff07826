"""ESMM: conversion probabilities over all exposures, in log space, and the configurations it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ranking.errors import InputError
from ranking.expression import Expression
from ranking.models.esmm import joint_logit
from ranking.objective.loss import Objective, ObjectiveConfig
from ranking.schema import Task

from .conftest import TASKS, inputs, network

SETTINGS = {"type": "esmm", "tower": [8], "towers": {"buy": [6, 4]}}


def tasks(**second: Any) -> tuple[Task, ...]:
    click = {"name": "click", "label": "is_click"}
    return tuple(Task.model_validate(task) for task in (click, {"name": "buy", "label": "is_click & is_buy"} | second))


def test_every_tower_has_its_own_widths() -> None:
    towers = network(SETTINGS).towers
    assert [[layer.out_features for layer in tower[0].layers] for tower in towers] == [[8], [8], [6, 4]]


def test_pctcvr_is_the_product() -> None:
    model = network(SETTINGS)
    x = inputs()
    click, *others = [torch.sigmoid(tower(x)).squeeze(1) for tower in model.towers]
    expected = torch.stack([click, *(click * other for other in others)], dim=1)
    torch.testing.assert_close(torch.sigmoid(model(x)), expected)


def test_pcvr_can_be_had_back() -> None:
    model, x = network(SETTINGS), inputs()
    logits = model(x)
    expected = torch.cat([torch.ones(64, 1), *(torch.sigmoid(tower(x)) for tower in model.towers[1:])], dim=1)
    torch.testing.assert_close(model.pcvr(logits), expected)
    served = torch.sigmoid(logits)  # what an artefact answers
    torch.testing.assert_close(served / served[:, :1], expected)


def test_the_loss_is_the_papers_over_all_exposures() -> None:
    model, pair = network(SETTINGS | {"towers": {}}, tasks=tasks()), tasks()
    click = torch.randint(0, 2, (64,)).float()
    labels = torch.stack([click, click * torch.randint(0, 2, (64,))], dim=1)
    objective = Objective(ObjectiveConfig(), pair, 1)
    loss = objective(objective.task_losses(model(inputs()), labels, torch.ones(64, 2), torch.full((2,), 64.0)), 0, 0)
    pctr, pcvr = (torch.sigmoid(tower(inputs())).squeeze(1) for tower in model.towers)
    bce = torch.nn.functional.binary_cross_entropy
    torch.testing.assert_close(loss, bce(pctr, labels[:, 0]) + bce(pctr * pcvr, labels[:, 1]))


def test_the_joint_logit_stays_exact_where_probabilities_vanish() -> None:
    corners = torch.tensor([-80.0, -30.0, -1.0, 0.0, 2.0, 30.0, 80.0])
    a, b = (side.flatten().requires_grad_() for side in torch.meshgrid(corners, corners, indexing="ij"))
    logit = joint_logit(a, b)
    p, q = torch.sigmoid(a.double()), torch.sigmoid(b.double())
    odds = (p * q) / ((1 - p) + p * torch.sigmoid(-b.double()))
    inside = (a.abs() <= 30) & (b.abs() <= 30)  # where float64 can still tell 1 - p from 0
    torch.testing.assert_close(logit[inside].double(), odds.log()[inside], rtol=1e-5, atol=1e-3)
    assert (logit <= torch.minimum(a, b)).all()
    slopes = torch.autograd.grad(logit.sum(), (a, b))
    assert all(slope.isfinite().all() and (slope >= 0).all() for slope in slopes)


@pytest.mark.parametrize(
    "label",
    ["is_click & is_buy", "is_buy & is_click", "(is_click) & is_buy & is_paid", "is_buy & (is_paid & is_click)"],
)
def test_a_conjunction_with_the_click_is_a_conversion(label: str) -> None:
    assert str(network(SETTINGS, tasks=tasks(label=label)).tasks[1].label) == label


def test_all_terms_of_the_clicks_own_conjunction_are_wanted() -> None:
    click, buy = tasks(label="is_click & is_buy")
    click = click.model_copy(update={"label": Expression("is_click & stayed")})
    with pytest.raises(InputError, match=r"expected 'is_click & stayed & \.\.\.'"):
        network(SETTINGS, tasks=(click, buy))
    network(SETTINGS, tasks=(click, buy.model_copy(update={"label": Expression("stayed & is_click & is_buy")})))


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"label": "is_buy"}, r"task 'buy': label: got 'is_buy'; expected 'is_click & \.\.\.'"),
        ({"label": "is_click | is_buy"}, "must imply the click"),
        ({"label": "is_buy & ~is_click"}, "must imply the click"),
        ({"label": "is_buy", "given": "click"}, r"task 'buy': given: got 'click'; expected 'all'.*all exposures"),
        ({"label": "is_click & is_buy", "given": "click"}, r"task 'buy': given: got 'click'; expected 'all'"),
        ({"loss": "mse"}, r"task 'buy': loss: got 'mse'; expected bce"),
    ],
)
def test_a_conversion_without_the_click_is_refused(second: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        network(SETTINGS, tasks=tasks(**second))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"click": "view"}, r"model\.click: unknown task 'view'"), ({"towers": {"x": [2]}}, r"model\.towers\.x: unknown")],
)
def test_a_task_that_does_not_exist_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        network(SETTINGS | settings, tasks=TASKS)
