"""The masked, globally normalised multi-task loss (contract 2)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ranking.objective.static import StaticConfig
from ranking.objective.weighting import WeightingConfig, build_weighting
from ranking.schema import Frozen, Task


class ObjectiveConfig(Frozen):
    """How losses are shaped and weighed."""

    weighting: WeightingConfig = Field(StaticConfig(), description="How the tasks' losses are weighed.")
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

    places: Tensor

    def __init__(self, config: ObjectiveConfig, tasks: tuple[Task, ...], world_size: int) -> None:
        """Remember which column has which loss."""
        super().__init__()
        self.delta, self.world_size = config.huber_delta, world_size
        self.weighting = build_weighting(config.weighting, tasks)
        self.losses = sorted({task.loss for task in tasks})
        columns = [torch.tensor([i for i, task in enumerate(tasks) if task.loss == loss]) for loss in self.losses]
        for loss, places in zip(self.losses, columns, strict=True):
            self.register_buffer(f"columns_{loss}", places, persistent=False)
        self.register_buffer("places", torch.cat(columns).argsort(), persistent=False)

    def example_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Every task's loss on every row, masked or not.

        Args:
            logits: `[B, T]`.
            labels: `[B, T]`.

        Returns:
            `[B, T]` float32.
        """
        logits = logits.float()
        if len(self.losses) == 1:
            return self._loss(self.losses[0], logits, labels)
        parts = [
            self._loss(loss, logits.index_select(1, columns), labels.index_select(1, columns))
            for loss in self.losses
            for columns in (self.get_buffer(f"columns_{loss}"),)
        ]
        return torch.cat(parts, dim=1).index_select(1, self.places)

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
        return self.row_losses(logits, labels, masks).sum(0) / counts.where(counts > 0, 1)

    def row_losses(self, logits: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
        """Every task's weighted loss on every row, 0 outside its sample space, whatever the label says there.

        Args:
            logits: `[B, T]`.
            labels: `[B, T]`.
            masks: `[B, T]` row weights inside the sample space, 0 outside.

        Returns:
            `[B, T]` float32.
        """
        inside = labels.where(masks > 0, 0)  # a label whose square overflows would make 0 * inf, a NaN, of its mask
        return self.example_losses(logits, inside) * masks

    def forward(
        self, shares: Tensor, epoch: int, step: int, penalty: Tensor | None = None, counts: Tensor | None = None
    ) -> Tensor:
        """The scalar to call `backward` on.

        Args:
            shares: `[T]` from `task_losses`.
            epoch: position of the schedule.
            step: position of the schedule.
            penalty: the architecture's own term.
            counts: `[T]` as in `task_losses`; left out: every task has examples.

        Returns:
            Scalar.
        """
        loss = torch.dot(self.world_size * self.weighting(epoch, step), shares)
        present = torch.ones_like(shares, dtype=torch.bool) if counts is None else counts > 0
        own = self.weighting.penalty(epoch, step, present)
        if self.training and shares.requires_grad:
            self.weighting.balance(shares, present, step)
        return sum((term for term in (penalty, own) if term is not None), loss)

    def _loss(self, loss: str, logits: Tensor, labels: Tensor) -> Tensor:
        if loss == "bce":
            return functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        if loss == "mse":
            return functional.mse_loss(logits, labels, reduction="none")
        return functional.huber_loss(logits, labels, reduction="none", delta=self.delta)
