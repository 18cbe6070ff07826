"""A cell's runs as a row of the study's JSON."""

from __future__ import annotations

import numpy as np

from pipelines.studies.census.cells import Result
from pipelines.studies.census.config import CensusStudyConfig
from pipelines.studies.census.train import Numbers
from pipelines.studies.record import Row

_DIGITS = 5  # of a run's AUC in the JSON


def row(config: CensusStudyConfig, group: str, model: str, result: Result) -> Row:
    """Best, mean and standard deviation over the runs, of both tasks, on test; the runs themselves beside them."""
    settings, names = config.groups[group], [task.name for task in config.groups[group].tasks]
    test, validation = np.array(result.test), np.array(result.validation)
    numbers: Row = {"part": "runs", "model": model, "group": settings.number, "runs": len(test)}
    for place, name in enumerate(names):
        numbers |= summary(name, test[:, place])
        if len(result.pooled) > 1:
            numbers |= summary(f"{name}_pooled", np.array(result.pooled)[:, place]) | {"pool": result.pool}
            numbers |= {f"{name}_pooled_runs": np.array(result.pooled)[:, place].round(_DIGITS).tolist()}
        numbers |= {f"{name}_validation_mean": float(validation[:, place].mean())}
        numbers |= {f"{name}_sampling": result.reach[place]} if result.reach else {}
    if result.trees:
        numbers |= dict(zip((f"{names[0]}_trees_validation", f"{names[0]}_trees_test"), result.trees, strict=True))
    numbers[f"{names[1]}_with_best"] = float(test[test[:, 0].argmax(), 1])
    numbers |= {"wanted": config.runs, "trials": result.trials, "seconds": round(result.seconds, 1)}
    numbers |= {"revision": result.revision, "machine": result.machine}
    numbers |= {f"{name}_runs": test[:, place].round(_DIGITS).tolist() for place, name in enumerate(names)}
    return numbers | {"settings": result.settings}


def summary(name: str, values: Numbers) -> Row:
    """Under the names of the studies' JSON; the spread of a single run is 0."""
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return {f"{name}_best": float(values.max()), f"{name}_mean": float(values.mean()), f"{name}_std": spread}
