"""Tensor-Factorization: the tasks' layers are slices of one tensor of low Tucker rank [TF]."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from ranking.models.base import Architecture, ArchitectureConfig, Width
from ranking.nn.tensor_factors import TuckerLinear, TuckerMLP
from ranking.nn.towers import Towers
from ranking.schema import Task

Rank = Annotated[int, Field(ge=1, le=1 << 20)]


class TensorFactorizationConfig(ArchitectureConfig):
    """A bottom for every task, of factorised layers, and a tower of its own, over shared embeddings and crosses."""

    type: Literal["tensor_factorization"] = "tensor_factorization"
    bottom: tuple[Width, ...] = Field((256, 128), min_length=1, description="Widths of every task's bottom.")
    ranks: tuple[Rank, Rank, Rank] = Field(
        (32, 32, 2), description="r1, r2, r3: of inputs, outputs and tasks; cut to a layer's own dimensions."
    )


class TensorFactorization(Architecture):
    """T networks whose bottom layers share Tucker factors; biases and towers are the tasks' own."""

    Config = TensorFactorizationConfig

    def __init__(self, config: TensorFactorizationConfig, width: int, tasks: tuple[Task, ...]) -> None:
        """Build T factorised bottoms and T towers."""
        super().__init__(config, width, tasks)
        self.bottoms = TuckerMLP(len(tasks), width, config.bottom, config.ranks, config.dropout)
        self.towers = Towers(len(tasks), self.bottoms.outputs, config.tower, config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, D]` to `[B, T]`."""
        logits: Tensor = self.towers(self.bottoms(x))
        return logits

    def shared_layer(self) -> tuple[tuple[nn.Parameter, slice], ...]:
        """The factors of the top layer, but for the tasks' own."""
        top: TuckerLinear = self.bottoms.layers[-1]  # type: ignore[assignment]  # as built
        return tuple((factor, slice(None)) for factor in (top.core, top.input_factor, top.output_factor))
