"""The plain multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers, each followed by ReLU and dropout.

    Args:
        inputs: input width.
        widths: output width of every layer; empty hands the input through.
        dropout: probability of dropping an activation after each ReLU.
    """

    def __init__(self, inputs: int, widths: Sequence[int], dropout: float = 0.0) -> None:
        """Build the layers."""
        super().__init__()
        sizes = [inputs, *widths]
        self.outputs = sizes[-1]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs]` to `[B, widths[-1]]`."""
        for layer in self.layers:
            x = self.dropout(torch.relu(layer(x)))
        return x
