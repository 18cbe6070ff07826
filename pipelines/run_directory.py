"""What a finished run leaves in its directory for other jobs: its report, and the manifests it was made on."""

from __future__ import annotations

from pathlib import Path

from ranking.config import RunConfig
from ranking.data.manifest import Manifest, read_manifest
from ranking.data.quarantine import Damage
from ranking.files import write_atomically
from ranking.metrics import EvaluationReport


class RunReport(EvaluationReport):
    """`report.json`: test metrics of the best checkpoint, and how it came to be.

    Attributes:
        history: validation reports, one for each evaluated step.
        gates: mean softmax weight `[K][n]` of every gate and expert on the test rows, by module.
        checkpoint: name of the checkpoint.
        quarantined: damaged row groups that were left out.
    """

    history: tuple[EvaluationReport, ...]
    gates: dict[str, list[list[float]]]
    checkpoint: str
    quarantined: tuple[Damage, ...] = ()


def keep(config: RunConfig, report: RunReport) -> None:
    """Write `report.json`."""
    write_atomically(config.output / "report.json", (report.model_dump_json(indent=2) + "\n").encode())


def pin(config: RunConfig, manifest: Manifest, split: str = "test") -> None:
    """Keep a manifest: the test split's is what promotion scores on, the other two splits' what a run resumes on."""
    write_atomically(pinned(config, split), manifest.model_dump_json().encode())


def pinned(config: RunConfig, split: str = "test") -> Path:
    """Where a run's pinned manifest lies."""
    return config.output / "manifests" / f"{split}.json"


def require_pinned(config: RunConfig, manifest: Manifest, split: str) -> bool:
    """Refuse to resume a run on other data than it began with.

    Returns:
        Whether a manifest is pinned.

    Raises:
        InputError: a file changed, is gone or was added.
    """
    file = pinned(config, split)
    if file.exists():
        manifest.require(read_manifest(file))
    return file.exists()
