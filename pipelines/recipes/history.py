"""Point-in-time history: how often, and how well, a user, video, author, ... did on the days before a row's own.

A row of day d sees days < d only, as a job sees them that builds features every night. Rates are smoothed towards a
prior: (successes + strength * prior) / (trials + strength).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

_DURATION_BINS = (7, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, np.inf)
_EXPOSURES = "exposures"
_RATES = {  # rate: (successes, trials)
    "click": ("click", _EXPOSURES),
    "long_view": ("long_view", _EXPOSURES),
    "like": ("like", _EXPOSURES),
    "log_watch": ("log_watch", _EXPOSURES),
    "like_given_click": ("liked_click", "click"),
}


@dataclass(frozen=True)
class Family:
    """History of one key.

    Attributes:
        name: prefix of its columns `<name>_exposures` and `<name>_<rate>`.
        keys: columns that together are the key.
        strength: how many trials the prior weighs.
        rates: names in `_RATES`.
        prior: family whose rates are the prior; left out: the rates of the whole log.
    """

    name: str
    keys: tuple[str, ...]
    strength: float = 0.0
    rates: tuple[str, ...] = ()
    prior: str = ""


_ALL, _SEEN = tuple(_RATES), ("click", "long_view")
_LOG = Family("", (), 0, _ALL)
FAMILIES = (
    Family("user", ("user_id",), 5, _ALL),
    Family("video", ("video_id",), 20, _ALL),
    Family("author", ("author_id",), 20, _ALL),
    Family("tag", ("first_tag",), 50, _ALL),
    Family("user_tab", ("user_id", "tab"), 5, _SEEN, "user"),
    Family("user_tag", ("user_id", "first_tag"), 5, _SEEN, "user"),
    Family("user_length", ("user_id", "length"), 5, _SEEN, "user"),
    Family("video_tab", ("video_id", "tab"), 20, _SEEN, "video"),
    Family("user_video", ("user_id", "video_id")),
    Family("user_author", ("user_id", "author_id")),
)


def history(rows: pa.Table, families: tuple[Family, ...] = FAMILIES) -> pa.Table:
    """Append the columns of `families`, float32: counts, and rates that are null on the first day.

    Args:
        rows: N exposures with a string column `day` that sorts in order of time, the keys' columns and the labels.
        families: a prior stands before those that use it.
    """
    day = pd.factorize(rows["day"].to_pandas(), sort=True)[0].astype(np.int64)
    keys, outcomes = _keys(rows), _outcomes(rows)
    rates = {"": _rates(past_sums(np.zeros(len(day), np.int64), day, outcomes), _LOG)}
    for family in families:
        key = keys.groupby(list(family.keys), dropna=False).ngroup().to_numpy(np.int64)
        sums = past_sums(key, day, outcomes)
        rates[family.name] = _rates(sums, family, rates[family.prior])
        for name, values in {_EXPOSURES: sums[_EXPOSURES], **rates[family.name]}.items():
            column = pa.array(np.asarray(values, np.float32), from_pandas=True)
            rows = rows.append_column(f"{family.name}_{name}", column)
    return rows


def past_sums(key: npt.NDArray[np.int64], day: npt.NDArray[np.int64], values: pd.DataFrame) -> pd.DataFrame:
    """Sums `[N, K]` of `values` `[N, K]` over the rows of the same `key` `[N]` on days before the row's `day` `[N]`."""
    groups = values.groupby([key, day])
    daily = groups.sum()
    # Shifted rather than the day itself subtracted: not even its rounding error may tell of the day.
    past: pd.DataFrame = daily.groupby(level=0).cumsum().groupby(level=0).shift(fill_value=0.0)
    return past.iloc[groups.ngroup().to_numpy()].reset_index(drop=True)


def _rates(sums: pd.DataFrame, family: Family, prior: Mapping[str, pd.Series] | None = None) -> dict[str, pd.Series]:
    """Smoothed rates `[N]` by name; NaN where neither trials nor a prior are known."""
    rates = {}
    for rate in family.rates:
        successes, trials = (sums[name] for name in _RATES[rate])
        known = 0.0 if prior is None else prior[rate]
        rates[rate] = (successes + family.strength * known) / (trials + family.strength)  # 0 / 0 is NaN
    return rates


def _keys(rows: pa.Table) -> pd.DataFrame:
    keys = rows.select(["user_id", "video_id", "author_id", "tab"]).to_pandas()
    tags = rows["tag"]
    some = pc.greater(pc.list_value_length(tags), 0)
    keys["first_tag"] = pc.list_element(pc.if_else(some, tags, pa.scalar([-1], tags.type)), 0).to_pandas()
    keys["length"] = np.searchsorted(_DURATION_BINS, rows["duration_s"].to_numpy())  # NaN sorts behind inf
    return keys


def _outcomes(rows: pa.Table) -> pd.DataFrame:
    labels: pd.DataFrame = (
        rows.select(["is_click", "long_view", "is_like", "play_time_ms"]).to_pandas().astype(np.float64)
    )
    return pd.DataFrame(
        {
            _EXPOSURES: np.ones(len(labels)),
            "click": labels["is_click"],
            "long_view": labels["long_view"],
            "like": labels["is_like"],
            "liked_click": labels["is_like"] * labels["is_click"],
            "log_watch": np.log1p(labels["play_time_ms"] / 1000),
        }
    )
