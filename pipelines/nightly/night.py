"""What is known of one night, committed to `night.json` after every stage: the state to resume from, and the record."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from ranking.data.drift import Drift
from ranking.data.findings import Finding
from ranking.errors import (
    EXIT_BAD_DATA,
    EXIT_FAILURE,
    EXIT_INFRASTRUCTURE,
    EXIT_INPUT,
    EXIT_NOT_PROMOTED,
    EXIT_OK,
    EXIT_STOPPED,
    EXIT_WAITING,
    InputError,
)
from ranking.files import write_atomically
from ranking.schema import Frozen

Stage = Literal["begun", "examined", "prepared", "trained", "judged", "decided"]
"""The stage that is done; a night that ends before its time goes on after it."""

Outcome = Literal["promoted", "waiting", "not_better", "bad_data", "bad_input", "infrastructure", "stopped", "fault"]

EXIT_CODES: dict[Outcome, int] = {
    "promoted": EXIT_OK,
    "waiting": EXIT_WAITING,
    "not_better": EXIT_NOT_PROMOTED,
    "bad_data": EXIT_BAD_DATA,
    "bad_input": EXIT_INPUT,
    "infrastructure": EXIT_INFRASTRUCTURE,
    "stopped": EXIT_STOPPED,
    "fault": EXIT_FAILURE,
}
FINISHED = ("promoted", "waiting", "not_better")


class Rate(Frozen):
    """Mean label of a task in its sample space on the day, beside the champion's training data."""

    task: str
    mean: float | None
    usual: float | None


class DayReport(Frozen):
    """What the day's data looked like.

    Attributes:
        rows: rows of the day; 0 where they could not be counted.
        usual_rows: median over the other days of the window; None where there is none.
        reference: version of the champion whose training data it was compared with.
        rates: label rates.
        drift: the features that moved farthest, worst first.
        findings: what is wrong, errors first; one error makes the day bad.
    """

    rows: int = 0
    usual_rows: float | None = None
    reference: int | None = None
    rates: tuple[Rate, ...] = ()
    drift: tuple[Drift, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What makes the day unfit."""
        return tuple(finding for finding in self.findings if finding.level == "error")


class NightPlan(Frozen):
    """Which days do what, settled once so that a rerun does the same.

    Attributes:
        window: days that transforms and training statistics rest on, oldest first.
        train: those of them that are trained on.
        validation: day that chooses the checkpoint.
        judge: day that judges champion and challenger.
        origin: night directory of the champion to start from; "" for a start from scratch.
        why: what decided between the two, as text.
    """

    window: tuple[date, ...]
    train: tuple[date, ...]
    validation: date
    judge: date
    origin: str = ""
    why: str = ""


class Score(Frozen):
    """AUC (R^2 of a regression task) with its interval."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Duel(Frozen):
    """One task on the judging day.

    Attributes:
        metric: auc or r2.
        judged: whether the gate looks at it.
        rows: support in the sample space.
        challenger: what the new model reaches.
        champion: what the model it would replace reaches; None where there is none.
        change: challenger less champion on the same rows, with the paired interval.
    """

    task: str
    metric: Literal["auc", "r2"]
    judged: bool
    rows: int
    challenger: Score
    champion: Score | None = None
    change: Score | None = None


class Night(Frozen):
    """One night.

    Attributes:
        day: the logical date.
        stage: the last stage that is done.
        outcome: how it ended; None while it runs.
        reason: why, in one line.
        seconds: wall time of every stage done, over all attempts that finished it.
        data: of the day.
        plan: which days do what.
        run_id: MLflow run of the training.
        version: registered version of the challenger.
        champion: version it was compared with.
        duels: every task on the judging day.
        verdict: the gate's checks, see `Verdict.dump`; "" where it was not asked.
        tracked: what MLflow is to know lies in the night's spool, whether it was delivered or not.
        reported: report and MLflow know of it.
        gates: mean softmax weight `[K][n]` of every gate and expert, by module.
    """

    day: date
    stage: Stage = "begun"
    outcome: Outcome | None = None
    reason: str = ""
    seconds: dict[str, float] = Field(default_factory=dict)
    data: DayReport = DayReport()
    plan: NightPlan | None = None
    run_id: str = ""
    version: int | None = None
    champion: int | None = None
    duels: tuple[Duel, ...] = ()
    verdict: str = ""
    tracked: bool = False
    reported: bool = False
    gates: dict[str, list[list[float]]] = Field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether there is a model, and a decision about it."""
        return self.outcome in FINISHED

    @property
    def settled(self) -> bool:
        """Whether the next date of a range may go ahead."""
        return self.finished or self.outcome == "bad_data"

    @property
    def exit_code(self) -> int:
        """Of the job that ended so."""
        return EXIT_FAILURE if self.outcome is None else EXIT_CODES[self.outcome]

    def save(self, folder: Path) -> None:
        """Commit to `<folder>/night.json`: whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "night.json", (self.model_dump_json(indent=2) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> Night | None:
        """What `save` wrote; None where no night began.

        Raises:
            InputError: the file is damaged.
        """
        path = folder / "night.json"
        if not path.exists():
            return None
        try:
            return cls.model_validate_json(path.read_text())
        except (ValidationError, OSError) as error:
            raise InputError(
                f"{path}: not the record of a night ({type(error).__name__}); expected one that `retrain` wrote"
            ) from None


def nights(folder: Path) -> list[Night]:
    """Every night below the output directory, oldest first."""
    found = (Night.load(path.parent) for path in folder.glob("????-??-??/night.json"))
    return sorted((night for night in found if night), key=lambda night: night.day)
