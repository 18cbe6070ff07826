"""Retraining by the calendar: what a night asks of its day, which days train, and when to begin from scratch."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Literal

from pydantic import Field, field_validator

from ranking.schema import Frozen

DATE = "{date}"


class DayChecks(Frozen):
    """What a day must look like to be trained on: effect sizes, never p-values."""

    rows: tuple[float, float] = Field(
        (0.5, 2.0), description="Bounds of the day's rows over the median of the other days in the window."
    )
    label_rate: tuple[float, float] = Field(
        (0.5, 2.0),
        description="Bounds of a task's mean label over the champion's training data; a rate within four standard "
        "errors of it is never out of bounds.",
    )
    missing: float = Field(0.2, gt=0, le=1, description="Largest growth of a feature's share of rows without a value.")
    ks: float = Field(0.4, gt=0, le=1, description="Largest Kolmogorov-Smirnov statistic of a number, less its noise.")
    psi: float = Field(0.5, gt=0, description="Largest population stability index of an id, less its noise.")
    ignore: tuple[str, ...] = Field((), description="Features that differ from day to day by nature, as the weekday.")


class RetrainConfig(Frozen):
    """One retraining a date.

    The window of a date ends at that date: its last day chooses the checkpoint, the days before it train, and the day
    after it judges champion and challenger. While that day is not there yet, the window ends a day earlier and the
    date itself judges. A day that was found bad has no part in it.
    """

    partition: str = Field("", description="URL, glob or directory of one day's Parquet files; {date} is YYYY-MM-DD.")
    marker: str = Field("", description="File that says a day is complete, such as .../day={date}/_SUCCESS.")
    wait_s: float = Field(0.0, ge=0, description="How long to wait for the partition of the date.")
    poll_s: float = Field(60.0, gt=0, description="Seconds between two looks at it.")
    window: int = Field(8, ge=2, description="Days of the window, the one that validates included.")
    scratch_every: int = Field(
        7,
        ge=0,
        description="Every how many days training begins from scratch, not from the champion; 1: always, 0: never.",
    )
    warm_days: Literal["unseen", "window"] = Field(
        "window",
        description="What a warm start trains on: all days of the window (rolling), or those that the champion was "
        "not trained on (unseen: incremental).",
    )
    warm_epochs: int = Field(1, ge=1, description="Epochs of a warm start; from scratch: training.epochs.")
    keep_checkpoints: int = Field(
        3,
        ge=1,
        description="Newest nights whose checkpoints stay on disk; those of the champion and of the one "
        "before it always do.",
    )
    processes: int = Field(1, ge=1, description="Ranks of the training job.")
    checks: DayChecks = DayChecks()

    @field_validator("partition", "marker")
    @classmethod
    def _names_the_date(cls, url: str) -> str:
        if url and DATE not in url:
            raise ValueError(f"{url!r}; expected {DATE} in it")
        return url

    def url(self, day: date) -> str:
        """Where the files of a day lie."""
        return self.partition.replace(DATE, day.isoformat())

    def days(self, last: date) -> tuple[date, ...]:
        """The window that ends at `last`, oldest first."""
        return tuple(last - timedelta(days=back) for back in reversed(range(self.window)))

    def from_scratch(self, day: date) -> bool:
        """Whether it is a day to begin from scratch."""
        return self.scratch_every > 0 and day.toordinal() % self.scratch_every == 0
