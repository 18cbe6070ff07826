from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.recipes.history import FAMILIES, Family, history, past_sums
from pipelines.recipes.kuairand import LABELS, KuairandConfig, prepare_kuairand

SLICE = Path(__file__).parents[1] / "data/kuairand"
ADDED = [f"{f.name}_{column}" for f in FAMILIES for column in ("exposures", *f.rates)]


def exposures(days: Sequence[int], **columns: Sequence[object]) -> pa.Table:
    """Exposures of one user and video, without labels but those given."""
    rows = len(days)
    zeros = dict.fromkeys(("user_id", "video_id", "author_id", "tab", *LABELS), [0] * rows)
    fixed = {"day": [f"2022-05-0{day}" for day in days], "tag": [[1]] * rows, "duration_s": [5.0] * rows}
    return pa.table(zeros | fixed | columns)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The exposures of every fifth user of the slice, joined, without history."""
    output = tmp_path_factory.mktemp("kuairand") / "set"
    prepare_kuairand(SLICE, output, KuairandConfig(history=False))
    days = [(path.name[4:], pq.ParquetFile(path / "part-0.parquet").read()) for path in sorted(output.iterdir())]
    rows = pa.concat_tables(table.append_column("day", pa.repeat(day, len(table))) for day, table in days)
    return rows.filter(pa.array(rows["user_id"].to_numpy() % 5 == 0))


def test_sums_take_the_same_keys_earlier_days_only() -> None:
    key, day = np.array([1, 2, 1, 1, 2, 1]), np.array([0, 0, 1, 1, 2, 2])
    got = past_sums(key, day, pd.DataFrame({"x": [1.0, 10, 2, 3, 20, 4]}))
    assert got["x"].to_list() == [0, 0, 1, 1, 10, 6]


def test_rates_are_drawn_towards_the_rate_of_the_whole_log() -> None:
    rows = exposures([1, 1, 1, 1, 2], user_id=[1, 1, 2, 2, 1], is_click=[1, 1, 1, 0, 0])
    got = history(rows, (Family("user", ("user_id",), 5, ("click",)),))
    assert got["user_exposures"].to_pylist() == [0, 0, 0, 0, 2]
    assert got["user_click"].to_pylist() == [None] * 4 + [pytest.approx((2 + 5 * 3 / 4) / (2 + 5))]


def test_rates_of_a_finer_key_are_drawn_towards_those_of_the_coarser() -> None:
    rows = exposures([1, 1, 1, 2], tab=[1, 1, 2, 3], is_click=[1, 1, 0, 0])
    families = (
        Family("user", ("user_id",), 5, ("click",)),
        Family("user_tab", ("user_id", "tab"), 5, ("click",), "user"),
    )
    got = history(rows, families)
    assert got["user_tab_exposures"][3].as_py() == 0
    assert got["user_tab_click"][3] == got["user_click"][3]


def test_likes_given_click_count_clicks_as_trials() -> None:
    rows = exposures([1, 1, 1, 1, 2], is_click=[1, 1, 0, 0, 0], is_like=[1, 0, 1, 0, 0])
    got = history(rows, (Family("user", ("user_id",), 0, ("like_given_click",)),))
    assert got["user_like_given_click"][4].as_py() == pytest.approx(1 / 2)


def test_a_row_keeps_its_place_and_its_other_columns(real: pa.Table) -> None:
    got = history(real)
    assert got.column_names == [*real.column_names, *ADDED]
    assert got.select(real.column_names).equals(real)


def test_counts_and_rates_agree_with_a_plain_recount(real: pa.Table) -> None:
    got, log = history(real).to_pandas(), real.to_pandas()
    for place in np.random.default_rng(0).choice(len(log), 20, replace=False):
        row = log.loc[place]
        past = log[log["day"] < row["day"]]
        mine = past[past["video_id"] == row["video_id"]]
        assert got["video_exposures"][place] == len(mine)
        if len(past):
            rate = (mine["is_click"].sum() + 20 * past["is_click"].mean()) / (len(mine) + 20)
            assert got["video_click"][place] == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize("day", ["2022-04-25", "2022-05-03", "2022-05-08"])
def test_no_label_of_a_day_changes_a_feature_of_that_day_or_of_one_before(real: pa.Table, day: str) -> None:
    on_day = (real["day"].to_pandas() == day).to_numpy()
    changed = real
    for label in LABELS:
        values = real[label].to_numpy()
        other = values * 1.7 + 3 if label == "play_time_ms" else 1 - values
        place = real.schema.get_field_index(label)
        changed = changed.set_column(place, label, pa.array(np.where(on_day, other.astype(np.int64), values)))
    before, after = (history(table).select(["day", *ADDED]).to_pandas() for table in (real, changed))
    same = before["day"] <= day
    pd.testing.assert_frame_equal(before[same], after[same], check_exact=True)
    if not same.all():
        later = before.columns[(before[~same] != after[~same]).any()]
        assert {"user_click", "video_long_view", "author_log_watch"} <= set(later)


def test_features_of_a_day_are_the_same_before_the_next_day_is_known(real: pa.Table) -> None:
    known = (real["day"].to_pandas() <= "2022-05-03").to_numpy()
    assert history(real).filter(pa.array(known)).equals(history(real.filter(pa.array(known))))
