"""Every figure of a finished run, drawn from what its evaluations found."""

from __future__ import annotations

from typing import Any

from pipelines.assembly import Assembly
from ranking.metrics import Predictions, reliability_curve
from ranking.tracking import figures
from ranking.tracking.runs import NullRun
from ranking.tracking.sharing import expert_health
from ranking.training.evaluate import Evaluation
from ranking.training.state import TrainState


def draw(parts: Assembly, found: Evaluation, state: TrainState, run: NullRun) -> None:
    """Every figure of the run, into MLflow and `figures/`."""
    history = [entry.model_dump() for entry in state.progress.history]
    drawn = {"auc_at_n_steps": figures.auc_curves(history)}
    drawn |= {f"experts_{name.replace('.', '_')}": expert_health(history, name) for name in found.report.experts}
    for name, weights in found.gates.items():
        tasks = parts.config.schema.task_names if len(weights) > 1 else ("all tasks",)
        drawn[f"gates_{name.replace('.', '_')}"] = figures.gate_distribution(dict(zip(tasks, weights, strict=True)))
    if found.predictions is not None:
        scored = _scored(found.predictions)
        drawn["calibration"] = figures.calibration(_curves(scored))
        drawn["scores"] = figures.histograms(scored)
    folder = parts.config.output / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        figure.savefig(folder / f"{name}.png")
        run.log_figure(folder / f"{name}.png")


def _scored(found: Predictions) -> dict[str, figures.TaskScores]:
    scored = {}
    for i, (name, kind) in enumerate(zip(found.names, found.kinds, strict=True)):
        inside = found.in_space[:, i]
        scored[name] = figures.TaskScores(kind, found.labels[inside, i], found.scores[inside, i])
    return scored


def _curves(scored: dict[str, figures.TaskScores]) -> dict[str, Any]:
    curves = {
        name: reliability_curve(entry.scores, entry.labels) for name, entry in scored.items() if entry.kind == "binary"
    }
    return {name: (c.mean_score, c.mean_label, c.rows) for name, c in curves.items() if c is not None}
