"""The moving average of weights."""

from __future__ import annotations

import pytest
import torch

from ranking.training.average import WeightAverage


def follow(decay: float, values: list[float]) -> list[float]:
    weight = torch.zeros(2)
    average, found = WeightAverage({"w": weight}, decay), []
    for value in values:
        weight.fill_(value)
        average.update()
        found.append(average.state["w"][0].item())
    return found


def test_the_first_steps_are_forgotten_faster() -> None:
    first = 0.9 * 5.0  # d = 1 / 10
    second = first * 2 / 11 + 9 / 11 * 7.0
    assert follow(0.99, [5.0, 7.0]) == pytest.approx([first, second])


def test_later_ones_at_the_given_decay() -> None:
    *_, before, after = follow(0.5, [1.0] * 20 + [3.0])
    assert (before, after) == (pytest.approx(1.0, abs=1e-3), pytest.approx(2.0, abs=1e-3))


def test_decay_0_is_the_last_weight() -> None:
    assert follow(0.0, [2.0, 4.0]) == [2.0, 4.0]


def test_the_weights_stay_as_they_are() -> None:
    weight = torch.ones(3, requires_grad=True)
    average = WeightAverage({"w": weight}, 0.9)
    average.update()
    average.state["w"].fill_(9)
    assert weight.tolist() == [1, 1, 1]
    assert not average.state["w"].requires_grad
