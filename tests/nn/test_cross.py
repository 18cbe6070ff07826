"""Cross layers: products of inputs, by hand and in the limit of none."""

from __future__ import annotations

import torch

from ranking.nn.cross import CrossNetwork


def test_each_layer_multiplies_the_first_input_into_the_last() -> None:
    cross, x = CrossNetwork(copies=1, width=3, layers=2, rank=2), torch.randn(5, 1, 3)
    expected = x[:, 0]
    for down, up in zip(cross.down, cross.up, strict=True):
        full = up.weight[0] @ down.weight[0]
        expected = expected + x[:, 0] * (expected @ full.t() + up.bias[0])
    torch.testing.assert_close(cross(x)[:, 0], expected)


def test_every_copy_has_weights_of_its_own() -> None:
    cross, x = CrossNetwork(copies=2, width=4, layers=1, rank=2), torch.randn(6, 1, 4).expand(-1, 2, -1)
    crossed = cross(x)
    assert crossed.shape == (6, 2, 4)
    assert not torch.allclose(crossed[:, 0], crossed[:, 1])


def test_no_layer_hands_the_input_through() -> None:
    x = torch.randn(3, 1, 4)
    assert CrossNetwork(1, 4, 0, 2)(x) is x
