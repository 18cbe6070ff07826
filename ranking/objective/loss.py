"""The masked, globally normalised multi-task loss (contract 2)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ranking.objective.weighting import StaticWeighting, WeightingConfig
from ranking.schema import Frozen, Task


class ObjectiveConfig(Frozen):
    """How losses are shaped and weighed."""

    weighting: WeightingConfig = WeightingConfig()
    huber_delta: float = Field(1.0, gt=0, description="Where the Huber loss turns from square to linear.")


class Objective(nn.Module):
    """sum_k w_k L_k, each L_k the mean of its task's loss over the task's sample space in the GLOBAL batch.

    Every rank computes W * local_sum / global_count, because DDP and TorchRec divide gradients by W. A task with
    no example in the batch contributes zero and stays in the graph.

    Args:
        config: the `objective` section.
        tasks: the tasks in column order.
        world_size: W.
    """

    def __init__(self, config: ObjectiveConfig, tasks: tuple[Task, ...], world_size: int) -> None:
        """Remember which column has which loss."""
        super().__init__()
        self.delta, self.world_size = config.huber_delta, world_size
        self.weighting = StaticWeighting(config.weighting, tasks)
        self.columns = {
            loss: [i for i, task in enumerate(tasks) if task.loss == loss] for loss in ("bce", "mse", "huber")
        }
        self.order = [i for columns in self.columns.values() for i in columns]

    def example_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Every task's loss on every row, masked or not.

        Args:
            logits: `[B, T]`.
            labels: `[B, T]`.

        Returns:
            `[B, T]` float32.
        """
        logits, parts = logits.float(), []
        for loss, columns in self.columns.items():
            if columns:
                parts.append(self._loss(loss, logits[:, columns], labels[:, columns]))
        stacked = torch.cat(parts, dim=1)
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return stacked[:, inverse] if inverse != list(range(len(inverse))) else stacked

    def task_losses(self, logits: Tensor, labels: Tensor, masks: Tensor, counts: Tensor) -> Tensor:
        """This rank's share of every L_k: local masked sum over global count.

        Args:
            logits: `[B, T]`.
            labels: `[B, T]`.
            masks: `[B, T]` row weights inside the sample space, 0 outside.
            counts: `[T]` sum of the masks over all ranks.

        Returns:
            `[T]`; summed over ranks it is L_k.
        """
        losses = self.example_losses(logits, labels)
        return (losses * masks).sum(0) / counts.clamp(min=1)

    def forward(self, shares: Tensor, epoch: int, step: int, penalty: Tensor | None = None) -> Tensor:
        """The scalar to call `backward` on.

        Args:
            shares: `[T]` from `task_losses`.
            epoch: position of the schedule.
            step: position of the schedule.
            penalty: the architecture's own term.

        Returns:
            Scalar.
        """
        loss: Tensor = self.world_size * (self.weighting(epoch, step) * shares).sum()
        return loss if penalty is None else loss + penalty

    def _loss(self, loss: str, logits: Tensor, labels: Tensor) -> Tensor:
        if loss == "bce":
            return functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        if loss == "mse":
            return functional.mse_loss(logits, labels, reduction="none")
        return functional.huber_loss(logits, labels, reduction="none", delta=self.delta)
