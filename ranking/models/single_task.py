"""Single-Task: one network for every task, the baseline that sharing is measured against."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from ranking.models.base import Architecture, ArchitectureConfig
from ranking.nn.experts import GroupedMLP
from ranking.nn.towers import Towers
from ranking.schema import Task


class SingleTaskConfig(ArchitectureConfig):
    """A bottom, a tower and feature crosses of its own for every task."""

    type: Literal["single_task"] = "single_task"
    share_embeddings: bool = Field(True, description="false: every task also has its own embedding tables.")


class SingleTask(Architecture):
    """T separate networks, computed as one group."""

    Config = SingleTaskConfig

    def __init__(self, config: SingleTaskConfig, width: int, tasks: tuple[Task, ...]) -> None:
        """Build T bottoms and T towers."""
        super().__init__(config, width, tasks)
        self.bottoms = GroupedMLP(len(tasks), width, config.bottom, config.dropout)
        self.towers = Towers(len(tasks), self.bottoms.outputs, config.tower, config.dropout)

    @classmethod
    def prefixes(cls, config: SingleTaskConfig, tasks: tuple[Task, ...]) -> tuple[str, ...]:
        """A copy of the tables for every task where embeddings are not shared."""
        return ("",) if config.share_embeddings else tuple(f"{task.name}__" for task in tasks)

    @classmethod
    def inputs(cls, config: SingleTaskConfig, tasks: tuple[Task, ...]) -> int:
        """Crosses are a task's own even where embeddings are shared."""
        return len(tasks) if config.cross_layers else super().inputs(config, tasks)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, D]`, or `[B, T, D]` with separate embeddings or crosses, to `[B, T]`."""
        logits: Tensor = self.towers(self.bottoms(x if x.dim() == 2 else x.transpose(0, 1).contiguous()))
        return logits
