"""GradNorm: weights under which the tasks pull equally hard at the layer they share."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ranking.distributed.collectives import all_reduce_device
from ranking.objective.gradients import SharedLayer, task_gradients
from ranking.objective.static import StaticWeighting, WeighingConfig
from ranking.schema import Task


class GradNormConfig(WeighingConfig):
    """Weights that even out the norms of the tasks' gradients [Chen et al., ICML 2018], times the static ones."""

    type: Literal["gradnorm"] = "gradnorm"
    alpha: float = Field(1.5, ge=0, description="How much harder a task that learns slowly may pull; 0: none.")
    learning_rate: float = Field(0.025, gt=0, description="Of the logarithms of the weights.")
    every: int = Field(1, ge=1, description="Steps between two updates; one costs a backward of each tower.")


class GradNormWeighting(StaticWeighting):
    """Descends sum_k |G_k - mean(G) r_k^alpha|, G_k = ||grad of w_k L_k|| on the last shared layer [GradNorm, eq. 2].

    r_k is L_k / L_k(0) over its mean: how slowly a task learns. As in the paper the target is held constant and the
    weights are scaled to sum to T. They are moved as logarithms, and the objective is taken relative to mean(G): so
    they stay positive, and a loss of any scale is balanced at the same pace. Gradients and losses are those of the
    global batch. A task without an example in it keeps its place among the others; one whose static weight is 0 has
    none among them, and T leaves it out.
    """

    log_weights: Tensor
    first: Tensor

    def __init__(self, config: GradNormConfig, tasks: tuple[Task, ...]) -> None:
        """Start with even weights."""
        super().__init__(config, tasks)
        self.alpha, self.rate, self.every = config.alpha, config.learning_rate, config.every
        self.register_buffer("log_weights", torch.zeros(len(tasks)))
        self.register_buffer("first", torch.zeros(len(tasks)))  # L(0); 0: no example yet

    def attach(self, layer: SharedLayer) -> None:
        """Where gradients are measured."""
        self.layer = layer

    def forward(self, epoch: int, step: int) -> Tensor:
        """Weights `[T]`."""
        return super().forward(epoch, step) * self.log_weights.exp()

    def balance(self, shares: Tensor, present: Tensor, step: int) -> None:
        """Measure this step's gradients, and move the weights for the next; one all-reduce, nothing waits for it."""
        if step % self.every:
            return
        gradients = task_gradients(shares, self.layer)
        with torch.no_grad():
            whole = all_reduce_device(torch.cat([gradients, shares.detach().unsqueeze(1)], dim=1))
            self._move(whole[:, :-1].norm(dim=1), whole[:, -1], present)

    def _move(self, norms: Tensor, losses: Tensor, present: Tensor) -> None:
        """Take one step of descent.

        Args:
            norms: `[T]` of the gradients of the unweighted losses.
            losses: `[T]` of the global batch.
            present: `[T]` whether a task has an example in it.
        """
        self.first.copy_(torch.where((self.first == 0) & present, losses, self.first))
        pulls = self.log_weights.exp() * norms
        pace = losses / self.first.where(self.first > 0, torch.ones_like(self.first))
        weighed = self.base > 0
        known = weighed & present & pulls.isfinite() & pace.isfinite()
        count = known.sum().clamp(min=1)
        pulls, pace = pulls.where(known, torch.zeros_like(pulls)), pace.where(known, torch.zeros_like(pace))
        mean = (pulls.sum() / count).clamp(min=torch.finfo(pulls.dtype).tiny)
        target = mean * (pace * count / pace.sum().clamp(min=1e-30)) ** self.alpha
        slopes = torch.sign(pulls - target) * pulls / mean
        moved = self.log_weights - self.rate * slopes.where(known, torch.zeros_like(slopes))
        scale = weighed.sum().log() - torch.logsumexp(moved.where(weighed, -torch.inf), 0)
        self.log_weights.copy_((moved + scale).where(weighed, 0))
