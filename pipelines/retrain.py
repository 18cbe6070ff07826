"""Retrain: one night for a date, from its partition to a promoted model and a report; or a range of nights."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated

import typer

from pipelines.job import Command, complain, job, say
from pipelines.nightly.night import Night
from pipelines.nightly.pages import headline, publish
from pipelines.nightly.retention import tidy
from pipelines.nightly.run import run
from pipelines.nightly.stages import Stages
from pipelines.nightly.summary import summarise
from pipelines.nightly.tracking import track
from pipelines.nightly.worker import SigtermGuard
from ranking.config import RunConfig
from ranking.errors import EXIT_BAD_DATA, InputError

Day = Annotated[str, typer.Option("--date", help="Logical date, YYYY-MM-DD; yesterday (UTC) when left out.")]
Range = Annotated[str, typer.Option(help="FIRST:LAST, both YYYY-MM-DD: a night for every date, in order.")]


def retrain(config: RunConfig, command: Command, day: Day = "", backfill: Range = "") -> int | None:
    """Look at the day's data, train, judge, promote if better, report; each stage once.

    A finished date does nothing; one that was cut short goes on after its last stage.

    Exit codes: 0 promoted; 3 not better; 4 waits for approval; 65 the day's data is bad; 69 a service or the
    machine failed; 2 bad configuration; 75 stopped by SIGTERM. Of a range: the first that stops it (2, 69, 75), else
    65 where a day was bad, else that of the last date.
    """
    if not config.retrain.partition:
        raise InputError("retrain.partition: missing; expected the URL of one day's files with {date} in it")
    codes: list[int] = []
    stop = SigtermGuard()
    with stop.heard():
        for each in _days(day, backfill):
            night = run(Stages(each, config, command), stop)
            if night.reported:
                say(f"{each}: done already: {headline(night)}")
            else:
                _report(night, config, command)
            codes.append(night.exit_code)
            if not night.settled:
                return codes[-1]
    return EXIT_BAD_DATA if EXIT_BAD_DATA in codes else codes[-1]


def _report(night: Night, config: RunConfig, command: Command) -> None:
    """Tell everybody: pages, MLflow, terminal; the record knows when that is done: not while MLflow is away."""
    page = publish(night, config, command)
    summary = summarise(config)
    left = track(night, config, page)
    night.model_copy(update={"tracked": True, "reported": not left}).save(page.parent)
    if night.finished:
        tidy(config)
        say(f"{night.day}: {headline(night)}")  # the gate has said why
    else:
        complain(f"{night.day}: {headline(night)} {night.reason}")
    say(f"report    {page}\nsummary   {summary}")


def _days(day: str, backfill: str) -> list[date]:
    """The dates asked for, in order."""
    if day and backfill:
        raise InputError("--date and --backfill: got both; expected one of them")
    first, _, last = backfill.partition(":")
    if not backfill:
        first = last = day or (datetime.now(UTC).date() - timedelta(days=1)).isoformat()
    begin, end = _date(first), _date(last)
    if begin > end:
        raise InputError(f"--backfill: got {backfill}; expected FIRST:LAST with FIRST not after LAST")
    return [begin + timedelta(days=days) for days in range((end - begin).days + 1)]


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InputError(f"--date, --backfill: got {text!r}; expected YYYY-MM-DD") from None


main = job(retrain)

if __name__ == "__main__":
    main()
