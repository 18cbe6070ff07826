"""Cross-stitch units between the networks of different tasks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ranking.nn.experts import GroupedMLP


class CrossStitch(nn.Module):
    """x~_j = sum_k alpha_jk x_k with trainable alpha [CS, eq. 1].

    Args:
        tasks: T.
        own: alpha_jj at the start; what is left of 1 is shared equally between the other tasks.
    """

    def __init__(self, tasks: int, own: float) -> None:
        """Start near the identity."""
        super().__init__()
        rest = (1 - own) / (tasks - 1) if tasks > 1 else 0.0
        alpha = torch.full((tasks, tasks), rest)
        self.alpha = nn.Parameter(alpha.fill_diagonal_(own if tasks > 1 else 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """`[T, B, H]` to `[T, B, H]`."""
        return (self.alpha @ x.flatten(1)).view_as(x)


class StitchedMLP(GroupedMLP):
    """T perceptrons of one shape with cross-stitch units after some layers.

    Args:
        tasks: T.
        inputs: input width.
        widths: output width of every layer.
        dropout: probability of dropping an activation after each ReLU.
        stitch_after: numbers of the layers, the lowest is 1, that a unit follows.
        own: start of every unit's diagonal.
    """

    def __init__(
        self, tasks: int, inputs: int, widths: Sequence[int], dropout: float, stitch_after: Sequence[int], own: float
    ) -> None:
        """Build layers and units."""
        super().__init__(tasks, inputs, widths, dropout)
        self.stitches = nn.ModuleDict({str(number): CrossStitch(tasks, own) for number in stitch_after})

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs]`, or `[T, B, inputs]`, to `[T, B, widths[-1]]`."""
        for number, layer in enumerate(self.layers, start=1):
            x = self.dropout(torch.relu(layer(x)))
            if str(number) in self.stitches:
                x = self.stitches[str(number)](x)
        return x
