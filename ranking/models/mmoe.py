"""Multi-gate Mixture-of-Experts on a shared-bottom stack [MMoE, section 4]."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from ranking.models.base import Architecture, ArchitectureConfig
from ranking.nn.experts import GroupedMLP
from ranking.nn.gates import Gates, mix
from ranking.nn.mlp import MLP
from ranking.nn.towers import Towers
from ranking.schema import Task


class MoEConfig(ArchitectureConfig):
    """The top layer of `bottom` is replaced by experts of the same output width."""

    bottom: tuple[int, ...] = Field((256, 128), min_length=1)
    experts: int = Field(8, ge=1)
    expert_hidden: tuple[int, ...] = Field((), description="Hidden widths inside an expert, before its output layer.")
    gate_input: Literal["bottom", "features"] = Field(
        "bottom", description="What the gates read: the lower layers' output, or x itself."
    )
    top_k: int = Field(0, ge=0, description="Experts a gate keeps for an example; 0 keeps all.")

    @model_validator(mode="after")
    def _enough_experts(self) -> Self:
        if self.top_k > self.experts:
            raise ValueError(f"top_k: got {self.top_k} with {self.experts} experts; expected at most that many")
        return self


class MMoEConfig(MoEConfig):
    """A gate for every task."""

    type: Literal["mmoe"] = "mmoe"


class MMoE(Architecture):
    """y_k = h^k( sum_i g^k(x)_i f_i(x) ): shared lower layers, n experts, one gate and one tower a task."""

    Config: ClassVar[type[ArchitectureConfig]] = MMoEConfig

    def __init__(self, config: MoEConfig, width: int, tasks: tuple[Task, ...]) -> None:
        """Build lower layers, experts, gates and towers."""
        super().__init__(config, width, tasks)
        *lower, output = config.bottom
        self.bottom = MLP(width, lower, config.dropout)
        self.experts = GroupedMLP(config.experts, self.bottom.outputs, (*config.expert_hidden, output), config.dropout)
        gate_width = width if config.gate_input == "features" else self.bottom.outputs
        self.gates = Gates(gate_width, self.gate_count(len(tasks)), config.experts, config.top_k)
        self.towers = Towers(len(tasks), output, config.tower, config.dropout)

    @staticmethod
    def gate_count(tasks: int) -> int:
        """One gate a task."""
        return tasks

    def forward(self, x: Tensor) -> Tensor:
        """`[B, D]` to `[B, T]`."""
        lower = self.bottom(x)
        weights = self.gates(x if self.config.gate_input == "features" else lower)
        mixed = mix(weights, self.experts(lower))
        logits: Tensor = self.towers(mixed if len(mixed) > 1 else mixed[0])
        return logits
