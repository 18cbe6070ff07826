"""What a study leaves: `best.yaml` to train with, every trial as JSON, figures, and the MLflow run above its trials."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from matplotlib import rc_context
from matplotlib.figure import Figure
from optuna.exceptions import ExperimentalWarning
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from pipelines.job import say
from pipelines.tuning.study import best, locked
from ranking.config import RunConfig, overlay
from ranking.files import write_atomically
from ranking.redact import redact
from ranking.tracking.runs import Run, git_revision

_SHOWN = 5
_RUN_ID = "mlflow.run_id"


def begin(study: Study, config: RunConfig, directory: Path) -> str:
    """Open the MLflow run above the trials, once.

    Returns:
        Its id; "" while MLflow is out of reach: trials then have no run above them.
    """
    if not study.user_attrs.get(_RUN_ID):
        run = _run(config, directory)
        run.finish("RUNNING")
        study.set_user_attr(_RUN_ID, run.run_id)
    return str(study.user_attrs[_RUN_ID])


def publish(
    study: Study, config: RunConfig, directory: Path, label: str, fixed: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Write, log and show what was found; every worker does so when the study is over, the last one's stays.

    Args:
        study: with all trials.
        config: what was searched around.
        directory: of the study.
        label: name of the objective.
        fixed: settings of the overlay that were not searched, by path.

    Raises:
        InputError: no trial finished.
    """
    chosen = best(study)
    rows = [_row(config, trial) for trial in study.get_trials(deepcopy=False)]
    with locked(directory), _run(config, directory) as run:
        head = f"# Trial {chosen.number} of {len(rows)}: {label} {chosen.value:.6g} on validation.\n"
        text = head + yaml.safe_dump(overlay(config, {**fixed, **changes(config, chosen)}), sort_keys=False)
        _keep(run, directory, "best.yaml", text)
        _keep(run, directory, "trials.json", json.dumps(redact(rows), indent=1) + "\n")
        folder = directory / "figures"
        folder.mkdir(exist_ok=True)
        for name, figure in draw(study, label).items():
            figure.savefig(folder / f"{name}.png", bbox_inches="tight")  # paths are long labels
            run.log_figure(folder / f"{name}.png")
        for row in rows:
            if row["value"] is not None:
                run.log_metrics({label: row["value"]}, row["trial"])
        run.log_metrics({f"best/{label}": float(chosen.value or 0)}, chosen.number)
    _show(rows, config, directory, label)


def changes(config: RunConfig, trial: FrozenTrial) -> dict[str, Any]:
    """What a trial tried, by dotted path, as YAML holds it."""
    space = config.tune.space
    return {path: space[path].values[v] if space[path].choices else v for path, v in trial.params.items()}


def draw(study: Study, label: str) -> dict[str, Figure]:
    """History, influence of every setting, and how the objective depends on it."""
    import optuna.visualization.matplotlib as visual  # takes a second
    from matplotlib import pyplot

    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    plots = {"history": visual.plot_optimization_history}
    if len({tuple(trial.params.values()) for trial in finished}) > 1:
        plots |= {"slices": visual.plot_slice, "importances": visual.plot_param_importances}
        plots |= {"parallel": visual.plot_parallel_coordinate}
    if any(trial.intermediate_values for trial in finished):
        plots["evaluations"] = visual.plot_intermediate_values
    drawn, short = {}, _short(finished)
    with warnings.catch_warnings(), rc_context({"figure.dpi": 120}):
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "Attempting to set identical")  # trials that differ in other settings
        for name, plot in plots.items():
            named = {} if name == "evaluations" else {"target_name": label}
            axes = plot(study, **named)
            drawn[name] = (axes if hasattr(axes, "figure") else axes.flat[0]).figure
            if name == "parallel":
                drawn[name].axes[0].set_xticklabels([label, *short.values()])
            for each in drawn[name].axes:  # of slices
                each.set_xlabel(short.get(each.get_xlabel(), each.get_xlabel()))
            pyplot.close(drawn[name])
    return drawn


def _short(trials: Sequence[FrozenTrial]) -> dict[str, str]:
    """The end of every setting's path: optuna cuts that off, and whole paths run into each other."""
    paths = sorted({path for trial in trials for path in trial.params})
    return {path: ".".join(path.split(".")[-2:]) for path in paths}


def _run(config: RunConfig, directory: Path) -> Run:
    """The run above the trials; its spool lies in the study's directory."""
    tracking = config.tracking.model_copy(update={"run_name": f"{config.tracking.run_name or config.name}-tune"})
    tags = {"git.revision": git_revision(), "tune.target": config.tune.target}
    return Run.open(tracking, directory, config.model_dump(mode="json"), tags=tags)


def _keep(run: Run, directory: Path, name: str, text: str) -> None:
    write_atomically(directory / name, text.encode())
    run.log_text(name, text)


def _row(config: RunConfig, trial: FrozenTrial) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value,
        "values": changes(config, trial),
        "evaluations": {str(step): value for step, value in sorted(trial.intermediate_values.items())},
        "error": trial.user_attrs.get("error"),
    }


def _show(rows: list[Mapping[str, Any]], config: RunConfig, directory: Path, label: str) -> None:
    ranked = sorted((row for row in rows if row["state"] == "complete"), key=lambda row: row["value"])
    say(f"{label} on validation, {len(rows)} trials\n")
    for row in ranked[:_SHOWN] if config.tune.better == "minimize" else ranked[: -_SHOWN - 1 : -1]:
        say(f"{row['value']:.5f}  trial {row['trial']}  {json.dumps(row['values'])}")
    say(f"\nthe best as an overlay: -c {directory / 'best.yaml'}")
