"""KuaiRand-Pure: its log joined with what is known of user and video before the exposure, one partition a day.

Publisher: Gao et al., CIKM 2022, doi 10.1145/3511808.3557624, Kuaishou and USTC, CC BY-SA 4.0.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ranking.data.recipes.history import OUTCOMES, history
from ranking.data.recipes.tables import Types, converted, read_table
from ranking.data.writer import WriterConfig, write_dataset
from ranking.errors import InputError

PUBLISHER = "https://kuairand.com"

LABELS = (
    "is_click",
    "is_like",
    "is_follow",
    "is_comment",
    "is_forward",
    "is_hate",
    "long_view",
    "play_time_ms",
)
"""What is known only after the exposure: kept as labels, never to be a feature of the same row."""

_MISSING = -124
_INT, _STRING = pa.int64(), pa.large_string()
_LOG = dict.fromkeys(
    ("user_id", "video_id", "date", "hourmin", "time_ms", "tab", "duration_ms", *LABELS, *OUTCOMES), _INT
)
_USERS = (
    {"user_id": _INT, "user_active_degree": _STRING, "is_live_streamer": _INT, "is_video_author": _INT}
    | dict.fromkeys((f"{what}_user_num" for what in ("follow", "fans", "friend")), _INT)
    | dict.fromkeys((f"{what}_user_num_range" for what in ("follow", "fans", "friend")), _STRING)
    | {"register_days": _INT, "register_days_range": _STRING}
    | {f"onehot_feat{i}": _INT for i in range(18)}
)
_VIDEOS = (
    dict.fromkeys(("video_id", "author_id", "music_id", "music_type"), _INT)
    | dict.fromkeys(("video_duration", "server_width", "server_height"), _INT)
    | dict.fromkeys(("video_type", "upload_dt", "upload_type", "tag"), _STRING)
)
_LAYOUTS = (  # logs in order, users, videos
    (["log_standard_0425_0508.parquet"], "user_features.parquet", "video_features_basic.parquet"),
    (
        ["log_standard_4_08_to_4_21_pure.csv", "log_standard_4_22_to_5_08_pure.csv"],
        "user_features_pure.csv",
        "video_features_basic_pure.csv",
    ),
)


class KuairandConfig(WriterConfig):
    """The `kuairand` recipe. Days outside the range are dropped before anything is counted."""

    type: Literal["kuairand"] = "kuairand"
    first_day: date | None = Field(None, description="First day of the log to keep.")
    last_day: date | None = Field(None, description="Last day of the log to keep.")
    history: bool = Field(True, description="Add counts and rates of earlier days.")


def prepare_kuairand(source: Path, output: Path, config: KuairandConfig) -> None:
    """Write `<output>/day=<yyyy-mm-dd>/`, rows in order of time.

    Args:
        source: directory with the Parquet slice, or with the publisher's CSV files (or their `data/` directory).
        output: new directory.
        config: days and layout.

    Raises:
        InputError: a file is missing or damaged, lacks a column, has one of another type, or holds a key twice.
    """
    rows = exposures(source, config)
    if config.history:
        rows = history(rows)
    counted_only = [name for name in OUTCOMES if name not in LABELS]
    write_dataset([rows.drop_columns(counted_only)], output, "day", config)


def exposures(source: Path, config: KuairandConfig) -> pa.Table:
    """The log joined with user and video, in order of time, before history; arguments as for `prepare_kuairand`."""
    logs, users, videos = _find(source)
    log = pa.concat_tables([read_table(path, _LOG, PUBLISHER) for path in logs])
    log = _days(log, config).sort_by([("date", "ascending"), ("time_ms", "ascending")])
    return _derived(_joined(_joined(log, _features(users, _USERS), users), _videos(videos), videos))


def _find(source: Path) -> tuple[list[Path], Path, Path]:
    for folder in (source, source / "data"):
        for logs, users, videos in _LAYOUTS:
            if any((folder / name).exists() for name in (*logs, users, videos)):
                return [folder / name for name in logs], folder / users, folder / videos
    expected = " or ".join(layout[0][0] for layout in _LAYOUTS)
    raise InputError(f"{source}: no file of KuaiRand-Pure; expected {expected}, ... from {PUBLISHER}")


def _days(log: pa.Table, config: KuairandConfig) -> pa.Table:
    for day, keep in ((config.first_day, pc.greater_equal), (config.last_day, pc.less_equal)):
        if day is not None:
            log = log.filter(keep(log["date"], int(day.strftime("%Y%m%d"))))
    if not log.num_rows:
        raise InputError(f"kuairand: no row from {config.first_day} to {config.last_day}; expected days of the log")
    return log


def _features(path: Path, types: Types) -> pa.Table:
    """A feature file, its marker of missing numbers replaced by null."""
    table = read_table(path, types, PUBLISHER)
    for place, (name, kind) in enumerate(types.items()):
        if kind == _INT:
            values = table[name]
            table = table.set_column(place, name, pc.if_else(pc.equal(values, _MISSING), pa.scalar(None, _INT), values))
    return table


def _videos(path: Path) -> pa.Table:
    videos = _features(path, _VIDEOS)
    tags = converted(pc.split_pattern(videos["tag"], ","), pa.list_(_INT), "tag", path)
    uploaded = converted(videos["upload_dt"], pa.date32(), "upload_dt", path)
    return videos.drop_columns(["tag", "upload_dt"]).append_column("tag", tags).append_column("upload_dt", uploaded)


def _joined(log: pa.Table, features: pa.Table, path: Path) -> pa.Table:
    """`log` with the other columns of `features`, whose first one is the key; null where the key is unknown."""
    key = features.column_names[0]
    keys = features[key].combine_chunks()
    if len(pc.unique(keys)) < len(keys):
        twice = pc.value_counts(keys)
        first = twice.filter(pc.greater(twice.field("counts"), 1))[0]["values"]
        raise InputError(f"{path}: column {key!r}: got {first} more than once; expected one row a key")
    found = features.drop_columns([key]).take(pc.index_in(log[key], keys))
    for name in found.column_names:
        log = log.append_column(name, found[name])
    return log


def _derived(rows: pa.Table) -> pa.Table:
    """Time of the exposure, age and length of the video; columns of which nothing is left to learn are dropped."""
    day = pc.strptime(pc.cast(rows["date"], pa.string()), format="%Y%m%d", unit="s")
    known = pc.if_else(pc.greater(rows["duration_ms"], 0), rows["duration_ms"], pa.scalar(None, _INT))
    shape = pc.divide(pc.cast(rows["server_width"], pa.float32()), pc.cast(rows["server_height"], pa.float32()))
    derived = {
        "hour": pc.divide(rows["hourmin"], 100),
        "weekday": pc.day_of_week(day),  # Monday is 0
        "video_age_days": pc.days_between(rows["upload_dt"], pc.cast(day, pa.date32())),
        "duration_s": pc.divide(pc.cast(pc.coalesce(known, rows["video_duration"]), pa.float64()), 1000.0),
        "aspect_ratio": shape,
        "day": pc.strftime(day, format="%Y-%m-%d"),
    }
    rows = rows.drop_columns(["date", "hourmin", "duration_ms", "video_duration", "upload_dt"])
    for name, values in derived.items():
        rows = rows.append_column(name, values)
    return rows
