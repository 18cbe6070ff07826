"""Customized Gate Control: task-specific beside shared experts [PLE, section 4.1]."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from ranking.errors import InputError
from ranking.models.base import Architecture, ArchitectureConfig, last_of
from ranking.models.gated import GatedConfig
from ranking.nn.experts import GroupedMLP
from ranking.nn.mixture import ExtractionLevel, visible
from ranking.nn.mlp import MLP
from ranking.nn.towers import Towers
from ranking.schema import Name, Task

MOST = 4096
"""Experts of a branch."""


class ExtractionConfig(GatedConfig):
    """The top layers of `bottom` become levels of task-specific and shared experts of the same output widths."""

    shared_experts: int = Field(4, ge=1, le=MOST, description="m_s, experts every task's gate sees.")
    task_experts: int | dict[Name, int] = Field(
        2, description="m_k, experts a task has for itself: one number for all tasks, or one for each by name."
    )

    def counts(self, tasks: tuple[Task, ...]) -> tuple[int, ...]:
        """Experts of every task in schema order, then of the shared branch."""
        own = self.task_experts
        each = [own if isinstance(own, int) else own.get(task.name, -1) for task in tasks]
        return (*each, self.shared_experts)


class CGCConfig(ExtractionConfig):
    """One level."""

    type: Literal["cgc"] = "cgc"


class CGC(Architecture):
    """y_k = t^k( w^k(x) S^k(x) ), S^k the task's own experts E_k and the shared ones E_s, w^k = softmax(W_g^k x)."""

    Config: ClassVar[type[ArchitectureConfig]] = CGCConfig

    def __init__(self, config: ExtractionConfig, width: int, tasks: tuple[Task, ...]) -> None:
        """Build lower layers, levels and towers."""
        super().__init__(config, width, tasks)
        depth = len(config.bottom) - self.depth(config)
        self.bottom = MLP(width, config.bottom[:depth], config.dropout)
        sizes = list(pairwise([self.bottom.outputs, *config.bottom[depth:]]))
        self.levels = nn.ModuleList(self._level(*size, last=size is sizes[-1]) for size in sizes)
        self.towers = Towers(len(tasks), config.bottom[-1], config.tower, config.dropout)

    @staticmethod
    def depth(config: Any) -> int:
        """Levels of experts."""
        return 1

    @classmethod
    def check(cls, config: ExtractionConfig, tasks: tuple[Task, ...]) -> None:
        """Experts for every task, and enough for top-k."""
        *own, shared = config.counts(tasks)
        names = {task.name for task in tasks}
        known = isinstance(config.task_experts, int) or config.task_experts.keys() == names
        if not known or min(own) < 0 or max(own) > MOST:
            expected = f"a number from 0 to {MOST}, or one for each of {sorted(names)}"
            raise InputError(f"model.task_experts: got {config.task_experts}; expected {expected}")
        if config.top_k > min(own) + shared:
            raise InputError(f"model.top_k: got {config.top_k}; expected at most the {min(own) + shared} a gate sees")

    def forward(self, x: Tensor) -> Tensor:
        """`[B, D]` to `[B, T]`."""
        hidden = self.bottom(x)
        for level in self.levels:
            hidden = level(hidden)
        logits: Tensor = self.towers(hidden)
        return logits

    def shared_layer(self) -> tuple[tuple[nn.Parameter, slice], ...]:
        """The output layer of the shared experts on the last level."""
        top: ExtractionLevel = self.levels[-1]  # type: ignore[assignment]  # as built
        part = slice(-self.config.shared_experts, None)
        return tuple((parameter, part) for parameter, _ in last_of(top.experts.layers))

    def _level(self, inputs: int, outputs: int, last: bool) -> ExtractionLevel:
        config, counts = self.config, self.config.counts(self.tasks)
        total = sum(counts)
        return ExtractionLevel(
            counts,
            GroupedMLP(total, inputs, (*config.expert_hidden, outputs), config.dropout),
            config.gates(inputs, len(self.tasks), total, visible(counts)),
            None if last else config.gates(inputs, 1, total),
        )
