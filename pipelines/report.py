"""Report: what a run directory and the registry hold, in a form to read."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from pipelines.job import job, say
from pipelines.run_directory import RunReport
from ranking.config import RunConfig
from ranking.errors import InputError
from ranking.metrics import auc_table
from ranking.promotion.registry import Registry
from ranking.redact import redact_text
from ranking.tracking.delivery import RunIdentity

Publish = Annotated[Path | None, typer.Option(help="Directory for a copy: report.json, auc.md and the figures.")]


def report(config: RunConfig, publish: Publish = None) -> None:
    """Print the AUC@N-steps table, the test metrics, and where run and model are to be found."""
    found = read_report(config.output / "report.json")
    registry = Registry.open(config.tracking.uri, config.registry.name)
    say(f"AUC@N-steps on validation, best at step {found.step}\n\n{auc_table(found.history)}")
    say(f"\nTest, step {found.step}\n\n{auc_table([found])}\n")
    if publish is not None:
        copy(found, config.output, publish)
    identity = RunIdentity.load(config.output / "tracking")
    champion, challenger = registry.champion(), registry.challenger()
    uri = redact_text(config.tracking.uri)
    say(f"run       {config.name} {identity.run_id if identity else '(not tracked)'}, files in {config.output}")
    say(f"model     {registry.name}: champion {champion or 'none'}, challenger {challenger or 'none'}")
    say(f"figures   {config.output / 'figures'}")
    say(f"MLflow    {shlex.quote(sys.executable)} -m mlflow ui --backend-store-uri {shlex.quote(uri)}")


def copy(found: RunReport, run: Path, target: Path) -> None:
    """What documents quote, beside the file it comes from."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "report.json", target)
    (target / "auc.md").write_text(markdown(found))
    for figure in sorted((run / "figures").glob("*.png")):
        shutil.copy(figure, target)


def markdown(found: RunReport) -> str:
    """The two tables of a report as Markdown."""
    history, test = auc_table(found.history, markdown=True), auc_table([found], markdown=True)
    return f"Validation, by optimizer steps:\n\n{history}\n\nTest, best checkpoint:\n\n{test}\n"


def read_report(path: Path) -> RunReport:
    """The test report of the best checkpoint and the validation history, as `train` wrote them.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        return RunReport.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no report; expected the one that `train` writes at the end") from None
    except ValidationError:
        raise InputError(f"{path}: not a report; expected the one that `train` writes") from None


main = job(report)

if __name__ == "__main__":
    main()
