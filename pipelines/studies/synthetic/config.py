"""What the study of correlated tasks computes; the numbers stand in configs/synthetic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from ranking.config import Settings
from ranking.data.synthetic.correlated import CorrelatedConfig
from ranking.models.zoo import ModelConfig
from ranking.schema import Frozen, Name
from ranking.tracking.runs import TrackingConfig

Cosine = Annotated[float, Field(ge=-1, le=1)]
Rate = Annotated[float, Field(gt=0)]

COMPARED = ("shared_bottom", "omoe", "mmoe")


class LabelsConfig(Frozen):
    """Correlation of the labels against p."""

    p: tuple[Cosine, ...] = Field(min_length=1)
    points: int = Field(ge=2, description="Rows behind one correlation.")
    repeats: int = Field(ge=2, description="Correlations for every p, each of fresh weights and rows.")


class CellsConfig(Frozen):
    """Trainings of some models at some p: a cell is a model at a p with all its runs."""

    p: tuple[Cosine, ...] = Field(min_length=1)
    models: dict[Name, ModelConfig] = Field(min_length=1)
    learning_rates: tuple[Rate, ...] = Field(min_length=1, description="Adam's; the best of them represents a cell.")
    runs: int = Field(ge=8, description="For every cell and learning rate, with fresh data and weights.")
    steps: int = Field(ge=1, description="Each on a batch of rows never seen before.")
    batch_size: int = Field(ge=1)
    points: int = Field(ge=1, description="Points of a loss curve: means over equal windows of steps.")
    held_out: int = Field(ge=1, description="Fresh rows on which a run's final loss is taken.")
    together: int = Field(ge=1, description="Runs computed at once; bounds memory.")

    @model_validator(mode="after")
    def _windows_are_equal(self) -> Self:
        if self.steps % self.points:
            raise ValueError(f"points: got {self.points}; expected a divisor of steps, {self.steps}")
        return self


class SyntheticConfig(Settings):
    """The whole study."""

    files: ClassVar[tuple[Path, ...]] = (Path("configs/synthetic/study.yaml"),)

    seed: int = Field(0, ge=0)
    report: Path = Field(Path("docs/studies"), description="Directory of synthetic.json, synthetic.md and figures.")
    output: Path = Field(Path("runs/studies/synthetic"), description="Run directory: the tracking spool.")
    law: CorrelatedConfig
    labels: LabelsConfig
    relatedness: CellsConfig
    models: CellsConfig
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _findings_can_be_judged(self) -> Self:
        if not {*COMPARED} <= self.models.models.keys() or len(self.models.p) < 2:
            raise ValueError(f"models: expected at least {', '.join(COMPARED)} at two values of p")
        return self
