"""From a finished run to a registered challenger: test report, artefact, model version."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

import numpy as np

from pipelines.assembly import Assembly
from pipelines.run_directory import RunReport, keep
from ranking.data.manifest import Manifest
from ranking.distributed.collectives import collective_error, on_rank_zero
from ranking.promotion.registry import Registry
from ranking.serving.artefact import export
from ranking.tracking.card import CardData, CardFacts, model_card
from ranking.tracking.runs import git_revision
from ranking.training.checkpoint import Checkpoints, read_model
from ranking.training.commits import Commit
from ranking.training.evaluate import Evaluation
from ranking.training.state import TrainState

log = logging.getLogger(__name__)

_SAMPLE_ROWS = 4096


def score_best(
    parts: Assembly, state: TrainState, checkpoints: Checkpoints, test: Manifest
) -> tuple[Commit, Evaluation]:
    """Evaluate the best checkpoint on the test manifest, by all ranks.

    Raises:
        InputError: no evaluation had a defined score, so no checkpoint can be called the best.
    """
    best = on_rank_zero(checkpoints.best, parts.world)
    if best is None:
        raise collective_error(
            "evaluation.best: undefined at every step; expected both classes in validation", parts.world
        )
    checkpoints.load(state, best)
    return best, parts.evaluate(test, state, best.step)


def write_report(parts: Assembly, best: Commit, found: Evaluation, state: TrainState) -> None:
    """Write `report.json` of the run directory."""
    report = RunReport(
        **dict(found.report),
        history=state.progress.history,
        gates={name: weights.tolist() for name, weights in found.gates.items()},
        checkpoint=best.attempt,
        quarantined=parts.damage(),
    )
    keep(parts.config, report)


def describe(parts: Assembly, manifest: Manifest, best: Commit, state: TrainState) -> str:
    """The model card."""
    config = parts.config
    name = config.registry.name
    facts = CardFacts(
        name=name,
        tasks=config.schema.tasks,
        data=CardData(name=config.name, digest=manifest.digest, rows=manifest.rows),
        settings=config.model_dump(mode="json", include={"model", "optimizer", "training"}),
        history=tuple(entry.model_dump(mode="json") for entry in state.progress.history),
        best_step=best.step,
        usage=f'import mlflow\nmlflow.pyfunc.load_model("models:/{name}@champion").predict(frame)',
        revision=git_revision(),
    )
    return model_card(facts)


def register(parts: Assembly, checkpoints: Checkpoints, best: Commit, test: Manifest, run_id: str) -> tuple[int, bool]:
    """Package the best checkpoint and propose it as the challenger; what the registry holds already is found there.

    Returns:
        The version's number, and whether it is new.
    """
    import mlflow  # takes seconds, and only rank 0 needs it

    from ranking.serving.packaging import log_model

    config = parts.config
    metadata = {"step": best.step, "run_id": run_id, "checkpoint": best.attempt, "test_manifest": test.digest}
    fusion = hashlib.sha256(config.fusion.model_dump_json().encode()).hexdigest()
    tags = {key: str(value) for key, value in {**metadata, "fusion": fusion}.items()}
    registry = Registry(config.tracking.uri, config.registry.name)
    known = registry.find(tags)
    if known is not None:
        if not (known.aliases or known.status or known.promoted_at):
            registry.propose(known.version)  # the process died between the two calls below
        return known.version, False
    tensors = read_model(checkpoints.directory, best)
    artefact = export(
        config.output / "artefact", config.schema, config.model, parts.transforms, tensors, config.fusion, metadata
    )
    mlflow.set_tracking_uri(config.tracking.uri)
    info = log_model(artefact, _sample(parts, test), run_id, best.step)
    version = registry.register(info.model_uri, run_id, tags)
    registry.propose(version)
    return version, True


def _sample(parts: Assembly, manifest: Manifest) -> Any:
    rows = int(min(manifest.row_groups[manifest.row_groups > 0][0], _SAMPLE_ROWS))
    group = int(np.flatnonzero(manifest.row_groups)[0])
    return parts.config.data.decoder(manifest).read(np.array([[group, 0, rows]]))
