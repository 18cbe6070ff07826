"""How the tasks' losses are weighed against each other."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ranking.schema import Frozen, Task


class WeightingConfig(Frozen):
    """Static weights and their schedule w_k0 * gamma_k^t [PLE, section 4.4]."""

    type: Literal["static"] = "static"
    interval: int = Field(0, ge=0, description="Steps of one t of the schedule; 0: t is the epoch.")


class StaticWeighting(nn.Module):
    """w_k = w_k0 * gamma_k^t with w_k0 and gamma_k from the tasks; gamma = 1 keeps a weight constant."""

    base: Tensor
    ratio: Tensor

    def __init__(self, config: WeightingConfig, tasks: tuple[Task, ...]) -> None:
        """Read the tasks' weights."""
        super().__init__()
        self.interval = config.interval
        self.register_buffer("base", torch.tensor([task.weight for task in tasks]), persistent=False)
        self.register_buffer("ratio", torch.tensor([task.gamma for task in tasks]), persistent=False)

    def forward(self, epoch: int, step: int) -> Tensor:
        """Weights at a position of the run.

        Args:
            epoch: passes over the data finished.
            step: optimizer updates done in the whole run.

        Returns:
            `[T]`.
        """
        time = step // self.interval if self.interval else epoch
        return self.base * self.ratio**time
