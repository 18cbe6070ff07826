"""The study of warm starts, from its configuration to its report."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.job import say
from pipelines.studies.record import Record
from pipelines.studies.warm_start.config import WarmStartStudyConfig
from pipelines.studies.warm_start.measure import measure
from pipelines.studies.warm_start.report import draw, markdown, summary

Render = Annotated[bool, typer.Option("--render", help="Only write report and figures again, from the JSON.")]


def warm_start(config: WarmStartStudyConfig, render: Render = False) -> None:
    """From scratch or onwards from yesterday: AUC on the next day, on new ids, and what a day costs."""
    path = config.report / "warm_start.json"
    if render:
        record = Record.read(path)
        rows = [row for row in record.rows if row["part"] != "summary"]
        record = record.model_copy(update={"rows": (*rows, *summary(rows, config))})
    else:
        rows = list(measure(config))
        record = Record.of([*rows, *summary(rows, config)])
    record.write(path)
    figures = draw(record.rows, config)
    for name, figure in figures.items():
        figure.savefig(config.report / f"warm_start_{name}.png")
    path.with_suffix(".md").write_text(markdown(record, config))
    say(f"wrote {path}, {path.with_suffix('.md')} and {len(figures)} figures")
