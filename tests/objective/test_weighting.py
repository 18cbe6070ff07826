from __future__ import annotations

import pytest
import torch

from ranking.objective.static import StaticConfig, StaticWeighting
from ranking.schema import Task

TASKS = tuple(
    Task.model_validate({"name": name, "label": "x", "weight": weight, "gamma": gamma})
    for name, weight, gamma in (("a", 2.0, 1.0), ("b", 0.5, 0.5), ("c", 1.0, 2.0))
)


@pytest.mark.parametrize(
    ("interval", "epoch", "step", "time"), [(0, 0, 999, 0), (0, 3, 7, 3), (10, 5, 9, 0), (10, 0, 10, 1), (10, 0, 25, 2)]
)
def test_weights_follow_w0_gamma_to_the_t(interval: int, epoch: int, step: int, time: int) -> None:
    weights = StaticWeighting(StaticConfig(interval=interval), TASKS)(epoch, step)
    torch.testing.assert_close(weights, torch.tensor([2.0, 0.5 * 0.5**time, 2.0**time]))


def test_weights_are_settings_not_state() -> None:
    assert not StaticWeighting(StaticConfig(), TASKS).state_dict()
