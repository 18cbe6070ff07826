"""Layers of several tasks whose weights are one tensor in Tucker form."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class TuckerLinear(nn.Module):
    """T linear layers with W = sum S(i1,i2,i3) U1(:,i1) o U2(:,i2) o U3(:,i3), W in R^(m x n x T) [TF, eq. 3].

    The input runs through the factors one after the other, so W itself is never built.

    Args:
        tasks: T.
        inputs: m.
        outputs: n.
        ranks: r1, r2, r3 for inputs, outputs, tasks; a rank above its dimension is cut to it, which is full rank.
    """

    def __init__(self, tasks: int, inputs: int, outputs: int, ranks: tuple[int, int, int]) -> None:
        """Draw factors such that an entry of W has the variance `nn.Linear` starts with, 1 / (3 m)."""
        super().__init__()
        r1, r2, r3 = min(ranks[0], inputs), min(ranks[1], outputs), min(ranks[2], tasks)
        self.core = nn.Parameter(torch.empty(r1, r2, r3).normal_(std=(3 * r1) ** -0.5))
        self.input_factor = nn.Parameter(torch.empty(inputs, r1).normal_(std=inputs**-0.5))
        self.output_factor = nn.Parameter(torch.empty(outputs, r2).normal_(std=r2**-0.5))
        self.task_factor = nn.Parameter(nn.functional.normalize(torch.empty(tasks, r3).normal_(), dim=1))
        bound = inputs**-0.5
        self.bias = nn.Parameter(torch.empty(tasks, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, m]` shared by the tasks, or `[T, B, m]`, to `[T, B, n]`."""
        cores = torch.einsum("abc,tc->tab", self.core, self.task_factor)
        return (x @ self.input_factor) @ cores @ self.output_factor.t() + self.bias.unsqueeze(1)


class TuckerMLP(nn.Module):
    """T perceptrons, ReLU after every layer, the tasks' weights of each layer factorised together.

    Args:
        tasks: T.
        inputs: input width.
        widths: output width of every layer.
        ranks: r1, r2, r3 of every layer.
        dropout: probability of dropping an activation after each ReLU.
    """

    def __init__(
        self, tasks: int, inputs: int, widths: Sequence[int], ranks: tuple[int, int, int], dropout: float = 0.0
    ) -> None:
        """Build the layers."""
        super().__init__()
        sizes = [inputs, *widths]
        self.outputs = sizes[-1]
        self.layers = nn.ModuleList(TuckerLinear(tasks, a, b, ranks) for a, b in pairwise(sizes))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs]` to `[T, B, widths[-1]]`."""
        for layer in self.layers:
            x = self.dropout(torch.relu(layer(x)))
        return x
