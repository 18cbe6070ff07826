"""Rankers side by side on the same simulated visits: who serves better, and how sure that is.

Every visit is served by every ranker, and all of them share its randomness: an item looked at in one visit is
clicked, and liked, by the same random numbers whoever shows it. Rankers then differ only where their lists do,
and the differences between them are estimated from pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from ranking.data.synthetic.draws import Floats, Ints, uniform
from ranking.data.synthetic.features import Features, History
from ranking.data.synthetic.population import Population
from ranking.schema import Frozen

Scorer = Callable[[pa.Table], npt.NDArray[np.floating]]
"""Scores `[N]` of a table of N candidates with the columns of `Features`, all at position 0; the largest come first."""


class TrafficConfig(Frozen):
    """Who comes, and what there is to choose from."""

    users: int = Field(10_000, ge=2, description="Different users, drawn by activity.")
    visits: int = Field(1, ge=1, description="Requests of each of them.")
    candidates: int = Field(100, ge=1, description="Items drawn for a request by popularity; repeats count once.")
    seed: int = Field(0, ge=0, description="Of the visits and their outcomes.")
    chunk_users: int = Field(1000, ge=1, description="Users served at a time; sets memory with visits and candidates.")


@dataclass(frozen=True)
class Served:
    """What one ranker's lists brought.

    Attributes:
        engagement: `[users]` clicks of each user, over all visits.
        satisfaction: `[users]` likes of each user.
    """

    engagement: Floats
    satisfaction: Floats


class Lift(NamedTuple):
    """Relative gain of one ranker's mean over another's, and its confidence interval; 0.01 is one per cent."""

    value: float
    low: float
    high: float


def simulate(
    rankers: Mapping[str, Scorer], population: Population, features: Features, history: History, config: TrafficConfig
) -> dict[str, Served]:
    """Serve the same visits with every ranker: each shows the `slate` best of a request's candidates, best first.

    Args:
        rankers: their scores, by name.
        population: whom they serve.
        features: what they see, the same as in the log they were trained on.
        history: the users' lists of that day, from `replay`.
        config: traffic.

    Returns:
        Clicks and likes by ranker, users in the same order for all.
    """
    found: dict[str, list[Floats]] = {name: [] for name in rankers}
    for visits in _visits(population, config):
        table = pa.table(features.columns(visits.who, visits.what, np.zeros_like(visits.what), history))
        for name, ranker in rankers.items():
            found[name].append(_outcomes(_best(ranker(table), visits), visits, population, config))
    totals = {name: np.concatenate(parts) for name, parts in found.items()}
    return {name: Served(*total.T) for name, total in totals.items()}


def lift(new: Floats, old: Floats, level: float) -> Lift | None:
    """Mean of `new` over that of `old`, less one, from pairs `[users]` (delta method).

    Args:
        new: outcome of each user under one ranker.
        old: of the same users under the other.
        level: coverage asked of the interval, in (0, 1).

    Returns:
        The gain and its interval; None where the old mean is zero.
    """
    base = old.mean()
    if base == 0:
        return None
    ratio = new.mean() / base
    error = np.std(new - ratio * old, ddof=1) / (base * math.sqrt(old.size))
    reach = NormalDist().inv_cdf((1 + level) / 2) * error
    return Lift(float(ratio - 1), float(ratio - 1 - reach), float(ratio - 1 + reach))


@dataclass(frozen=True)
class _Visits:
    """V requests of C candidates.

    Attributes:
        users: `[V]` who asks.
        numbers: `[V]` request number, which its randomness hangs on.
        items: `[V, C]` candidates; -1 where one stands a second time.
    """

    users: Ints
    numbers: Ints
    items: Ints

    @property
    def who(self) -> Ints:
        """`[V * C]` the user of every candidate."""
        return np.repeat(self.users, self.items.shape[1])

    @property
    def what(self) -> Ints:
        """`[V * C]` every candidate, item 0 for a repeat."""
        return np.maximum(self.items, 0).ravel()


def _visits(population: Population, config: TrafficConfig) -> Iterator[_Visits]:
    draw = np.random.default_rng(config.seed)
    users = draw.choice(population.config.users, config.users, replace=False, p=population.activity)
    for start in range(0, config.users, config.chunk_users):
        chunk = users[start : start + config.chunk_users]
        numbers = start * config.visits + np.arange(chunk.size * config.visits)
        items = population.candidates(config.seed, numbers, config.candidates)
        yield _Visits(np.repeat(chunk, config.visits), numbers, items)


def _best(scores: npt.NDArray[np.floating], visits: _Visits) -> Ints:
    """Places `[V, C]` of a request's candidates, the best first, repeats at the end."""
    table = np.where(visits.items < 0, -np.inf, np.asarray(scores, np.float64).reshape(visits.items.shape))
    order: Ints = np.argsort(-table, axis=1, kind="stable")
    return order


def _outcomes(order: Ints, visits: _Visits, population: Population, config: TrafficConfig) -> Floats:
    """Clicks and likes of every user `[users, 2]` when the first places of `order` `[V, C]` are shown."""
    shown = np.take_along_axis(visits.items, order[:, : population.config.slate], axis=1)
    users, positions = np.repeat(visits.users, shown.shape[1]), np.tile(np.arange(shown.shape[1]), len(shown))
    p_click, p_like = population.probabilities(users, np.maximum(shown, 0).ravel(), positions)
    event = np.repeat(visits.numbers, shown.shape[1]), shown.ravel()
    clicks = (uniform(config.seed, "click", *event) < p_click) & (event[1] >= 0)
    likes = clicks & (uniform(config.seed, "like", *event) < p_like)
    outcomes = np.stack([clicks, likes], axis=1).astype(np.float64)
    totals: Floats = outcomes.reshape(-1, config.visits * shown.shape[1], 2).sum(1)
    return totals
