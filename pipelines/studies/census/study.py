"""The census study, from its configuration to a tracked report; it goes on where an earlier start stopped."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from typing import Annotated

import typer

from pipelines.job import say
from pipelines.studies.census.cells import finish, path, read
from pipelines.studies.census.config import CensusStudyConfig
from pipelines.studies.census.figures import draw
from pipelines.studies.census.findings import judge
from pipelines.studies.census.report import findings, markdown
from pipelines.studies.census.rows import row
from pipelines.studies.census.table import load
from pipelines.studies.record import Record, Row
from ranking.errors import InputError
from ranking.tracking.runs import Run

Track = Annotated[bool, typer.Option("--track/--no-track", help="Log to MLflow at tracking.uri.")]
Render = Annotated[bool, typer.Option("--render", help="Only write report and figures again, from the JSON.")]
Groups = Annotated[list[str] | None, typer.Option("--group", help="Only this group; repeatable.")]
Models = Annotated[list[str] | None, typer.Option("--model", help="Only this model; repeatable.")]


def census(
    config: CensusStudyConfig,
    track: Track = True,
    render: Render = False,
    group: Groups = None,
    model: Models = None,
) -> None:
    """Census-Income, both groups [MMoE, section 4.3]: seven architectures, tuned, and many runs of each on test.

    Finished runs in the output directory are kept: the same command resumes where it stopped. Cells that directory has
    nothing of stay in the report as an earlier start left them, told apart by their revision.
    """
    if render:
        record = Record.read(config.report / "census.json")
        write(config, record.model_copy(update={"rows": judged(config, record)}))
        return

    splits = cache(partial(load, config))
    for name in _some("model", model, config.models):
        for part in _some("group", group, config.groups):
            for _ in finish(config, part, name, splits(part, config.made(name))):
                collect(config).write(config.report / "census.json")  # `--render` shows what a stop left
    record = collect(config)
    figures = write(config, record)
    say(findings([row for row in record.rows if row["part"] == "findings"]))
    if track:
        log_run(config, record, figures)
    say(f"wrote {config.report / 'census.json'}, census.md and {len(figures)} figures")


def _some(option: str, wanted: list[str] | None, known: Iterable[str]) -> list[str]:
    """Those asked for, in the configuration's order; all where none is."""
    names = list(known)
    if unknown := set(wanted or ()) - set(names):
        raise InputError(f"--{option}: got {sorted(unknown)}; expected some of {names}")
    return [name for name in names if not wanted or name in wanted]


def collect(config: CensusStudyConfig) -> Record:
    """Everything finished so far."""
    rows = _reported(config)
    cells = {(config.groups[group].number, model): (group, model) for group in config.groups for model in config.models}
    for cell, names in cells.items():
        result = read(path(config, *names))
        rows |= {} if result is None else {cell: row(config, *names, result)}
    record = Record.of([rows[cell] for cell in cells if cell in rows])
    return record.model_copy(update={"rows": judged(config, record)})


def _reported(config: CensusStudyConfig) -> dict[tuple[int, str], Row]:
    """The rows of runs in the report that is there, by group and model."""
    file = config.report / "census.json"
    record = Record.read(file) if file.exists() else None
    rows = [row for row in record.rows if row["part"] == "runs"] if record else []
    origin = {"revision": record.revision, "machine": record.machine} if record else {}
    return {(row["group"], row["model"]): origin | row | {"wanted": config.runs} for row in rows}


def judged(config: CensusStudyConfig, record: Record) -> tuple[dict[str, object], ...]:
    """The rows of the runs, and what follows from them."""
    rows = [row for row in record.rows if row["part"] == "runs"]
    return (*rows, *judge(config, rows))


def write(config: CensusStudyConfig, record: Record) -> list[Path]:
    """JSON, figures and report; the files of the figures."""
    record.write(config.report / "census.json")
    figures, rows = [], [cell for cell in record.rows if cell["part"] == "runs"]
    for name, figure in draw(config, rows).items():
        figures.append(config.report / f"census_{name}.png")
        figure.savefig(figures[-1])
    (config.report / "census.md").write_text(markdown(config, record, [file.name for file in figures]))
    return figures


def log_run(config: CensusStudyConfig, record: Record, figures: Iterable[Path]) -> None:
    """One MLflow run: mean, spread and best of every cell, report and figures."""
    tracking = config.tracking.model_copy(update={"run_name": config.tracking.run_name or "census"})
    directory = config.output / "tracking" / time.strftime("%Y%m%d-%H%M%S")
    tags = {"git.revision": record.revision, "study": "census", "machine": record.machine}
    with Run.open(tracking, directory, config.model_dump(mode="json"), tags=tags) as run:
        for cell in record.rows:
            numbers = {key: value for key, value in cell.items() if key.endswith(("_best", "_mean", "_std"))}
            run.log_metrics({f"group{cell.get('group')}/{cell['model']}/{k}": v for k, v in numbers.items()}, 0)
        for figure in figures:
            run.log_figure(figure)
        run.log_text("census.json", (config.report / "census.json").read_text())
        run.log_card((config.report / "census.md").read_text())
