"""Two regression tasks of chosen relatedness [MMoE, section 3.2]: fresh rows without end, for many runs at once."""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ranking.schema import Frozen, Task


class CorrelatedConfig(Frozen):
    """The law of the two labels, y_k = w_k.x + sum_i sin(alpha_i w_k.x + beta_i) + eps_k."""

    dimensions: int = Field(100, ge=2, description="d, the length of x.")
    scale: float = Field(1.0, gt=0, description="c, the length of both weight vectors.")
    alpha: tuple[float, ...] = Field((), description="Frequencies of the m sinusoids; none: the labels are linear.")
    beta: tuple[float, ...] = Field((), description="Phases of the sinusoids, in radians.")
    noise: float = Field(0.01, ge=0, description="Variance of eps.")

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if len(self.alpha) != len(self.beta):
            raise ValueError(f"beta: got {len(self.beta)} phases; expected one for each of {len(self.alpha)} alpha")
        return self


class CorrelatedTasks:
    """R independent pairs of tasks, each with its own weights, inputs and noise.

    The same seed gives the same u1, u2, x and eps at every p, so that runs can be compared in pairs.

    Args:
        config: the law of the labels.
        p: cosine of w1 and w2, the "task correlation", in [-1, 1].
        runs: R.
        seed: of everything drawn.
    """

    def __init__(self, config: CorrelatedConfig, p: float, runs: int, seed: int) -> None:
        """Draw u1 and u2, orthogonal unit vectors of random direction; w1 = c u1, w2 = c (p u1 + sqrt(1-p^2) u2)."""
        self.config = config
        self.generator = torch.Generator().manual_seed(seed)
        basis = torch.randn(runs, config.dimensions, 2, generator=self.generator, dtype=torch.float64)
        u1, u2 = torch.linalg.qr(basis).Q.unbind(2)
        second = p * u1 + math.sqrt(1 - p * p) * u2
        self.weights = config.scale * torch.stack([u1, second], dim=1).float()  # [R, 2, d]

    def draw(self, rows: int) -> tuple[Tensor, Tensor]:
        """Fresh rows for every run.

        Returns:
            x `[R, rows, d]` of N(0, I), labels `[R, rows, 2]`.
        """
        x = torch.randn(len(self.weights), rows, self.config.dimensions, generator=self.generator)
        signal = self.signal(x)
        noise = torch.randn(signal.shape, generator=self.generator)
        return x, signal + math.sqrt(self.config.noise) * noise

    def signal(self, x: Tensor) -> Tensor:
        """Labels without noise: `[R, N, d]` to `[R, N, 2]`."""
        linear = x @ self.weights.transpose(1, 2)
        waves = [torch.sin(a * linear + b) for a, b in zip(self.config.alpha, self.config.beta, strict=True)]
        return sum(waves, linear)


def correlated_tasks() -> tuple[Task, Task]:
    """The two tasks, as an architecture wants them."""
    first, second = (Task.model_validate({"name": name, "label": name, "loss": "mse"}) for name in ("y1", "y2"))
    return first, second


def pearson(labels: Tensor) -> Tensor:
    """Correlation of the two labels in every run: `[R, N, 2]` to `[R]`."""
    centred = labels.double() - labels.double().mean(1, keepdim=True)
    first, second = (centred / centred.norm(dim=1, keepdim=True)).unbind(2)
    correlation: Tensor = (first * second).sum(1)
    return correlation
