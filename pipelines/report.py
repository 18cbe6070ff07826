"""Report: what a run directory and the registry hold, in a form to read."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from pydantic import ValidationError

from pipelines.job import job, say
from pipelines.release import RunReport
from ranking.config import RunConfig
from ranking.errors import InputError
from ranking.metrics import auc_table
from ranking.tracking.delivery import Identity
from ranking.tracking.redact import redact_text
from ranking.tracking.registry import Registry


def report(config: RunConfig) -> None:
    """Print the AUC@N-steps table, the test metrics, and where run and model are to be found."""
    found = read_report(config.output / "report.json")
    say(f"AUC@N-steps on validation, best at step {found.step}\n\n{auc_table(found.history)}")
    say(f"\nTest, step {found.step}\n\n{auc_table([found])}\n")
    identity = Identity.load(config.output / "tracking")
    registry = Registry(config.tracking.uri, config.registry.name)
    champion, challenger = registry.champion(), registry.challenger()
    uri = redact_text(config.tracking.uri)
    say(f"run       {config.name} {identity.run_id if identity else '(not tracked)'}, files in {config.output}")
    say(f"model     {registry.name}: champion {champion or 'none'}, challenger {challenger or 'none'}")
    say(f"figures   {config.output / 'figures'}")
    say(f"MLflow    {shlex.quote(sys.executable)} -m mlflow ui --backend-store-uri {shlex.quote(uri)}")


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
