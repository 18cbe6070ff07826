from __future__ import annotations

import pytest
import torch

from ranking.nn.towers import Towers


@pytest.mark.parametrize("widths", [(), (4,)])
@pytest.mark.parametrize("shared", [True, False])
def test_every_task_has_a_tower_and_a_logit_of_its_own(shared: bool, widths: tuple[int, ...]) -> None:
    towers = Towers(3, 5, widths)
    x = torch.randn(6, 5) if shared else torch.randn(3, 6, 5)
    logits = towers(x)
    assert logits.shape == (6, 3)
    for task in range(3):
        hidden = x if shared else x[task]
        for layer in towers.hidden.layers:
            hidden = torch.relu(hidden @ layer.weight[task].t() + layer.bias[task])
        torch.testing.assert_close(logits[:, task], hidden @ towers.weight[task] + towers.bias[task])
