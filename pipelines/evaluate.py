"""Evaluate: metrics of a registered model on a split, in the sample spaces and over the entire space."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.job import job, say
from pipelines.offline import predict
from pipelines.score import load, model_uri
from ranking.config import RunConfig
from ranking.data.loader import Split
from ranking.errors import InputError
from ranking.metrics import auc_table, evaluate_predictions
from ranking.promotion.registry import Registry

Model = Annotated[str, typer.Option(help="champion, challenger, previous_champion, or the number of a version.")]
SplitOption = Annotated[Split, typer.Option(help="Split of the `data` section.")]
Output = Annotated[Path | None, typer.Option(help="JSON file for the whole EvaluationReport.")]


def evaluate(config: RunConfig, model: Model = "champion", split: SplitOption = "test", output: Output = None) -> None:
    """Evaluate a registered model on a split of the configuration's data."""
    if output is not None and not output.parent.is_dir():
        raise InputError(f"--output: got {output}; expected a file in a directory that exists")
    urls = config.data.urls(split)
    uri = model_uri(Registry.open(config.tracking.uri, config.registry.name), model)
    rows = config.data.manifest(urls, config.schema.columns(), f"data.{split}")
    ranker = load(uri)
    found = predict(ranker, rows, config)
    settings = config.evaluation
    step = int(str(ranker.description.metadata.get("step", 0)))
    report = evaluate_predictions(found, step, settings.min_positives, settings.confidence)
    say(f"{uri} on {split}, {rows.rows} rows\n\n{auc_table([report])}")
    if output is not None:
        output.write_text(report.model_dump_json(indent=2) + "\n")


main = job(evaluate)

if __name__ == "__main__":
    main()
