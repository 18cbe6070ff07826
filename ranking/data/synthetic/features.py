"""What a model gets to see of a population: ids, noisy views of the latent factors, and each user's last clicks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from ranking.data.synthetic.draws import Floats, Ints
from ranking.data.synthetic.population import Factors, Population
from ranking.schema import Frozen

Values = npt.NDArray[np.float32] | Ints

_MOST_TAGS = 5


class FeatureConfig(Frozen):
    """How many columns of each sort there are; `categorical` and `dense` count for the user, and again for the item."""

    categorical: int = Field(2, ge=0, description="user_segment_<k> and item_category_<k>: nearest of some centroids.")
    cardinality: int = Field(64, ge=2, description="Centroids of a categorical or multi-hot feature.")
    multi_hot: int = Field(1, ge=0, description="item_tags_<k>: the 1 to 5 nearest centroids of an item.")
    dense: int = Field(8, ge=0, description="user_dense_<k> and item_dense_<k>: directions of the factors with noise.")
    noise: float = Field(0.5, ge=0, description="Standard deviation of that noise, the signal's being 1.")
    history: int = Field(20, ge=0, description="Most ids in `history`: items clicked before the day, latest first.")


class History:
    """The last items that every user clicked, as they were known at the end of the day before.

    A day's clicks enter only at its end: a nightly job's view, and one that does not depend on the size of chunks.
    Memory: two tables `[users, length]` of int32.
    """

    def __init__(self, users: int, length: int) -> None:
        """Nobody has clicked anything."""
        self.length = length
        self._day = 0
        self._ring = np.zeros((users, length), np.int32)
        self._clicks = np.zeros(users, np.int64)
        self._known = self._ring.copy(), self._clicks.copy()

    def turn_to(self, day: int) -> None:
        """Show what was added before `day`; on the day itself nothing changes."""
        if day != self._day:
            self._day, self._known = day, (self._ring.copy(), self._clicks.copy())

    def add(self, users: Ints, items: Ints) -> None:
        """Clicks `[N]` of today, in order of time."""
        if not (users.size and self.length):
            return
        order = np.argsort(users, kind="stable")
        users, items = users[order], items[order]
        starts = np.flatnonzero(np.diff(users, prepend=-1))
        counts = np.diff(starts, append=users.size)
        rank = np.arange(users.size) - np.repeat(starts, counts)
        places = self._clicks[users] + rank
        kept = rank >= np.repeat(counts, counts) - self.length
        self._ring[users[kept], places[kept] % self.length] = items[kept]
        self._clicks[users[starts]] += counts

    def of(self, users: Ints) -> pa.ListArray:
        """The known lists of users `[N]`, latest click first."""
        ring, clicks = self._known
        if not self.length:
            return _lists(np.zeros((users.size, 0), np.int64), np.zeros(users.size, np.int64))
        latest = clicks[users]
        places = (latest[:, None] - 1 - np.arange(self.length)) % self.length
        return _lists(ring[users[:, None], places].astype(np.int64), np.minimum(latest, self.length))


class Features:
    """Fixed views of a population's users and items, looked up row by row."""

    def __init__(self, population: Population, config: FeatureConfig) -> None:
        """Choose centroids and directions by the population's seed."""
        draw = np.random.default_rng([population.config.seed, 1])
        users, items = population.user_factors, population.item_factors
        self._users: dict[str, Values] = {}
        self._items: dict[str, Values] = {"item_duration_s": population.seconds.astype(np.float32)}
        for k in range(config.categorical):
            self._users[f"user_segment_{k}"] = _nearest(users, config.cardinality, 1, draw)[:, 0]
            self._items[f"item_category_{k}"] = _nearest(items, config.cardinality, 1, draw)[:, 0]
        for k in range(config.dense):
            self._users[f"user_dense_{k}"] = _view(users, config.noise, draw)
            self._items[f"item_dense_{k}"] = _view(items, config.noise, draw)
        most = min(_MOST_TAGS, config.cardinality)
        self._tags = {
            f"item_tags_{k}": (
                _nearest(items, config.cardinality, most, draw),
                draw.integers(1, most + 1, len(items)),
            )
            for k in range(config.multi_hot)
        }

    def columns(self, users: Ints, items: Ints, positions: Ints, history: History) -> dict[str, pa.Array]:
        """Every feature column of the rows `[N]`."""
        return {
            "user_id": pa.array(users),
            "item_id": pa.array(items),
            "position": pa.array(positions),
            **{name: pa.array(values[users]) for name, values in self._users.items()},
            **{name: pa.array(values[items]) for name, values in self._items.items()},
            **{name: _lists(tags[items], lengths[items]) for name, (tags, lengths) in self._tags.items()},
            "history": history.of(users),
        }


def _lists(padded: Ints, lengths: Ints) -> pa.ListArray:
    """The first `lengths` `[N]` values of every row of `padded` `[N, M]`."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    values = padded[np.arange(padded.shape[1]) < lengths[:, None]]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _nearest(factors: Factors, centroids: int, count: int, draw: np.random.Generator) -> Ints:
    """The `count` of random directions that factors `[K, D]` point to most, best first, `[K, count]`."""
    directions = draw.standard_normal((centroids, factors.shape[1]), np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    scores = factors @ directions.T
    found: Ints = np.argsort(-scores, axis=1)[:, :count]
    return found


def _view(factors: Factors, noise: float, draw: np.random.Generator) -> npt.NDArray[np.float32]:
    """One direction of factors `[K, D]` at unit variance, with noise, `[K]`."""
    direction = draw.standard_normal(factors.shape[1])
    values: Floats = factors @ (direction / np.linalg.norm(direction)) + noise * draw.standard_normal(len(factors))
    return values.astype(np.float32)
