"""Multi-gate Mixture-of-Experts on a shared-bottom stack [MMoE, section 4]."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from ranking.models.base import Architecture, ArchitectureConfig, last_of
from ranking.models.gated import GatedConfig
from ranking.nn.experts import GroupedMLP
from ranking.nn.gates import mix
from ranking.nn.mixture import MoELayer
from ranking.nn.mlp import MLP
from ranking.nn.towers import Towers
from ranking.schema import Task


class MoEConfig(GatedConfig):
    """The top `moe_layers` layers of `bottom` are replaced by mixtures of experts of the same output widths."""

    moe_layers: int = Field(
        1, ge=1, description="MoE layers on top of each other; all but the last have one gate for all tasks."
    )
    experts: int = Field(8, ge=1, le=4096, description="Experts of every MoE layer.")
    gate_input: Literal["bottom", "features"] = Field(
        "bottom", description="What the gates read: the layer below, or x itself."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.top_k > self.experts:
            raise ValueError(f"top_k: got {self.top_k} with {self.experts} experts; expected at most that many")
        if self.moe_layers > len(self.bottom):
            raise ValueError(f"moe_layers: got {self.moe_layers}; expected at most the {len(self.bottom)} of bottom")
        return self


class MMoEConfig(MoEConfig):
    """A gate for every task."""

    type: Literal["mmoe"] = "mmoe"


class MMoE(Architecture):
    """y_k = h^k( sum_i g^k(x)_i f_i(x) ): shared lower layers, n experts, one gate and one tower a task.

    Deeper mixtures stack: the output of an MoE layer with a single gate is the next layer's input [MoE].
    """

    Config: ClassVar[type[ArchitectureConfig]] = MMoEConfig

    def __init__(self, config: MoEConfig, width: int, tasks: tuple[Task, ...]) -> None:
        """Build lower layers, experts, gates and towers."""
        super().__init__(config, width, tasks)
        depth = len(config.bottom) - config.moe_layers
        self.bottom = MLP(width, config.bottom[:depth], config.dropout)
        *lower, (inputs, output) = pairwise([self.bottom.outputs, *config.bottom[depth:]])
        self.stack = nn.ModuleList(self._layer(*sizes) for sizes in lower)
        self.experts = self._experts(inputs, output)
        self.gates = config.gates(self._read(inputs), self.gate_count(len(tasks)), config.experts)
        self.towers = Towers(len(tasks), output, config.tower, config.dropout)

    @staticmethod
    def gate_count(tasks: int) -> int:
        """One gate a task."""
        return tasks

    def forward(self, x: Tensor) -> Tensor:
        """`[B, D]` to `[B, T]`."""
        hidden = self.bottom(x)
        for layer in self.stack:
            hidden = layer(hidden, self._gate_input(x, hidden))
        mixed = mix(self.gates(self._gate_input(x, hidden)), self.experts(hidden))
        logits: Tensor = self.towers(mixed if len(mixed) > 1 else mixed[0])
        return logits

    def shared_layer(self) -> tuple[tuple[nn.Parameter, slice], ...]:
        """The output layer of the experts below the towers."""
        return last_of(self.experts.layers)

    def _layer(self, inputs: int, outputs: int) -> MoELayer:
        return MoELayer(self._experts(inputs, outputs), self.config.gates(self._read(inputs), 1, self.config.experts))

    def _experts(self, inputs: int, outputs: int) -> GroupedMLP:
        return GroupedMLP(self.config.experts, inputs, (*self.config.expert_hidden, outputs), self.config.dropout)

    def _read(self, inputs: int) -> int:
        return self.width if self.config.gate_input == "features" else inputs

    def _gate_input(self, x: Tensor, hidden: Tensor) -> Tensor:
        return x if self.config.gate_input == "features" else hidden
