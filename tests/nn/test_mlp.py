from __future__ import annotations

import torch

from ranking.nn.mlp import MLP


def test_linear_then_relu_layer_by_layer() -> None:
    mlp = MLP(4, (5, 3))
    x = torch.randn(6, 4)
    expected = torch.relu(mlp.layers[1](torch.relu(mlp.layers[0](x))))
    torch.testing.assert_close(mlp(x), expected)
    assert mlp.outputs == 3


def test_no_widths_hand_the_input_through() -> None:
    mlp = MLP(4, ())
    x = torch.randn(2, 4)
    assert mlp(x) is x
    assert mlp.outputs == 4


def test_dropout_only_while_training() -> None:
    mlp = MLP(8, (64,), dropout=0.5)
    x = torch.rand(32, 8)
    torch.manual_seed(0)
    first, second = mlp(x), mlp(x)
    assert not torch.equal(first, second)
    mlp.eval()
    torch.testing.assert_close(mlp(x), torch.relu(mlp.layers[0](x)))
