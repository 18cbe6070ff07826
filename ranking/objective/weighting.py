"""How the tasks' losses are weighed against each other.

Learned weights are parameters of the objective and statistics are buffers of it, so both travel in a checkpoint.
Statistics come from the losses of the GLOBAL batch: the trainer sums every window of steps over the ranks and hands
the same numbers to `observe` on each, so all ranks weigh alike without a collective of their own.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ranking.objective.gradnorm import GradNormConfig, GradNormWeighting
from ranking.objective.static import StaticConfig, StaticWeighting, WeighingConfig
from ranking.schema import Task


class UncertaintyConfig(WeighingConfig):
    """Weights 1 / sigma_k^2 of learned noise levels [Kendall et al., CVPR 2018], times the static ones."""

    type: Literal["uncertainty"] = "uncertainty"


class DWAConfig(WeighingConfig):
    """Weights by how slowly a loss falls from one t to the next [Liu et al., CVPR 2019], times the static ones."""

    type: Literal["dwa"] = "dwa"
    temperature: float = Field(2.0, gt=0, description="Larger: more even weights.")


class DTPConfig(WeighingConfig):
    """Focal weights by how hard a task still is [Guo et al., ECCV 2018], times the static ones."""

    type: Literal["dtp"] = "dtp"
    focus: float = Field(1.0, ge=0, description="gamma of the focal weight; larger: easy tasks count for less.")
    smoothing: float = Field(0.1, gt=0, le=1, description="Share of the newest window in the moving average.")


WeightingConfig = Annotated[
    StaticConfig | UncertaintyConfig | DWAConfig | DTPConfig | GradNormConfig, Field(discriminator="type")
]


class UncertaintyWeighting(StaticWeighting):
    """sum_k w_k (c_k exp(-s_k) L_k + s_k / 2), s_k = log sigma_k^2; c = 1/2 for squared errors, else 1 [Kendall].

    A task without an example in a batch leaves its s_k alone. s_k follows the dense optimizer.
    """

    factor: Tensor

    def __init__(self, config: UncertaintyConfig, tasks: tuple[Task, ...]) -> None:
        """Start with sigma = 1."""
        super().__init__(config, tasks)
        self.log_variance = nn.Parameter(torch.zeros(len(tasks)))
        factor = torch.tensor([0.5 if task.loss == "mse" else 1.0 for task in tasks])
        self.register_buffer("factor", factor, persistent=False)

    def forward(self, epoch: int, step: int) -> Tensor:
        """Weights `[T]`, differentiable."""
        return super().forward(epoch, step) * self.factor * torch.exp(-self.log_variance)

    def penalty(self, epoch: int, step: int, present: Tensor) -> Tensor | None:
        """What keeps the variances from growing without bound."""
        static = super().forward(epoch, step)
        return (static * self.log_variance * present).sum() / 2


class DWAWeighting(StaticWeighting):
    """w_k T softmax_k(r_k / temperature), r_k = L_k(t-1) / L_k(t-2) of the mean losses [Dynamic Weight Average, eq. 7].

    Weights change with t; before two t have passed they are the static ones. A window counts for the t of its last
    step, so t is as exact as `training.log_every` divides it.
    """

    losses: Tensor
    steps: Tensor
    period: Tensor

    def __init__(self, config: DWAConfig, tasks: tuple[Task, ...]) -> None:
        """Start without history."""
        super().__init__(config, tasks)
        self.temperature = config.temperature
        self.register_buffer("losses", torch.zeros(3, len(tasks), dtype=torch.float64))  # sums of this t; means before
        self.register_buffer("steps", torch.zeros(len(tasks), dtype=torch.int64))  # in the sums of this t
        self.register_buffer("period", torch.zeros(1, dtype=torch.int64))  # this t

    def forward(self, epoch: int, step: int) -> Tensor:
        """Weights `[T]`."""
        _, last, earlier = self.losses
        known = (last > 0) & (earlier > 0)
        pace = torch.where(known, last / earlier.where(known, torch.ones_like(earlier)), 1.0)
        return super().forward(epoch, step) * (len(pace) * torch.softmax(pace / self.temperature, 0)).float()

    @torch.no_grad()
    def observe(self, losses: Tensor, steps: Tensor, epoch: int, step: int) -> None:
        """Add the window to its t; a new t turns the sums of the one before into means."""
        sums, last, _ = self.losses.clone()
        now = self.time(epoch, step)
        if now != int(self.period) and self.steps.any():
            self.losses.copy_(torch.stack([torch.zeros_like(sums), sums / self.steps.clamp(min=1), last]))
            self.steps.zero_()
        self.period.fill_(now)
        steps = steps.to(self.steps)
        self.losses[0] += losses.to(self.losses) * steps
        self.steps += steps


class DTPWeighting(StaticWeighting):
    """-(1 - kappa_k)^focus log(kappa_k), kappa_k a moving average of the task's progress in (0, 1] [DTP, eq. 1-4].

    kappa = exp(-L_k): for a binary task the geometric mean of the probability that the model gave to the true label;
    for a regression that of the normal likelihood over its largest value, at variance 1/2 for mse and 1 for the
    quadratic part of huber, so labels should be scaled. Before the first window a weight is the static one.
    """

    progress: Tensor

    def __init__(self, config: DTPConfig, tasks: tuple[Task, ...]) -> None:
        """Start without history."""
        super().__init__(config, tasks)
        self.focus, self.smoothing = config.focus, config.smoothing
        self.register_buffer("progress", torch.zeros(len(tasks), dtype=torch.float64))  # kappa; 0: not known yet

    def forward(self, epoch: int, step: int) -> Tensor:
        """Weights `[T]`."""
        known = self.progress > 0
        kappa = self.progress.where(known, torch.ones_like(self.progress))
        focal = -((1 - kappa) ** self.focus) * torch.log(kappa)
        return super().forward(epoch, step) * torch.where(known, focal, 1.0).float()

    @torch.no_grad()
    def observe(self, losses: Tensor, steps: Tensor, epoch: int, step: int) -> None:
        """Move every average towards the window's value, except where the window had no example."""
        seen = losses.to(self.progress)
        newest = torch.exp(-seen).clamp(min=1e-6)
        share = torch.where(self.progress > 0, self.smoothing, 1.0)
        moved = self.progress + share * (newest - self.progress)
        self.progress.copy_(torch.where(seen > 0, moved, self.progress))


_WEIGHTINGS: dict[str, type[StaticWeighting]] = {
    "static": StaticWeighting,
    "uncertainty": UncertaintyWeighting,
    "dwa": DWAWeighting,
    "dtp": DTPWeighting,
    "gradnorm": GradNormWeighting,
}


def build_weighting(config: WeighingConfig, tasks: tuple[Task, ...]) -> StaticWeighting:
    """The weighting an `objective.weighting` section describes."""
    return _WEIGHTINGS[config.type](config, tasks)
