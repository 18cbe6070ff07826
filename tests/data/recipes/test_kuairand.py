from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from ranking.data.recipes.kuairand import LABELS, PUBLISHER, KuairandConfig, prepare_kuairand
from ranking.errors import InputError

SLICE = Path(__file__).parents[1] / "kuairand"
LOG, USERS, VIDEOS = "log_standard_0425_0508.parquet", "user_features.parquet", "video_features_basic.parquet"
PLAIN = KuairandConfig(history=False)


def read(directory: Path) -> pd.DataFrame:
    files = sorted(directory.rglob("*.parquet"))
    return pd.concat([pq.ParquetFile(f).read().to_pandas().assign(day=f.parent.name[4:]) for f in files])


def source() -> dict[str, pd.DataFrame]:
    return {name: pq.read_table(SLICE / name).to_pandas(integer_object_nulls=True) for name in (LOG, USERS, VIDEOS)}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("kuairand") / "set"
    prepare_kuairand(SLICE, output, KuairandConfig())
    return output


@pytest.fixture(scope="module")
def rows(prepared: Path) -> pd.DataFrame:
    return read(prepared)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The first thousand exposures with all users and videos, free to be damaged."""
    directory = tmp_path / "small"
    directory.mkdir()
    for name in (LOG, USERS, VIDEOS):
        table = pq.read_table(SLICE / name)
        pq.write_table(table.slice(0, 1000) if name == LOG else table, directory / name)
    return directory


def change(path: Path, column: str, values: object) -> None:
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, column, pa.array(values, from_pandas=True)), path)


def test_every_exposure_is_there_once_under_its_day(rows: pd.DataFrame) -> None:
    log = source()[LOG]
    assert len(rows) == 228_329
    counts = rows.groupby("day").size()
    assert counts["2022-05-07"] + counts["2022-05-08"] == 29_434
    assert counts.to_list() == log.groupby("date").size().to_list()


def test_rows_of_a_day_stand_in_order_of_time_in_several_row_groups(prepared: Path) -> None:
    file = pq.ParquetFile(prepared / "day=2022-05-07/part-0.parquet")
    assert np.all(np.diff(file.read()["time_ms"].to_numpy()) >= 0)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [4096, 4096, 4096, 1399]


def test_features_of_user_and_video_are_joined_onto_every_exposure(rows: pd.DataFrame) -> None:
    tables = source()
    expected = (
        tables[LOG].merge(tables[USERS], on="user_id", how="left").merge(tables[VIDEOS], on="video_id", how="left")
    )
    expected = expected.sort_values(["date", "time_ms"], kind="stable").reset_index(drop=True)
    for column in ("user_id", "is_like", "user_active_degree", "fans_user_num", "author_id", "upload_type"):
        assert rows[column].to_list() == expected[column].to_list(), column
    tags = [[int(part) for part in tag.split(",")] if isinstance(tag, str) else None for tag in expected["tag"]]
    assert [None if tag is None else tag.tolist() for tag in rows["tag"]] == tags
    age = (pd.to_datetime(expected["date"].astype(str)) - pd.to_datetime(expected["upload_dt"])).dt.days
    assert rows["video_age_days"].to_list() == age.to_list()
    assert rows["weekday"].to_list() == pd.to_datetime(expected["date"].astype(str)).dt.day_of_week.to_list()
    assert rows["hour"].to_list() == (expected["hourmin"] // 100).to_list()


def test_the_marker_of_missing_numbers_becomes_null(rows: pd.DataFrame) -> None:
    assert (source()[USERS]["is_live_streamer"] == -124).any()
    assert rows["is_live_streamer"].isna().any()
    assert not (rows.select_dtypes("number") == -124).any(axis=None)


def test_unknown_length_falls_back_on_the_videos_own(small: Path, tmp_path: Path) -> None:
    log, videos = pq.read_table(small / LOG).to_pandas(), pq.read_table(small / VIDEOS).to_pandas()
    change(small / LOG, "duration_ms", [0] * len(log))
    prepare_kuairand(small, tmp_path / "set", PLAIN)
    own = (videos.set_index("video_id")["video_duration"] / 1000)[log.sort_values("time_ms")["video_id"]]
    assert own.isna().any()
    np.testing.assert_array_equal(read(tmp_path / "set")["duration_s"], own)


def test_labels_have_the_published_rates_and_nothing_else_after_the_exposure_is_kept(rows: pd.DataFrame) -> None:
    rates = {name: round(100 * rows[name].mean(), 3) for name in LABELS if name != "play_time_ms"}
    assert rates == {
        "is_click": 44.191, "is_like": 1.715, "is_follow": 0.133, "is_comment": 0.254, "is_forward": 0.085,
        "is_hate": 0.083, "long_view": 31.079,
    }  # fmt: skip
    assert not {"profile_stay_time", "comment_stay_time", "is_profile_enter"} & set(rows.columns)


def test_the_publishers_csv_gives_what_parquet_gives(tmp_path: Path) -> None:
    csv, parquet = tmp_path / "KuaiRand-Pure", tmp_path / "parquet"
    (csv / "data").mkdir(parents=True)
    parquet.mkdir()
    tables = source()
    log = tables[LOG].iloc[::40]
    for name, table in {LOG: log, USERS: tables[USERS], VIDEOS: tables[VIDEOS]}.items():
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), parquet / name)
    log.iloc[:3000].to_csv(csv / "data/log_standard_4_08_to_4_21_pure.csv", index=False)
    log.iloc[3000:].to_csv(csv / "data/log_standard_4_22_to_5_08_pure.csv", index=False)
    gaps = {"onehot_feat4": float, "onehot_feat12": float}  # integers with gaps are 4.0 in the publisher's files
    tables[USERS].astype(gaps).to_csv(csv / "data/user_features_pure.csv", index=False)
    gaps = {"music_type": float, "video_duration": float}
    tables[VIDEOS].astype(gaps).to_csv(csv / "data/video_features_basic_pure.csv", index=False)
    prepare_kuairand(csv, tmp_path / "a", KuairandConfig())
    prepare_kuairand(parquet, tmp_path / "b", KuairandConfig())
    a, b = (ds.dataset(tmp_path / name, partitioning="hive").to_table() for name in "ab")
    assert a.num_rows == len(log)
    assert a.equals(b)


def test_a_user_or_video_without_features_has_nulls(small: Path, tmp_path: Path) -> None:
    user, video = pq.read_table(small / LOG)["user_id"][0].as_py(), pq.read_table(small / LOG)["video_id"][0].as_py()
    for name, key, value in ((USERS, "user_id", user), (VIDEOS, "video_id", video)):
        table = pq.read_table(small / name)
        pq.write_table(table.filter(pc.not_equal(table[key], value)), small / name)
    prepare_kuairand(small, tmp_path / "set", KuairandConfig())
    got = read(tmp_path / "set")
    assert len(got) == 1000
    unknown = got[(got["user_id"] == user) & (got["video_id"] == video)].iloc[0]
    assert unknown[["user_active_degree", "register_days", "author_id", "tag", "video_age_days"]].isna().all()


def test_only_the_days_asked_for_are_kept(tmp_path: Path) -> None:
    config = KuairandConfig(first_day=date(2022, 5, 7), last_day=date(2022, 5, 7), history=False)
    prepare_kuairand(SLICE, tmp_path / "set", config)
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["day=2022-05-07"]


def test_a_range_without_a_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row from 2023-01-01"):
        prepare_kuairand(SLICE, tmp_path / "set", KuairandConfig(first_day=date(2023, 1, 1)))


@pytest.mark.parametrize(("name", "key"), [(USERS, "user_id"), (VIDEOS, "video_id")])
def test_a_key_twice_in_a_feature_file_is_refused(small: Path, tmp_path: Path, name: str, key: str) -> None:
    table = pq.read_table(small / name)
    pq.write_table(pa.concat_tables([table, table.slice(17, 1)]), small / name)
    with pytest.raises(InputError, match=rf"{name}: column '{key}': got 17 more than once; expected one row a key"):
        prepare_kuairand(small, tmp_path / "set", PLAIN)


@pytest.mark.parametrize("name", [LOG, USERS, VIDEOS])
def test_a_missing_file_is_named_with_its_publisher(small: Path, tmp_path: Path, name: str) -> None:
    (small / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: no such file; .*{PUBLISHER}"):
        prepare_kuairand(small, tmp_path / "set", PLAIN)


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"no file of KuaiRand-Pure; expected .* from {PUBLISHER}"):
        prepare_kuairand(tmp_path, tmp_path / "set", PLAIN)


def test_a_missing_column_is_named(small: Path, tmp_path: Path) -> None:
    pq.write_table(pq.read_table(small / VIDEOS).drop_columns(["music_id"]), small / VIDEOS)
    with pytest.raises(InputError, match=rf"{VIDEOS}: column 'music_id': missing; got columns"):
        prepare_kuairand(small, tmp_path / "set", PLAIN)


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [(LOG, "tab", "first"), (USERS, "register_days", "long"), (VIDEOS, "tag", "1;2"), (VIDEOS, "upload_dt", "April")],
)
def test_a_value_of_a_wrong_type_is_named(small: Path, tmp_path: Path, name: str, column: str, value: str) -> None:
    change(small / name, column, [value] * len(pq.read_table(small / name)))
    with pytest.raises(InputError, match=rf"{name}: column '{column}': got .*string.*; expected .*{value}"):
        prepare_kuairand(small, tmp_path / "set", PLAIN)
    assert not (tmp_path / "set").exists()


def test_a_damaged_file_is_named(small: Path, tmp_path: Path) -> None:
    content = (small / LOG).read_bytes()
    (small / LOG).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"{LOG}: got .*; expected an undamaged Parquet file"):
        prepare_kuairand(small, tmp_path / "set", PLAIN)
