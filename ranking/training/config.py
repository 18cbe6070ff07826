"""Configuration of training; apart from what uses it, as TorchRec takes seconds to import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ranking.distributed.config import SparseOptimizerConfig
from ranking.schema import Frozen, Name


class TrainingConfig(Frozen):
    """How long to train and how often to speak."""

    epochs: int = Field(1, ge=1, description="Passes over the training data.")
    steps: int = Field(0, ge=0, description="Step budget; 0: `epochs` passes over the data.")
    log_every: int = Field(50, ge=1, description="Steps between log lines and training-curve points.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: the network under autocast.")
    hang_timeout: float = Field(
        600,
        gt=0,
        description="Seconds without a step, an evaluated batch or a checkpoint until the job counts as hung.",
    )
    collective_timeout: float = Field(
        900, gt=0, description="Seconds a collective waits for a rank; more than `hang_timeout`, which names the rank."
    )
    matmul: Literal["highest", "high", "medium"] = Field(
        "highest", description="torch.set_float32_matmul_precision; see docs/performance.md, Settings."
    )

    @model_validator(mode="after")
    def _a_rank_that_hangs_is_named(self) -> Self:
        if self.collective_timeout <= self.hang_timeout:
            raise ValueError(
                f"collective_timeout: got {self.collective_timeout:g}; expected more than hang_timeout, "
                f"{self.hang_timeout:g}, after which the rank that hangs is named"
            )
        return self

    def total_steps(self, steps_per_epoch: int) -> int:
        """Updates of the whole run."""
        return self.steps or self.epochs * steps_per_epoch


class EvaluationConfig(Frozen):
    """When the model is evaluated, and what makes a checkpoint the best."""

    every: int = Field(0, ge=0, description="Steps between evaluations; 0: at the end of every epoch.")
    batch_size: int = Field(8192, ge=1, description="Global batch while evaluating.")
    best: Literal["auc", "gauc", "r2"] = Field(
        "auc", description="Validation metric that ranks checkpoints; without a binary task it is R^2."
    )
    tasks: tuple[str, ...] = Field(
        (), description="Tasks whose mean ranks checkpoints; empty: every binary task, or every task for R^2."
    )
    min_positives: int = Field(10, ge=1, description="Fewer examples of either class make a metric undefined.")
    confidence: float = Field(0.95, gt=0, lt=1, description="Level of the AUC intervals.")
    collapse: float = Field(
        0.95, gt=0, le=1, description="Share of a gate's weight on one of several experts from which it is reported."
    )


Beta = Annotated[float, Field(ge=0, lt=1)]
"""Decay of a moving average of gradients."""


class DenseOptimizerConfig(Frozen):
    """Optimizer of everything that is not an embedding table."""

    type: Literal["adam", "adamw", "sgd"] = Field("adam", description="Of torch.optim.")
    learning_rate: float = Field(1e-3, gt=0, description="After warm-up.")
    weight_decay: float = Field(0.0, ge=0, description="adam, sgd: L2; adamw: decoupled.")
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="Decay of both moments (adam, adamw).")
    eps: float = Field(1e-8, gt=0, description="Added to the denominator (adam, adamw).")
    momentum: float = Field(0.0, ge=0, lt=1, description="sgd only.")
    clip_norm: float = Field(0.0, ge=0, description="Largest global norm of the dense gradients; 0 does not clip.")


class ScheduleConfig(Frozen):
    """Factor on every learning rate: linear warm-up, then constant, or linear or cosine decay over the steps left."""

    type: Literal["constant", "linear", "cosine"] = Field("constant", description="What follows warm-up.")
    warmup_steps: int = Field(0, ge=0, description="Steps until rates are full.")
    final_factor: float = Field(0.0, ge=0, le=1, description="Where linear and cosine decay end.")


class OptimizerConfig(Frozen):
    """Optimizers and their schedule."""

    sparse: SparseOptimizerConfig = SparseOptimizerConfig()
    dense: DenseOptimizerConfig = DenseOptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()


class WarmStartConfig(Frozen):
    """Where a run that has nothing to resume begins."""

    run: str = Field(
        "",
        description="Directory of an earlier run, or a registered model such as models:/ranker@champion (weights "
        "only) to begin from; empty: fresh weights.",
    )
    checkpoint: Literal["best", "newest"] = Field("best", description="Which committed checkpoint of that run.")
    optimizer: bool = Field(True, description="Carry the optimizers' state over too; false: it begins at zero.")


class CompareConfig(Frozen):
    """How the `compare` job sets a model that shares beside tasks trained alone."""

    baselines: dict[Name, Path] = Field(
        {}, description="Run directories of tasks that were trained alone already, by task; the others are trained."
    )
    split: Literal["validation", "test"] = Field("test", description="Rows the models are compared on.")
    confidence: float = Field(0.95, gt=0, lt=1, description="Level of the paired intervals.")
    resamples: int = Field(1000, ge=100, description="Of the rows, for the interval of a difference in R^2.")
    gradient_batches: int = Field(16, ge=0, description="Training batches whose task gradients are compared; 0: none.")
