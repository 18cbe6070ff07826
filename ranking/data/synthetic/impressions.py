"""A log of impressions of any size, drawn from a `Population` in one pass and in memory that does not grow with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import Field

from ranking.data.synthetic.draws import Bools, Floats, Ints, uniform
from ranking.data.synthetic.features import FeatureConfig, Features, History
from ranking.data.synthetic.population import Population, PopulationConfig
from ranking.data.writer import WriterConfig, write_dataset

PARTITION = "day"


class ImpressionsConfig(WriterConfig):
    """A log over a population.

    Columns: those of `Features`, the labels `click`, `like` (0 without a click) and `watch_s` (0 without a click),
    and with `truth` the probabilities `p_click` and `p_like` (of a like given a click), which are never features.
    """

    rows: int = Field(10_000_000, ge=1)
    days: int = Field(14, ge=1)
    first_day: date = date(2024, 1, 1)
    truth: bool = Field(True, description="Add the true probabilities, from which the attainable AUC follows.")
    seed: int = Field(0, ge=0, description="Of what happens; the population has a seed of its own.")
    chunk_rows: int = Field(131_072, ge=1, description="Rows drawn at a time, and of a file; sets memory, no value.")
    population: PopulationConfig = PopulationConfig()
    features: FeatureConfig = FeatureConfig()

    def pieces(self) -> Iterator[tuple[int, Ints]]:
        """Every chunk's day, counted from 0, and row numbers `[N]`; requests are never cut by midnight."""
        slate = self.population.slate
        midnights = -(-self.rows // slate) * np.arange(self.days + 1) // self.days * slate
        for day, (start, stop) in enumerate(pairwise(midnights.tolist())):
            last = min(stop, self.rows)
            for first in range(start, last, self.chunk_rows):
                yield day, np.arange(first, min(first + self.chunk_rows, last))


@dataclass(frozen=True)
class Exposures:
    """What was shown and what happened, N rows in order of time.

    Attributes:
        day: counted from 0; the same for all rows.
        users, items, positions: `[N]` who was shown what, and where.
        clicks, likes: `[N]` bool; a like needs a click.
        watch_s: `[N]` seconds; 0 without a click.
        p_click, p_like: `[N]` true probabilities, the latter given a click.
    """

    day: int
    users: Ints
    items: Ints
    positions: Ints
    clicks: Bools
    likes: Bools
    watch_s: Floats
    p_click: Floats
    p_like: Floats


def write_impressions(output: Path, config: ImpressionsConfig) -> None:
    """Write `<output>/day=<yyyy-mm-dd>/part-<i>.parquet`, the days' rows in order of time.

    Args:
        output: new directory.
        config: everything about the log.

    Raises:
        InputError: `output` is not empty and `config.overwrite` is false.
    """
    write_dataset(impressions(config), output, PARTITION, config)


def impressions(config: ImpressionsConfig) -> Iterator[pa.Table]:
    """The log in order of time, a chunk at a time, with its partition column `day` (a string)."""
    population = Population(config.population)
    features = Features(population, config.features)
    history = History(config.population.users, config.features.history)
    for exposures in expose(population, config):
        history.turn_to(exposures.day)
        columns = features.columns(exposures.users, exposures.items, exposures.positions, history)
        history.add(exposures.users[exposures.clicks], exposures.items[exposures.clicks])
        yield pa.table(columns | _outcomes(exposures, config))


def replay(population: Population, config: ImpressionsConfig) -> History:
    """The users' histories as they are on the day after the log, without writing it."""
    history = History(config.population.users, config.features.history)
    for exposures in expose(population, config):
        history.add(exposures.users[exposures.clicks], exposures.items[exposures.clicks])
    history.turn_to(config.days)
    return history


def expose(population: Population, config: ImpressionsConfig) -> Iterator[Exposures]:
    """Draw the log without its features: users by activity, items by popularity at random positions."""
    for day, rows in config.pieces():
        requests, positions = np.divmod(rows, config.population.slate)
        first = requests[0]
        users = population.draw_users(config.seed, np.arange(first, requests[-1] + 1))[requests - first]
        yield _happen(population, day, (users, population.draw_items(config.seed, rows), positions), rows, config.seed)


def _happen(population: Population, day: int, shown: tuple[Ints, Ints, Ints], rows: Ints, seed: int) -> Exposures:
    p_click, p_like = population.probabilities(*shown)
    clicks = uniform(seed, "click", rows) < p_click
    likes = clicks & (uniform(seed, "like", rows) < p_like)
    watch_s = np.zeros(rows.size)
    users, items, _ = (column[clicks] for column in shown)
    watch_s[clicks] = population.watch_seconds(users, items, uniform(seed, "watch", rows[clicks]))
    return Exposures(day, *shown, clicks, likes, watch_s, p_click, p_like)


def _outcomes(exposures: Exposures, config: ImpressionsConfig) -> dict[str, pa.Array]:
    day = (config.first_day + timedelta(days=exposures.day)).isoformat()
    truth = {"p_click": exposures.p_click, "p_like": exposures.p_like} if config.truth else {}
    numbers = {"watch_s": exposures.watch_s, **truth}
    labels = {"click": exposures.clicks, "like": exposures.likes}
    return {
        **{name: pa.array(values.astype(np.int8)) for name, values in labels.items()},
        **{name: pa.array(values.astype(np.float32)) for name, values in numbers.items()},
        PARTITION: pa.repeat(day, exposures.clicks.size),
    }
