"""Heads: a tower and a logit layer for every task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ranking.nn.experts import GroupedMLP


class Towers(nn.Module):
    """T towers h^k of one shape, each ending in one logit.

    Args:
        tasks: T.
        inputs: width of the representation a tower receives.
        widths: hidden widths of a tower.
        dropout: probability of dropping a tower's activation.
    """

    def __init__(self, tasks: int, inputs: int, widths: Sequence[int], dropout: float = 0.0) -> None:
        """Build all towers as one group; the logit layer starts as `nn.Linear` does."""
        super().__init__()
        self.hidden = GroupedMLP(tasks, inputs, widths, dropout)
        bound = self.hidden.outputs**-0.5
        self.weight = nn.Parameter(torch.empty(tasks, self.hidden.outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(tasks).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every task.

        Args:
            x: `[B, inputs]` shared by the tasks, or `[T, B, inputs]`.

        Returns:
            `[B, T]`.
        """
        logits = torch.bmm(self.hidden(x), self.weight.unsqueeze(2))
        return logits.squeeze(2).t() + self.bias
