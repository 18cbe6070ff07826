"""Doctor: look at configuration, data and transforms before any training."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.job import job, say
from ranking.config import RunConfig
from ranking.data.checks import examine
from ranking.data.transforms import Transforms
from ranking.errors import EXIT_INPUT

Limit = Annotated[int | None, typer.Option(min=1, help="Rows read of each split; all when left out.")]

Full = Annotated[bool, typer.Option("--full", help="Show every feature, drift and all notes.")]


def doctor(config: RunConfig, limit: Limit = None, full: Full = False) -> int | None:
    """Check that the data fits the configuration: types, labels, sample spaces, ids, drift.

    Exit code 2 where training or promotion would fail; warnings and notes leave 0.
    """
    schema, data = config.schema, config.data
    transforms = Transforms.load(data.transforms, schema)
    manifests = {
        split: data.manifest(getattr(data, split), schema.columns(), f"data.{split}")
        for split in ("train", "validation", "test")
        if getattr(data, split)
    }
    report = examine(schema, transforms, {name: data.raw_rows(m) for name, m in manifests.items()}, limit)
    say(report.render(full))
    if not full:
        notes = sum(finding.level == "note" for finding in report.findings)
        say(f"\n{'no error' if report.healthy else 'errors'}; --full shows every feature and {notes} notes")
    return None if report.healthy else EXIT_INPUT


main = job(doctor)

if __name__ == "__main__":
    main()
