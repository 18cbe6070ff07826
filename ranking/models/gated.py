"""Settings of the gates, common to every mixture of experts."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from ranking.models.base import ArchitectureConfig, Width
from ranking.nn.gates import Gates


class GatedConfig(ArchitectureConfig):
    """A shared-bottom stack whose upper layers are replaced by experts and gates of the same output width."""

    bottom: tuple[Width, ...] = Field((256, 128), min_length=1, description="Widths; the last is an expert's output.")
    expert_hidden: tuple[Width, ...] = Field((), description="Hidden widths inside an expert, before its output layer.")
    top_k: int = Field(
        0,
        ge=0,
        description="Experts a gate keeps for an example; 0 keeps all; the one that 1 keeps is weighed by its "
        "probability among all, as in the Switch Transformer.",
    )
    noise: bool = Field(False, description="Trainable Gaussian noise on the gate logits while training.")
    balance: float = Field(0.0, ge=0, description="Weight of the load-balancing loss; 0: none.")

    def gates(self, inputs: int, gates: int, experts: int, visible: Tensor | None = None) -> Gates:
        """Gates with these settings."""
        return Gates(inputs, gates, experts, self.top_k, self.noise, self.balance, visible)
