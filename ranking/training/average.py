"""Exponential moving average of weights: what is evaluated in place of the last step's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class WeightAverage:
    """average <- d average + (1 - d) weights after every step, d = min(decay, (1 + t) / (10 + t)).

    The smaller d of the first steps forgets the initial weights.

    Args:
        weights: by name, updated in place by an optimizer.
        decay: of the average, below 1; 0 follows the weights.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        """Start at the weights as they are."""
        self._weights, self.decay, self.steps = dict(weights), decay, 0
        self.state = {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        torch._foreach_lerp_(list(self.state.values()), list(self._weights.values()), 1 - decay)
