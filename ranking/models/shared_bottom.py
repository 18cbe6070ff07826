"""Shared-Bottom: y_k = h^k(f(x)) [MMoE, eq. 1]."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ranking.models.base import Architecture, ArchitectureConfig, last_of
from ranking.nn.mlp import MLP
from ranking.nn.towers import Towers
from ranking.schema import Task


class SharedBottomConfig(ArchitectureConfig):
    """One bottom for all tasks."""

    type: Literal["shared_bottom"] = "shared_bottom"


class SharedBottom(Architecture):
    """One bottom f, a tower for every task."""

    Config = SharedBottomConfig

    def __init__(self, config: SharedBottomConfig, width: int, tasks: tuple[Task, ...]) -> None:
        """Build bottom and towers."""
        super().__init__(config, width, tasks)
        self.bottom = MLP(width, config.bottom, config.dropout)
        self.towers = Towers(len(tasks), self.bottom.outputs, config.tower, config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, D]` to `[B, T]`."""
        logits: Tensor = self.towers(self.bottom(x))
        return logits

    def shared_layer(self) -> tuple[tuple[nn.Parameter, slice], ...]:
        """The bottom's top layer."""
        return last_of(self.bottom.layers)
