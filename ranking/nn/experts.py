"""Groups of equal networks computed together: a bank of experts, or one network a task."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class GroupedLinear(nn.Module):
    """G linear layers of one shape in one matmul.

    Args:
        groups: G.
        inputs: width of every layer's input.
        outputs: width of every layer's output.
        bias: whether layers have one.
    """

    def __init__(self, groups: int, inputs: int, outputs: int, bias: bool = True) -> None:
        """Draw weights from U(-1/sqrt(inputs), 1/sqrt(inputs)), as `nn.Linear` does."""
        super().__init__()
        bound = inputs**-0.5 if inputs else 0.0
        self.weight = nn.Parameter(torch.empty(groups, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(groups, outputs).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply every layer.

        Args:
            x: `[B, inputs]` shared by all groups (one addmm), or `[G, B, inputs]` (one batched matmul).

        Returns:
            `[G, B, outputs]`.
        """
        groups, outputs, inputs = self.weight.shape
        if x.dim() == 2:
            bias = None if self.bias is None else self.bias.reshape(-1)
            flat = nn.functional.linear(x, self.weight.reshape(-1, inputs), bias)
            return flat.view(-1, groups, outputs).transpose(0, 1)
        x = x.contiguous()  # or oneDNN copies it for every product of forward and backward, once even transposed
        if self.bias is None:
            return torch.bmm(x, self.weight.transpose(1, 2))
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.transpose(1, 2))


class GroupedMLP(nn.Module):
    """G multi-layer perceptrons of one shape, ReLU after every layer: the experts f_i of an MoE layer.

    Args:
        groups: G.
        inputs: input width.
        widths: output width of every layer; empty hands the input through.
        dropout: probability of dropping an activation after each ReLU.
    """

    def __init__(self, groups: int, inputs: int, widths: Sequence[int], dropout: float = 0.0) -> None:
        """Build the layers."""
        super().__init__()
        sizes = [inputs, *widths]
        self.groups = groups
        self.outputs = sizes[-1]
        self.layers = nn.ModuleList(GroupedLinear(groups, a, b) for a, b in pairwise(sizes))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Run every network.

        Args:
            x: `[B, inputs]` shared by all, or `[G, B, inputs]`.

        Returns:
            `[G, B, widths[-1]]`.
        """
        for layer in self.layers:
            x = self.dropout(torch.relu(layer(x)))
        return x if x.dim() == 3 else x.expand(self.groups, *x.shape)
