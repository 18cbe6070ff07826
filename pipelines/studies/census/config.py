"""What the census study tunes and trains; the numbers stand in configs/census."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ranking.config import Settings
from ranking.data.recipes.census import CensusConfig
from ranking.models import zoo
from ranking.models.zoo import ModelConfig
from ranking.schema import DenseFeature, Feature, Frozen, Name, Schema, Task
from ranking.tracking.runs import TrackingConfig
from ranking.training.search import Dimension

Made = Literal["rates", "trees"]
"""Sections of the recipe that make columns of a label."""


class Cell(Frozen):
    """Settings of one training: what the tuner draws and what stays fixed."""

    model: ModelConfig
    learning_rate: float = Field(gt=0, description="AdamW's, of tables and network alike.")
    epochs: int = Field(ge=1)
    members: int = Field(1, ge=1, description="Networks of a run, trained apart; their probabilities are averaged.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled.")
    batch_size: int = Field(512, ge=1)
    average: float = Field(0.999, ge=0, lt=1, description="Decay of the moving average of the weights; 0: the last.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps in which the rate rises; then cosine decay.")
    precision: Literal["fp32", "bf16"] = "bf16"


class GroupConfig(Frozen):
    """Two tasks trained together; the first is the main one, on whose validation AUC settings are chosen."""

    number: int = Field(description="Of the group in the paper.")
    tasks: tuple[Task, Task]
    settings: dict[str, Any] = Field({}, description="By dotted path, laid over those of every model.")
    space: dict[str, Dimension | None] = Field({}, description="By dotted path, searched for every model; null: not.")
    goal: float = Field(gt=0, lt=1, description="Test AUC that MMoE's mean should reach on the main task.")

    @property
    def main(self) -> str:
        """Name of the main task."""
        return self.tasks[0].name


class TunerConfig(Frozen):
    """The Gaussian-process tuner of every model and group."""

    trials: int = Field(ge=1)
    startup_trials: int = Field(ge=1, description="Drawn at random, before the Gaussian process takes over.")
    runs: int = Field(1, ge=1, description="Runs whose mean validation AUC a trial is worth.")


class CensusStudyConfig(Settings):
    """The whole study."""

    files: ClassVar[tuple[Path, ...]] = (Path("configs/census/study.yaml"),)

    seed: int = Field(0, ge=0, description="Of orders, initial weights and the tuner.")
    source: Path = Field(Path("data/census"), description="Directory of the publisher's files, as `prepare` takes it.")
    recipe: CensusConfig = CensusConfig()
    report: Path = Field(Path("docs/studies"), description="Directory of census.json, census.md and figures.")
    output: Path = Field(Path("runs/studies/census"), description="Splits, trials and finished runs, to continue from.")
    tracking: TrackingConfig = TrackingConfig()
    embedding_dim: int = Field(8, ge=1)
    features: tuple[Feature, ...] = Field(min_length=1)
    common: dict[str, Any] = Field({}, description="Settings of every cell, by dotted path.")
    models: dict[Name, dict[str, Any]] = Field(min_length=1, description="The `model` section of every architecture.")
    spaces: dict[Name, dict[str, Dimension | None]] = Field({}, description="What is searched for one model alone.")
    reads: dict[Name, Annotated[tuple[Made, ...], Field(min_length=1)]] = Field(
        {}, description="What models read beside the features: columns that the recipe makes of their main label."
    )
    groups: dict[Name, GroupConfig] = Field(min_length=1)
    tuner: TunerConfig
    runs: int = Field(ge=2, description="From random initial weights, with the tuned settings.")
    together: int = Field(8, ge=1, description="Networks trained at once; bounds memory.")

    @model_validator(mode="after")
    def _cells_are_valid(self) -> Self:
        for key, names in (("spaces", set(self.spaces)), ("reads", set(self.reads))):
            if unknown := sorted(names - self.models.keys()):
                raise ValueError(f"{key}: got {unknown}; expected some of {sorted(self.models)}")
        for model, made in self.reads.items():
            if len(set(made)) < len(made):
                raise ValueError(f"reads.{model}: got {list(made)}; expected each once")
        for group in self.groups:
            for model in self.models:
                space = self.space(group, model).items()
                self.cell(group, model, {path: each.choices[0] if each.choices else each.low for path, each in space})
                self.cell(group, model)
                self.schema_of(group, self.made(model))
        return self

    def cell(self, group: str, model: str, tuned: Mapping[str, Any] | None = None) -> Cell:
        """Settings of a model in a group: common ones, the group's over them, what a trial drew over those."""
        settings: dict[str, Any] = {"model": dict(self.models[model]), "learning_rate": 1e-3, "epochs": 1}
        for path, value in {**self.common, **self.groups[group].settings}.items():
            _put(settings, path, value)
        settings = Cell.model_validate(settings).model_dump()  # defaults too: the tuner may draw a part of one
        for path, value in (tuned or {}).items():
            _put(settings, path, value)
        cell = Cell.model_validate(settings)
        zoo.check(cell.model, self.groups[group].tasks)
        return cell

    def space(self, group: str, model: str) -> dict[str, Dimension]:
        """Everything the tuner may change."""
        wanted = {**self.groups[group].space, **self.spaces.get(model, {})}
        return {name: dimension for name, dimension in wanted.items() if dimension is not None}

    def made(self, model: str) -> tuple[Made, ...]:
        """What a model reads beside the features."""
        return self.reads.get(model, ())

    def schema_of(self, group: str, made: Sequence[Made]) -> Schema:
        """Features, the columns of `made`, and the two tasks of a group."""
        tasks = self.groups[group].tasks
        columns = [column for each in made for column in self._columns(each, str(tasks[0].label))]
        more = [DenseFeature(name=column, scale="standardise") for column in columns]
        return Schema(features=(*self.features, *more), tasks=tasks, embedding_dim=self.embedding_dim)

    def _columns(self, made: Made, label: str) -> list[str]:
        section = {"rates": self.recipe.rates, "trees": self.recipe.trees}[made]
        if section is None or label not in section.labels:
            got = None if section is None else list(section.labels)
            raise ValueError(f"recipe.{made}.labels: got {got}; expected {label!r}, as `reads` says")
        return section.columns(label)


def _put(settings: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted path; a number in it is a place in a list.

    Raises:
        ValueError: nothing stands there.
    """
    *parents, last = path.split(".")
    target: Any = settings
    try:
        for name in parents:
            key: Any = int(name) if name.isdigit() else name
            target[key] = copy.copy(target[key]) if not isinstance(target[key], tuple) else list(target[key])
            target = target[key]
        target[int(last) if last.isdigit() else last] = value
    except (IndexError, KeyError, TypeError):
        raise ValueError(f"{path}: no such setting; expected a path of one of this model's") from None
