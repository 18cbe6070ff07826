"""A night in MLflow: a run of its own with outcome, reason and report, and the outcome on the run that trained."""

from __future__ import annotations

from pathlib import Path

from pipelines.nightly.night import Night
from pipelines.nightly.pages import headline
from ranking.config import RunConfig
from ranking.tracking.runs import Run, replay


def track(night: Night, config: RunConfig, page: Path) -> int:
    """Log the night, through the spool: an outage of MLflow delays it, and loses nothing.

    Returns:
        Number of events, of the night and of its training, that MLflow has not taken yet; they wait for the next call.
    """
    folder = config.output / night.day.isoformat()
    left, training = _log(night, folder, config, page), folder / "run"
    if night.outcome == "stopped" or not (training / "tracking" / "run.json").exists():
        return left  # whoever sent SIGTERM does not wait; the training's own events follow with the next call
    named = config.tracking.run_name or f"{config.name}-{night.day}"
    return left + replay(config.tracking.model_copy(update={"run_name": named}), training)


def _log(night: Night, folder: Path, config: RunConfig, page: Path) -> int:
    """What stays of the night's own run."""
    tracking = config.tracking.model_copy(update={"run_name": f"{config.name} night {night.day}"})
    if night.tracked:
        return replay(tracking, folder)
    settings = {"date": str(night.day), "retrain": config.retrain.model_dump(mode="json")}
    with Run.open(tracking, folder, settings, tags=tags(night)) as run:
        run.log_metrics(metrics(night), night.day.toordinal())
        run.log_text("report.html", page.read_text())
        return run.stop() if night.outcome == "stopped" else run.finish("FINISHED" if night.finished else "FAILED")


def tags(night: Night) -> dict[str, str]:
    """What a search over runs finds a night by."""
    found = {
        "retrain.date": str(night.day),
        "retrain.outcome": str(night.outcome),
        "retrain.reason": night.reason,
        "retrain.run_id": night.run_id,
        "retrain.version": "" if night.version is None else str(night.version),
        "retrain.champion": "" if night.champion is None else str(night.champion),
    }
    told = {"mlflow.note.content": f"**{headline(night)}** {night.reason}"}  # the run's description
    return {key: value for key, value in found.items() if value} | told


def metrics(night: Night) -> dict[str, float]:
    """AUC (R^2) of both models by task, and the time of every stage."""
    found: dict[str, float | None] = {f"seconds/{stage}": seconds for stage, seconds in night.seconds.items()}
    for duel in night.duels:
        found[f"challenger/{duel.task}/{duel.metric}"] = duel.challenger.value
        found[f"champion/{duel.task}/{duel.metric}"] = duel.champion.value if duel.champion else None
    return {name: value for name, value in found.items() if value is not None}
