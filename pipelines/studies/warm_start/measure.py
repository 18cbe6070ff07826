"""Trains every arm day by day and scores it on the next day: all rows, and rows of ids that came later."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.fit import Fit
from pipelines.job import say
from pipelines.prepare import prepare
from pipelines.studies.record import Row
from pipelines.studies.warm_start.config import WarmStartStudyConfig
from ranking.data.growth import shifts
from ranking.data.transforms import Transforms
from ranking.distributed.world import World, join
from ranking.errors import EXIT_STOPPED, InputError, ReportedError
from ranking.metrics import Predictions
from ranking.metrics.significance import Difference, delong, paired_delong
from ranking.tracking.runs import NullRun

Masks = dict[str, npt.NDArray[np.bool_]]

IDS = {"user": "user_id", "video": "video_id"}


@dataclass(frozen=True)
class Cost:
    """What bringing an arm's model up to a day took: transforms, training, one evaluation and checkpoint.

    Attributes:
        wall_s: seconds.
        cpu_s: processor seconds of this process.
        trained: rows, repeats counted.
    """

    wall_s: float
    cpu_s: float
    trained: int


def measure(config: WarmStartStudyConfig) -> Iterator[Row]:
    """Rows of two parts: `tables`, how the ids grew, and `days`, how every arm did on the day after."""
    days = _write_days(config)
    ids = _Ids(days, str(config.first))
    with join("cpu") as world:
        for day in config.days:
            scored = day + timedelta(days=1)
            found = {arm: brought_up(config, arm, day, scored, world) for arm in config.arms}
            fitted = {arm: _fitted(config, arm, day) for arm in (config.reference, config.growing)}
            yield {"part": "tables", "day": str(day), **growth(fitted[config.reference], fitted[config.growing])}
            new = _new_keys(_fitted(config, config.growing, config.first), fitted[config.growing])
            masks = ids.masks(str(scored), new)
            for arm, (said, cost) in found.items():
                rival, _ = found[config.rival(arm)]
                for part, mask in masks.items():
                    head = {"part": "days", "arm": arm, "day": str(scored), "slice": part}
                    size = {"rows": int(mask.sum()), "share": float(mask.mean())}
                    yield head | size | scores(said, rival, mask, config.tasks) | vars(cost)


def brought_up(
    config: WarmStartStudyConfig, arm: str, day: date, scored: date, world: World
) -> tuple[Predictions, Cost]:
    """An arm's model of a day, trained unless it is there: what it says about the day scored, and what it took."""
    run, folder = config.run(arm, day, scored), config.folder(arm, day)
    began = time.perf_counter(), time.process_time()
    note = folder / "cost.json"
    if not note.exists() and run.data.transforms == str(folder / "transforms"):
        prepare(config.window_of(run, day))
    fit = Fit(run, world)
    if not fit.train(NullRun()):
        say("stopped after a commit; run the same command again to resume")
        raise ReportedError(EXIT_STOPPED)
    if not note.exists():
        spent = time.perf_counter() - began[0], time.process_time() - began[1]
        cost = Cost(*spent, fit.state.progress.step * run.data.batch_size)
        note.write_text(json.dumps(vars(cost)))
        say(f"{run.name}: {cost.trained} rows, {cost.cpu_s:.1f} s of a processor")
    return _predictions(fit), Cost(**json.loads(note.read_text()))


def _predictions(fit: Fit) -> Predictions:
    found = fit.parts.evaluate(fit.validation, fit.state, fit.state.progress.step).predictions
    assert found is not None  # a world of one
    return found


def scores(said: Predictions, rival: Predictions, mask: npt.NDArray[np.bool_], tasks: tuple[str, ...]) -> Row:
    """AUC of every task on a slice's rows in its space, and the gain over a rival, with 95 % intervals."""
    found: Row = {}
    order, others = np.argsort(said.rows), np.argsort(rival.rows)
    for task in tasks:
        place = said.names.index(task)
        rows = mask & said.in_space[order, place]
        labels = said.labels[order, place][rows]
        own, other = said.scores[order, place][rows], rival.scores[others, place][rows]
        found[f"{task}_positives"] = int(labels.sum())
        auc, gain = delong(own, labels), paired_delong(other, own, labels)
        for name, interval in ((f"{task}_auc", auc), (f"{task}_gain", gain)):
            found |= _spelled(name, interval)
    return found


def _spelled(name: str, found: tuple[float, float, float] | Difference | None) -> Row:
    value, low, high = (None, None, None) if found is None else found[:3]
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def growth(own: Transforms, kept: Transforms) -> Row:
    """Keys of growing id tables, and the number that left its kept scaling farthest, by what fits the newest days."""
    keys = {f"{name}_keys": len(kept.vocabularies[column]) for name, column in IDS.items()}
    farthest = shifts(own, kept)[0]
    return {**keys, "farthest": farthest.feature, "mean_shift": farthest.mean, "spread": farthest.spread}


def _fitted(config: WarmStartStudyConfig, arm: str, day: date) -> Transforms:
    return Transforms.load(str(config.folder(arm, day) / "transforms"))


def _new_keys(before: Transforms, now: Transforms) -> dict[str, pa.Array]:
    """Keys that got rows in between; known ones stand first."""
    return {name: now.vocabularies[key].slice(len(before.vocabularies[key])) for name, key in IDS.items()}


class _Ids:
    """Users and videos of every day, and the day each was seen first."""

    def __init__(self, days: Path, start: str) -> None:
        self.start = start
        columns = list(IDS.values())
        self.days = {
            folder.name.removeprefix("day="): pq.read_table(folder, columns=columns).to_pandas()
            for folder in sorted(days.glob("day=*"))
        }
        rows = pd.concat([frame.assign(day=day) for day, frame in self.days.items()])
        self.first = {name: rows.groupby(column)["day"].min() for name, column in IDS.items()}

    def masks(self, day: str, new: Mapping[str, pa.Array]) -> Masks:
        """Rows `[N]` of a day by slice: all; ids never seen before; ids later than the first models; `new` ids."""
        frame = self.days[day]
        masks = {"all": np.ones(len(frame), np.bool_)}
        for name, column in IDS.items():
            first = frame[column].map(self.first[name])
            masks[f"{name}s of the day"] = (first == day).to_numpy()
            masks[f"{name}s since the start"] = (first > self.start).to_numpy()
            masks[f"{name}s given rows since"] = frame[column].isin(new[name].to_numpy()).to_numpy()
        return masks


def _write_days(config: WarmStartStudyConfig) -> Path:
    """The data set, one directory a day; written once."""
    preparing = config.run(config.reference, config.first, config.last).prepare
    if preparing is None:
        raise InputError("base: no `prepare` section; expected one that writes a directory a day")
    if not (config.output / "prepared").exists():
        preparing.run()
        (config.output / "prepared").touch()
    return preparing.output
