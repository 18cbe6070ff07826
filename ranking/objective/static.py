"""The base of every weighting: a schedule of weights, and what adaptive weightings observe."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ranking.objective.gradients import SharedLayer
from ranking.schema import Frozen, Task


class WeighingConfig(Frozen):
    """What every weighting's section has in common."""

    type: str
    interval: int = Field(0, ge=0, description="Steps of one t of the schedules; 0: t is the epoch.")


class StaticConfig(WeighingConfig):
    """The tasks' weights and their schedule w_k0 * gamma_k^t [PLE, section 4.4]."""

    type: Literal["static"] = "static"


class StaticWeighting(nn.Module):
    """w_k = w_k0 * gamma_k^t with w_k0 and gamma_k from the tasks; gamma = 1 keeps a weight constant."""

    base: Tensor
    ratio: Tensor

    def __init__(self, config: WeighingConfig, tasks: tuple[Task, ...]) -> None:
        """Read the tasks' weights."""
        super().__init__()
        self.interval = config.interval
        self.register_buffer("base", torch.tensor([task.weight for task in tasks]), persistent=False)
        self.register_buffer("ratio", torch.tensor([task.gamma for task in tasks]), persistent=False)

    def time(self, epoch: int, step: int) -> int:
        """The t of the schedules."""
        return step // self.interval if self.interval else epoch

    def forward(self, epoch: int, step: int) -> Tensor:
        """Weights at a position of the run.

        Args:
            epoch: passes over the data finished.
            step: optimizer updates done in the whole run.

        Returns:
            `[T]`.
        """
        return self.base * self.ratio ** self.time(epoch, step)

    def penalty(self, epoch: int, step: int, present: Tensor) -> Tensor | None:
        """What the weights themselves add to the loss, the same on every rank; None where they add nothing.

        Args:
            epoch: position, as in `forward`.
            step: position, as in `forward`.
            present: `[T]` bool, whether a task has an example in the global batch.
        """
        return None

    def attach(self, layer: SharedLayer) -> None:
        """Take notice of where the tasks' gradients meet; asked anew at every use, as sharding may move parameters.

        Args:
            layer: returns parameters, each with the part of its first axis that tasks share.
        """

    def balance(self, shares: Tensor, present: Tensor, step: int) -> None:
        """Take notice of a training step's losses while they can be differentiated; counts from the next step on.

        Args:
            shares: `[T]` this rank's shares of the losses, see `Objective.task_losses`.
            present: `[T]` bool, as in `penalty`.
            step: position of the step.
        """

    def observe(self, losses: Tensor, steps: Tensor, epoch: int, step: int) -> None:
        """Take notice of a window of steps.

        Args:
            losses: `[T]` mean of the global L_k over those steps that had an example of the task; 0 where none had.
            steps: `[T]` how many had one.
            epoch: position of its last step.
            step: position of its last step.
        """
