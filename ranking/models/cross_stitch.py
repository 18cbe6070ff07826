"""Cross-Stitch: separate networks that exchange activations through trained mixtures [CS]."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from ranking.models.base import Architecture, ArchitectureConfig, Width, last_of
from ranking.nn.stitching import StitchedMLP
from ranking.nn.towers import Towers
from ranking.schema import Task


class CrossStitchConfig(ArchitectureConfig):
    """A bottom and a tower of its own for every task, over shared embeddings and crosses, stitched between layers."""

    type: Literal["cross_stitch"] = "cross_stitch"
    bottom: tuple[Width, ...] = Field((256, 128), min_length=1, description="Widths of every task's bottom.")
    stitch_after: tuple[int, ...] | None = Field(
        None, description="Numbers of the `bottom` layers, the lowest is 1, that a unit follows; left out: all."
    )
    own: float = Field(
        0.9, ge=0, le=1, description="Where a task's weight on itself starts; the others share the rest."
    )

    @property
    def stitched(self) -> tuple[int, ...]:
        """Numbers of the layers that a unit follows."""
        return tuple(range(1, len(self.bottom) + 1)) if self.stitch_after is None else self.stitch_after

    @model_validator(mode="after")
    def _layers_exist(self) -> Self:
        known = range(1, len(self.bottom) + 1)
        if len(set(self.stitched)) < len(self.stitched) or not set(self.stitched) <= set(known):
            raise ValueError(f"stitch_after: got {list(self.stitched)}; expected some of {list(known)}, each once")
        return self


class CrossStitchNetwork(Architecture):
    """T networks; after chosen layers x~_j = sum_k alpha_jk x_k."""

    Config = CrossStitchConfig

    def __init__(self, config: CrossStitchConfig, width: int, tasks: tuple[Task, ...]) -> None:
        """Build T stitched bottoms and T towers."""
        super().__init__(config, width, tasks)
        self.bottoms = StitchedMLP(len(tasks), width, config.bottom, config.dropout, config.stitched, config.own)
        self.towers = Towers(len(tasks), self.bottoms.outputs, config.tower, config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, D]` to `[B, T]`."""
        logits: Tensor = self.towers(self.bottoms(x))
        return logits

    def shared_layer(self) -> tuple[tuple[nn.Parameter, slice], ...]:
        """The layers of all networks below the last cross-stitch unit."""
        return last_of(self.bottoms.layers[: max(self.config.stitched, default=0)])
