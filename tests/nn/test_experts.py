"""A group of networks is the same as so many networks one by one."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from ranking.nn.experts import GroupedLinear, GroupedMLP


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_each_group_is_a_linear_layer_of_its_own(shared: bool, bias: bool) -> None:
    layer = GroupedLinear(3, 5, 2, bias=bias)
    x = torch.randn(7, 5) if shared else torch.randn(3, 7, 5)
    parts = [
        functional.linear(x if shared else x[g], layer.weight[g], None if layer.bias is None else layer.bias[g])
        for g in range(3)
    ]
    torch.testing.assert_close(layer(x), torch.stack(parts))


@pytest.mark.parametrize("widths", [(), (4,), (6, 4)])
@pytest.mark.parametrize("shared", [True, False])
def test_each_expert_is_an_mlp_of_its_own(shared: bool, widths: tuple[int, ...]) -> None:
    experts = GroupedMLP(3, 5, widths)
    x = torch.randn(7, 5) if shared else torch.randn(3, 7, 5)
    parts = []
    for group in range(3):
        part = x if shared else x[group]
        for layer in experts.layers:
            part = torch.relu(functional.linear(part, layer.weight[group], layer.bias[group]))
        parts.append(part)
    torch.testing.assert_close(experts(x), torch.stack(parts))
    assert experts.outputs == (widths[-1] if widths else 5)


def test_weights_are_drawn_as_nn_linear_draws_them() -> None:
    torch.manual_seed(0)
    layer = GroupedLinear(8, 25, 40)
    for values in (layer.weight, layer.bias):
        assert values.abs().max() <= 0.2
        assert values.abs().max() > 0.19
        assert values.mean().abs() < 0.02
    assert not torch.equal(layer.weight[0], layer.weight[1])
