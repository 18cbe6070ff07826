"""Point-in-time history: how often, and how well, a user, video, author, ... did on the days before a row's own.

A row of day d sees days < d only, as a job sees them that builds features every night. Rates are smoothed towards a
prior: (successes + strength * prior) / (trials + strength).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

OUTCOMES = ("is_click", "long_view", "is_like", "play_time_ms", "is_profile_enter", "comment_stay_time")
"""Columns of the log that history counts; of a row's own day and later it sees none."""

_LENGTHS = (7, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, np.inf)  # seconds
_RATES = {  # rate: (successes, trials)
    "click": ("clicks", "exposures"),
    "long_view": ("long_views", "exposures"),
    "like": ("likes", "exposures"),
    "log_watch": ("log_watch", "exposures"),
    "skip": ("skips", "exposures"),
    "profile_enter": ("profile_enters", "exposures"),
    "comment_read": ("comment_reads", "exposures"),
    "like_given_click": ("clicked_likes", "clicks"),
}

Rates = dict[str, pd.Series]


@dataclass(frozen=True)
class Family:
    """Columns made of the history of one key; families of one name share prefix and, as a prior, their rates.

    Attributes:
        name: prefix of the columns.
        keys: columns that together are the key.
        counts: outcomes counted, as columns `<name>_<count>`.
        rates: names in `_RATES`, as columns `<name>_<rate>`.
        strength: how many trials the prior weighs.
        prior: family whose rates are the prior; left out: the rates of the whole log.
        beyond: family whose rate is taken off every success, the prior then being 0: what the key adds to it, as
            columns `<name>_<rate>_beyond_<beyond>`.
    """

    name: str
    keys: tuple[str, ...]
    counts: tuple[str, ...] = ()
    rates: tuple[str, ...] = ()
    strength: float = 0
    prior: str = "log"
    beyond: str = ""


_SEEN, _LIKED = ("click", "long_view"), ("click", "long_view", "like", "log_watch")
_EVERY = (*_LIKED, "skip", "profile_enter", "comment_read")
_LOG = Family("log", ("log",), rates=tuple(_RATES))
FAMILIES = (
    Family("user", ("user_id",), ("exposures",), _EVERY, 5),
    Family("user", ("user_id",), ("clicks", "likes"), ("like_given_click",), 20),
    Family("video", ("video_id",), ("exposures",), _EVERY, 20),
    Family("video", ("video_id",), (), ("like_given_click",), 50),
    Family("author", ("author_id",), ("exposures",), _LIKED, 20),
    Family("author", ("author_id",), (), ("like_given_click",), 50),
    Family("tag", ("first_tag",), ("exposures",), _LIKED, 50),
    Family("user_tab", ("user_id", "tab"), ("exposures",), _SEEN, 5, "user"),
    Family("user_tag", ("user_id", "first_tag"), ("exposures",), _SEEN, 5, "user"),
    Family("user_length", ("user_id", "length"), ("exposures",), _SEEN, 5, "user"),
    Family("video_tab", ("video_id", "tab"), ("exposures",), _SEEN, 20, "video"),
    Family("user_video", ("user_id", "video_id"), ("exposures", "clicks")),
    Family("user_author", ("user_id", "author_id"), ("exposures", "clicks")),
    Family("user", ("user_id",), (), _SEEN, 5, beyond="video_tab"),
    Family("video", ("video_id",), (), _SEEN, 20, beyond="user"),
)


def history(rows: pa.Table, families: tuple[Family, ...] = FAMILIES) -> pa.Table:
    """Append the columns of `families`, float32: counts, and rates that are null on the first day.

    Args:
        rows: N exposures with a string column `day` that sorts in order of time, the keys' columns and `OUTCOMES`.
        families: a prior, or what is gone beyond, stands before those that use it.
    """
    day = pd.factorize(rows["day"].to_pandas(), sort=True)[0].astype(np.int64)
    keys, outcomes = _keys(rows), _outcomes(rows)
    known: dict[str, Rates] = {}
    for family in (_LOG, *families):
        key = keys.groupby(list(family.keys), dropna=False).ngroup().to_numpy().astype(np.int64)
        rates = _rates(family, key, day, outcomes, known)
        if family.beyond:
            rows = _appended(rows, {f"{family.name}_{rate}_beyond_{family.beyond}": rates[rate] for rate in rates})
            continue
        known.setdefault(family.name, {}).update(rates)
        if family is not _LOG:
            counts = {count: past_sums(key, day, outcomes[[count]])[count] for count in family.counts}
            rows = _appended(rows, {f"{family.name}_{name}": values for name, values in {**counts, **rates}.items()})
    return rows


def _appended(rows: pa.Table, columns: Rates) -> pa.Table:
    for name, values in columns.items():
        rows = rows.append_column(name, pa.array(values.to_numpy(np.float32), from_pandas=True))
    return rows


def past_sums(key: npt.NDArray[np.int64], day: npt.NDArray[np.int64], values: pd.DataFrame) -> pd.DataFrame:
    """Sums `[N, K]` of `values` `[N, K]` over the rows of the same `key` `[N]` on days before the row's `day` `[N]`."""
    groups = values.groupby([key, day])
    daily = groups.sum()
    # Shifted rather than the day itself subtracted: not even its rounding error may tell of the day.
    past: pd.DataFrame = daily.groupby(level=0).cumsum().groupby(level=0).shift(fill_value=0.0)
    return past.iloc[groups.ngroup().to_numpy()].reset_index(drop=True)


def _rates(
    family: Family,
    key: npt.NDArray[np.int64],
    day: npt.NDArray[np.int64],
    outcomes: pd.DataFrame,
    known: dict[str, Rates],
) -> Rates:
    """The family's rates `[N]` by name; NaN where neither trials nor a prior are known."""
    rates: Rates = {}
    for rate in family.rates:
        successes, trials = (outcomes[name] for name in _RATES[rate])
        if family.beyond:
            successes = (successes - trials * known[family.beyond][rate]).fillna(0.0)
        sums = past_sums(key, day, pd.DataFrame({"successes": successes, "trials": trials}))
        prior = 0.0 if family.beyond or family is _LOG else known[family.prior][rate]
        rates[rate] = (sums["successes"] + family.strength * prior) / (sums["trials"] + family.strength)
    return rates


def _keys(rows: pa.Table) -> pd.DataFrame:
    keys: pd.DataFrame = rows.select(["user_id", "video_id", "author_id", "tab"]).to_pandas()
    tags = rows["tag"]
    some = pc.greater(pc.list_value_length(tags), 0)
    keys["log"] = 0
    keys["first_tag"] = pc.list_element(pc.if_else(some, tags, pa.scalar([-1], tags.type)), 0).to_pandas()
    keys["length"] = np.searchsorted(_LENGTHS, rows["duration_s"].to_numpy())  # NaN sorts behind inf
    return keys


def _outcomes(rows: pa.Table) -> pd.DataFrame:
    click, long_view, like, watch, profile, comments = (rows[n].to_pandas().astype(np.float64) for n in OUTCOMES)
    return pd.DataFrame(
        {
            "exposures": np.ones(len(click)),
            "clicks": click,
            "long_views": long_view,
            "likes": like,
            "clicked_likes": click * like,
            "log_watch": np.log1p(watch / 1000),
            "skips": click * (1 - long_view),
            "profile_enters": profile,
            "comment_reads": (comments > 0).astype(np.float64),
        }
    )
