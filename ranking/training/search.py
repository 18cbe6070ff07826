"""What a tuner may change, how far, and what it looks for: the `tune` section."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import Field, FiniteFloat, SecretStr, model_validator

from ranking.schema import Frozen

Metric = Literal["auc", "gauc", "r2", "log_loss", "normalised_entropy", "mse", "mae", "rmse"]
Direction = Literal["maximize", "minimize"]

_HIGHER_IS_BETTER = ("auc", "gauc", "r2")
_OF_ANY_TASK = ("r2", "mse", "mae", "rmse")


class Trial(Protocol):
    """The part of an optuna trial that draws values."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of several."""


class Dimension(Frozen):
    """The values one setting may take: a range, of whole numbers where `low` and `high` are, or a list of choices."""

    low: int | FiniteFloat | None = Field(None, description="The least value.")
    high: int | FiniteFloat | None = Field(None, description="The largest value.")
    log: bool = Field(False, description="Draw the logarithm evenly.")
    step: int | FiniteFloat | None = Field(None, description="Distance between neighbours; left out: 1 for whole ones.")
    choices: tuple[Any, ...] = Field((), description="Any values, lists and sections too.")

    @model_validator(mode="after")
    def _is_a_range_or_choices(self) -> Self:
        if bool(self.choices) == (self.low is not None and self.high is not None):
            raise ValueError("expected either low and high, or choices")
        if self.low is None or self.high is None:
            return self
        if not self.low < self.high:
            raise ValueError(f"high: got {self.high}; expected more than low, {self.low}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError(f"log: got low {self.low} and step {self.step}; expected low above 0, and no step")
        return self

    def suggest(self, trial: Trial, name: str) -> Any:
        """The value a trial tries."""
        if self.choices:
            return self.values[trial.suggest_categorical(name, list(self.values))]
        low, high, step = self.low or 0, self.high or 0, self.step
        if isinstance(low, int) and isinstance(high, int) and (step is None or isinstance(step, int)):
            return trial.suggest_int(name, low, high, step=step or 1, log=self.log)
        return trial.suggest_float(name, low, high, step=step, log=self.log)

    @property
    def values(self) -> dict[Any, Any]:
        """Choices by what a study calls them: numbers and names as they are, lists and sections as JSON."""
        plain = (str, int, float, type(None))
        return {choice if isinstance(choice, plain) else json.dumps(choice): choice for choice in self.choices}

    def label(self, value: Any) -> Any:
        """What a study calls a value; None where the dimension does not hold it."""
        if self.choices:
            return next((name for name, choice in self.values.items() if choice == value), None)
        inside = isinstance(value, int | float) and self.low <= value <= self.high  # type: ignore[operator]
        return value if inside else None


class MedianPruner(Frozen):
    """Stops a trial that at a step is worse than the median of the earlier trials at that step."""

    type: Literal["median"] = "median"
    startup_trials: int = Field(5, ge=0, description="Trials that are never stopped, to compare with.")
    warmup_steps: int = Field(0, ge=0, description="Optimizer steps before which none is stopped.")


class HyperbandPruner(Frozen):
    """Successive halving in several brackets, from the first evaluation to the last [Li et al., JMLR 2018]."""

    type: Literal["hyperband"] = "hyperband"
    reduction_factor: int = Field(3, ge=2, description="One in this many goes on.")


class NoPruner(Frozen):
    """Every trial runs to its end."""

    type: Literal["none"] = "none"


Pruner = Annotated[MedianPruner | HyperbandPruner | NoPruner, Field(discriminator="type")]


class FusionSearch(Frozen):
    """What `tune.target: fusion` looks for: powers under which the score ranks each user's rows well for every task."""

    source: str = Field(
        "run",
        description="Whose predictions: `run`, the best checkpoint of `output`; or champion, challenger, a version.",
    )
    weights: dict[str, FiniteFloat] = Field(
        {}, description="Weight of the GAUC of every task that counts; empty: 1 for every binary task."
    )
    powers: dict[str, Dimension] = Field(
        {}, description="Range of every task's power; empty: 0 to 2 for the tasks that fusion.powers names."
    )
    space: Literal["entire", "sample"] = Field(
        "entire",
        description="Rows of a GAUC: all that have the label, as the score ranks them all, or the task's own.",
    )


class TuneConfig(Frozen):
    """A study of many trials, on validation rows only."""

    target: Literal["model", "fusion"] = Field("model", description="Settings of the training, or fusion.powers.")
    space: dict[str, Dimension] = Field({}, description="By dotted path, such as optimizer.dense.learning_rate.")
    metric: Metric = Field("auc", description="Best validation value of a trial, in the sample space.")
    tasks: tuple[str, ...] = Field((), description="Tasks to average over; empty: evaluation.tasks, or all that fit.")
    direction: Direction | None = Field(None, description="Left out: what is better for the metric.")
    trials: int = Field(50, ge=1, description="Trials of the study, over all its workers.")
    startup_trials: int = Field(10, ge=1, description="Trials drawn at random before the Gaussian process takes over.")
    pruner: Pruner = Field(MedianPruner(), description="Which trials are stopped at an evaluation as hopeless.")
    storage: SecretStr = Field(
        SecretStr(""), description="SQLAlchemy URL that workers share; left out: an SQLite file in the run directory."
    )
    study: str = Field("", description="Name of the study; left out: the run's name.")
    heartbeat: int = Field(
        30, ge=1, description="Seconds between signs of life; a trial silent for thrice that is dead."
    )
    retries: int = Field(2, ge=0, description="How often a trial whose worker died is tried again.")
    keep_checkpoints: bool = Field(False, description="Keep the checkpoints of every trial.")
    fusion: FusionSearch = FusionSearch()

    def suits(self, kind: Literal["binary", "regression"]) -> bool:
        """Whether the metric is defined for tasks of that kind."""
        return kind == "binary" or self.metric in _OF_ANY_TASK

    @property
    def better(self) -> Direction:
        """Which way the objective improves."""
        if self.direction is not None:
            return self.direction
        return "maximize" if self.target == "fusion" or self.metric in _HIGHER_IS_BETTER else "minimize"
