"""Trains a grid of runs one after another; a finished run is read, a killed one goes on where it was."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from pipelines.fit import Fit
from pipelines.release import score_best, write_report
from pipelines.report import read_report
from pipelines.run_directory import RunReport
from pipelines.run_figures import draw
from pipelines.studies.architectures.config import REFERENCE, ArchitecturesConfig
from pipelines.train import open_run
from ranking.config import RunConfig
from ranking.distributed.world import World
from ranking.errors import EXIT_STOPPED, ReportedError
from ranking.metrics import Predictions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        model: name in the grid.
        seed: of weights, order of examples and dropout.
        config: the run's own.
        report: test metrics of the best checkpoint, and every validation report.
        predictions: of the best checkpoint on the test rows, see `conditional`.
    """

    model: str
    seed: int
    config: RunConfig
    report: RunReport
    predictions: Predictions


def train_grid(config: ArchitecturesConfig, world: World) -> Iterator[Trained]:
    """Every run of the grid, seed by seed, so that a study that is stopped has whole seeds.

    Raises:
        InputError: a model's sections do not fit; before anything is trained.
    """
    runs = [(model, seed, config.run(model, seed)) for seed in config.grid.seeds for model in config.grid.models]
    reference = config.run(REFERENCE, config.grid.seeds[0]).schema
    given = [task.name for task in reference.tasks if task.given == "click"]
    for number, (model, seed, run) in enumerate(runs, 1):
        if not (run.output / "report.json").exists():
            log.info("run %d of %d: %s", number, len(runs), run.name)
            _train(run, world)
        report, found = read_report(run.output / "report.json"), _read(run.output / "predictions.npz")
        yield Trained(model, seed, run, report, conditional(found, given) if run.model.type == "esmm" else found)


def conditional(found: Predictions, given_click: Collection[str]) -> Predictions:
    """An entire-space model's conversions as those of the others: given the click, and judged among clicks.

    ESMM predicts click & conversion over all exposures; divided by the click's prediction that is the conversion's
    probability given the click, and the label among clicks is the conversion itself.

    Args:
        found: its predictions, the click's among them.
        given_click: tasks that the other models learn among clicks.
    """
    click = found.names.index("click")
    clicked = found.in_space[:, [click]] & (found.labels[:, [click]] == 1)
    given = np.isin(found.names, list(given_click))
    share = (found.scores / found.scores[:, [click]].clip(min=1e-12)).clip(0, 1)
    return replace(
        found,
        scores=np.where(given, share, found.scores),
        in_space=np.where(given, found.in_space & clicked, found.in_space),
    )


def _train(config: RunConfig, world: World) -> None:
    fit = Fit(config, world)
    with open_run(config, fit.manifest, world) as run:
        if not fit.train(run):
            run.stop()
            log.warning("stopped after a commit; run the same command again to resume")
            raise ReportedError(EXIT_STOPPED)
        best, found = score_best(fit.parts, fit.state, fit.checkpoints, fit.parts.manifest("test"))
        if found.predictions is None:
            raise RuntimeError("a study is run by one process")
        draw(fit.parts, found, fit.state, run)
        run.log_metrics({f"test/{name}": value for name, value in found.report.metrics().items()}, best.step)
    _write(config.output / "predictions.npz", found.predictions)
    write_report(fit.parts, best, found, fit.state)  # last: it marks the run as finished


def _write(path: Path, found: Predictions) -> None:
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    np.savez_compressed(path, **{name: np.asarray(value) for name, value in values.items() if value is not None})


def _read(path: Path) -> Predictions:
    with np.load(path, allow_pickle=False) as file:
        values = {name: file[name] for name in file.files}
    names, kinds = (tuple(values.pop(name).tolist()) for name in ("names", "kinds"))
    return Predictions(names=names, kinds=kinds, **values)
