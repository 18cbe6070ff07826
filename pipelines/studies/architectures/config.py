"""What the studies of architectures train: runs that differ in architecture and seed alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import typer
import yaml
from pydantic import Field, model_validator

from ranking.config import RunConfig, Settings, load
from ranking.data.synthetic.impressions import ImpressionsConfig
from ranking.data.synthetic.traffic import TrafficConfig
from ranking.schema import Frozen, Name
from ranking.tracking.runs import TrackingConfig

REFERENCE = "shared_bottom"

Render = Annotated[bool, typer.Option("--render", help="Only write the report again, from the JSON.")]


class GridConfig(Frozen):
    """The runs: every model with every seed."""

    base: tuple[Path, ...] = Field(min_length=1, description="Configuration files of every run.")
    settings: dict[str, Any] = Field({}, description="Sections laid over the files for every run.")
    models: dict[Name, dict[str, Any]] = Field(min_length=2, description="Sections laid over them, by model.")
    seeds: tuple[int, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_a_reference(self) -> Self:
        if REFERENCE not in self.models:
            raise ValueError(f"models: expected {REFERENCE} among them, which the others are compared with")
        return self

    def run(self, model: str, seed: int, directory: Path, tracking: TrackingConfig) -> RunConfig:
        """One run's configuration; what it lays over the base stays in its directory, to run it by hand.

        Raises:
            InputError: the sections do not make a valid configuration.
        """
        directory.mkdir(parents=True, exist_ok=True)
        common, own = directory / "settings.yaml", directory / "run.yaml"
        named = {"name": f"{model}-{seed}", "seed": seed, "output": str(directory)}
        common.write_text(yaml.safe_dump(self.settings, sort_keys=False))
        own.write_text(yaml.safe_dump(self.models[model] | named, sort_keys=False))
        return load([*self.base, common, own]).model_copy(update={"tracking": tracking})


class ArchitecturesConfig(Settings):
    """A study of architectures."""

    report: Path = Field(Path("docs/studies"), description="Directory of the results, the report and its figures.")
    output: Path = Field(description="Directory of the runs; finished ones are not trained again.")
    grid: GridConfig
    tracking: TrackingConfig = TrackingConfig()

    def run(self, model: str, seed: int) -> RunConfig:
        """Configuration of one run of the grid."""
        return self.grid.run(model, seed, self.output / f"{model}-{seed}", self.tracking)


class KuairandConfig(ArchitecturesConfig):
    """Real impressions, several seeds."""

    files: ClassVar[tuple[Path, ...]] = (Path("configs/kuairand/study.yaml"),)


class ImpressionsStudyConfig(ArchitecturesConfig):
    """A simulated log, and the simulated users behind it."""

    files: ClassVar[tuple[Path, ...]] = (Path("configs/synthetic/architectures.yaml"),)

    log: ImpressionsConfig
    traffic: TrafficConfig = TrafficConfig()
    levels: tuple[float, ...] = Field((0.9, 0.95), min_length=1, description="Coverage of the live intervals.")
