"""The study of correlated tasks, from its configuration to a tracked report."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from pipelines.job import say
from pipelines.studies.record import Record
from pipelines.studies.synthetic.config import SyntheticConfig
from pipelines.studies.synthetic.figures import draw
from pipelines.studies.synthetic.findings import judge
from pipelines.studies.synthetic.measure import measure
from pipelines.studies.synthetic.report import findings, markdown
from ranking.tracking.runs import Run

Track = Annotated[bool, typer.Option("--track/--no-track", help="Log to MLflow at tracking.uri.")]
Render = Annotated[bool, typer.Option("--render", help="Only write report and figures again, from the JSON.")]


def synthetic(config: SyntheticConfig, track: Track = True, render: Render = False) -> None:
    """Correlated synthetic tasks [MMoE, sections 3.2 and 3.3]: do its findings (a) to (f) hold?"""
    path = config.report / "synthetic.json"
    if render:
        record = Record.read(path)
        rows = [row for row in record.rows if row["part"] != "findings"]
        record = record.model_copy(update={"rows": (*rows, *judge(rows))})
    else:
        rows = list(measure(config))
        record = Record.of([*rows, *judge(rows)])
    record.write(path)
    drawn = draw(record.rows)
    figures = {name: config.report / f"synthetic_{name}.png" for name in drawn}
    for name, file in figures.items():
        drawn[name].savefig(file)
    text = markdown(record, config, {name: file.name for name, file in figures.items()})
    (config.report / "synthetic.md").write_text(text)
    say(findings([row for row in record.rows if row["part"] == "findings"]))
    if track:
        log_run(config, record, figures.values(), text)
    say(f"wrote {path}, {path.with_suffix('.md')} and {len(figures)} figures")


def log_run(config: SyntheticConfig, record: Record, figures: Iterable[Path], text: str) -> None:
    """One MLflow run: a metric for every cell, the curves by step, report and figures."""
    tracking = config.tracking.model_copy(update={"run_name": config.tracking.run_name or "synthetic"})
    directory = config.output / time.strftime("%Y%m%d-%H%M%S")
    tags = {"git.revision": record.revision, "study": "synthetic", "machine": record.machine}
    with Run.open(tracking, directory, config.model_dump(mode="json"), tags=tags) as run:
        for row in record.rows:
            if row["part"] == "findings":
                continue
            prefix = f"{row['part']}/{row['model']}/p{row['p']:g}"
            numbers = {key: value for key, value in row.items() if key.endswith(("_best", "_mean", "_std"))}
            run.log_metrics({f"{prefix}/{k}": v for k, v in numbers.items() if isinstance(v, float)}, 0)
            for step, loss in zip(row.get("curve_step", ()), row.get("curve_loss_mean", ()), strict=True):
                run.log_metrics({f"{prefix}/loss": loss}, step)
        for figure in figures:
            run.log_figure(figure)
        run.log_text("synthetic.json", (config.report / "synthetic.json").read_text())
        run.log_card(text)
