"""What the study of warm starts trains, day by day; the numbers stand in configs/kuairand/warm_start.yaml."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import Field, model_validator

from ranking.config import RunConfig, Settings, load
from ranking.schema import Frozen, Name


class ArmConfig(Frozen):
    """One way of keeping a model up to date. On the first day every arm has the reference's model."""

    days: int = Field(ge=0, description="Newest days trained on; 0: the first day's model stays as it is.")
    warm: bool = Field(True, description="Begin from the arm's own model of the day before; false: from fresh weights.")
    grow: bool = Field(True, description="New ids get rows; false: the first day's tables stay.")
    against: Name | None = Field(None, description="Arm it is compared with; left out: the reference.")
    settings: dict[str, Any] = Field({}, description="Sections laid over the base.")


class WarmStartStudyConfig(Settings):
    """Every day each arm trains up to it and is scored on the next one."""

    files: ClassVar[tuple[Path, ...]] = (Path("configs/kuairand/warm_start.yaml"),)

    report: Path = Field(Path("docs/studies"), description="Directory of the results, the report and its figures.")
    output: Path = Field(description="Directory of the runs; finished ones are not trained again.")
    base: tuple[Path, ...] = Field(min_length=1, description="Configuration files of every run.")
    source: Path | None = Field(None, description="Directory of the publisher's files; left out: as the base says.")
    first: date = Field(description="Last day that the first models know.")
    last: date = Field(description="Last day scored.")
    window: int = Field(ge=1, description="Days that transforms are fitted on, and scratch models trained on.")
    reference: Name = Field("scratch", description="The arm that the others are compared with.")
    arms: dict[Name, ArmConfig] = Field(min_length=2)
    tasks: tuple[Name, ...] = Field(min_length=1, description="Binary tasks that are scored.")

    @model_validator(mode="after")
    def _can_be_compared(self) -> Self:
        if self.reference not in self.arms or self.arms[self.reference].warm:
            raise ValueError(f"reference: got {self.reference!r}; expected an arm with warm: false")
        for name, arm in self.arms.items():
            if arm.against not in (None, *self.arms):
                raise ValueError(f"arms.{name}.against: got {arm.against!r}; expected one of {list(self.arms)}")
        if self.last <= self.first:
            raise ValueError(f"last: got {self.last}; expected a day after {self.first}")
        return self

    @property
    def days(self) -> tuple[date, ...]:
        """The days that models are brought up to; the day after each is the one they are scored on."""
        return tuple(self.first + timedelta(days=n) for n in range((self.last - self.first).days))

    @property
    def growing(self) -> str:
        """The first arm whose tables grow."""
        return next(name for name, arm in self.arms.items() if arm.warm and arm.grow and arm.days)

    def rival(self, arm: str) -> str:
        """The arm that an arm is compared with."""
        return self.arms[arm].against or self.reference

    def model(self, arm: str, day: date) -> tuple[str, date]:
        """Whose training of which day an arm's model of a day is."""
        still = day == self.first or not self.arms[arm].days
        return (self.reference, self.first) if still else (arm, day)

    def folder(self, arm: str, day: date) -> Path:
        """Run directory of an arm's model of a day."""
        owner, trained = self.model(arm, day)
        return self.output / owner / str(trained)

    def run(self, arm: str, day: date, scored: date) -> RunConfig:
        """Configuration of the training behind an arm's model of a day.

        Args:
            arm: its name.
            day: that the model is brought up to.
            scored: day to score it on.

        Raises:
            InputError: the sections do not make a valid configuration.
        """
        owner, trained = self.model(arm, day)
        settings, folder = self.arms[owner], self.folder(arm, day)
        before = self.folder(owner, trained - timedelta(days=1)) if settings.warm else None
        tables = folder if settings.grow else self.folder(owner, self.first)
        days = settings.days if trained > self.first else self.window
        sections: dict[str, Any] = {
            "name": f"{owner}-{trained}",
            "output": str(folder),
            "data": {
                "train": [self.url(each) for each in self.before(trained, days)],
                "validation": self.url(scored),
                "test": self.url(scored),
                "transforms": str(tables / "transforms"),
                "extends": str(before / "transforms") if before and settings.grow else "",
            },
            "warm_start": {"run": str(before or ""), "checkpoint": "newest"},
            "prepare": {"output": f"{self.output}/days"} | ({"source": str(self.source)} if self.source else {}),
        }
        return self._loaded(folder, settings.settings, sections)

    def window_of(self, run: RunConfig, day: date) -> RunConfig:
        """The same run over the days that its transforms are fitted on."""
        urls = tuple(self.url(each) for each in self.before(day, self.window))
        return run.model_copy(update={"data": run.data.model_copy(update={"train": urls}), "prepare": None})

    def url(self, day: date) -> str:
        """Files of a day."""
        return f"{self.output}/days/day={day}/*.parquet"

    def before(self, day: date, days: int) -> list[date]:
        """The newest `days` days up to `day`, oldest first."""
        return [day - timedelta(days=back) for back in reversed(range(days))]

    def _loaded(self, folder: Path, *layers: dict[str, Any]) -> RunConfig:
        """What is laid over the base stays in the run's directory, to run it by hand."""
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{place}.yaml" for place, _ in enumerate(layers, start=1)]
        for file, content in zip(files, layers, strict=True):
            file.write_text(yaml.safe_dump(content, sort_keys=False))
        return load([*self.base, *files])
