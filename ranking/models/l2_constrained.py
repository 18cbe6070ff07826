"""L2-Constrained: networks of equal shape, tied softly [L2; MMoE, section 4.2]."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ranking.models.base import Architecture, ArchitectureConfig
from ranking.nn.experts import GroupedMLP
from ranking.nn.towers import Towers
from ranking.schema import Task


class L2ConstrainedConfig(ArchitectureConfig):
    """A bottom and a tower of its own for every task, over shared embeddings and crosses."""

    type: Literal["l2_constrained"] = "l2_constrained"
    alpha: float = Field(1e-3, ge=0, description="Strength of the tie between each pair of tasks.")


class L2Constrained(Architecture):
    """T separate networks; the loss gains alpha * sum over pairs of ||theta_i - theta_j||^2.

    theta_k is the whole network of task k, its tower included, as the papers define it: sharing only the bottoms
    would be another prior, that tasks differ in their heads alone, which is shared-bottom's.
    """

    Config = L2ConstrainedConfig

    def __init__(self, config: L2ConstrainedConfig, width: int, tasks: tuple[Task, ...]) -> None:
        """Build T bottoms and T towers."""
        super().__init__(config, width, tasks)
        self.bottoms = GroupedMLP(len(tasks), width, config.bottom, config.dropout)
        self.towers = Towers(len(tasks), self.bottoms.outputs, config.tower, config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, D]` to `[B, T]`."""
        logits: Tensor = self.towers(self.bottoms(x))
        return logits

    def penalty(self) -> Tensor | None:
        """The sum over pairs, as T times the squared distances from the tasks' mean."""
        if not self.config.alpha:
            return None
        spread = [(theta - theta.mean(0)).square().sum() for theta in self.parameters()]  # the first axis is the task
        strength: float = self.config.alpha * len(self.tasks)
        return strength * torch.stack(spread).sum()
