from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ranking.data.recipes.history import FAMILIES, OUTCOMES, Family, history, past_sums
from ranking.data.recipes.kuairand import KuairandConfig, exposures

SLICE = Path(__file__).parents[1] / "kuairand"


def log(days: Sequence[int], **columns: Sequence[object]) -> pa.Table:
    """Exposures of one user and video, no outcome but those given."""
    rows = len(days)
    zeros = dict.fromkeys(("user_id", "video_id", "author_id", "tab", *OUTCOMES), [0] * rows)
    fixed = {"day": [f"2022-05-0{day}" for day in days], "tag": [[1]] * rows, "duration_s": [5.0] * rows}
    return pa.table(zeros | fixed | columns)


@pytest.fixture(scope="module")
def real() -> pa.Table:
    """The exposures of every fifth user of the slice."""
    rows = exposures(SLICE, KuairandConfig())
    return rows.filter(pa.array(rows["user_id"].to_numpy() % 5 == 0))


@pytest.fixture(scope="module")
def added(real: pa.Table) -> pd.DataFrame:
    """What history adds to it."""
    return history(real).drop_columns(real.column_names).to_pandas()


def test_sums_take_the_same_keys_earlier_days_only() -> None:
    key, day = np.array([1, 2, 1, 1, 2, 1]), np.array([0, 0, 1, 1, 2, 2])
    got = past_sums(key, day, pd.DataFrame({"x": [1.0, 10, 2, 3, 20, 4]}))
    assert got["x"].to_list() == [0, 0, 1, 1, 10, 6]


def test_rates_are_drawn_towards_the_rate_of_the_whole_log() -> None:
    rows = log([1, 1, 1, 1, 2], user_id=[1, 1, 2, 2, 1], is_click=[1, 1, 1, 0, 0])
    got = history(rows, (Family("user", ("user_id",), ("exposures", "clicks"), ("click",), 5),))
    assert got["user_exposures"].to_pylist() == [0, 0, 0, 0, 2]
    assert got["user_clicks"].to_pylist() == [0, 0, 0, 0, 2]
    assert got["user_click"].to_pylist() == [None] * 4 + [pytest.approx((2 + 5 * 3 / 4) / (2 + 5))]


def test_rates_of_a_finer_key_are_drawn_towards_those_of_the_coarser() -> None:
    rows = log([1, 1, 1, 2], tab=[1, 1, 2, 3], is_click=[1, 1, 0, 0])
    user = Family("user", ("user_id",), (), ("click",), 5)
    got = history(rows, (user, Family("user_tab", ("user_id", "tab"), (), ("click",), 5, "user")))
    assert got["user_tab_click"][3] == got["user_click"][3]


def test_likes_given_click_count_clicked_likes_over_clicks() -> None:
    rows = log([1, 1, 1, 1, 2], is_click=[1, 1, 0, 0, 0], is_like=[1, 0, 1, 0, 0])
    got = history(rows, (Family("user", ("user_id",), (), ("like_given_click",)),))
    assert got["user_like_given_click"][4].as_py() == 1 / 2


def test_what_a_key_adds_beyond_another_is_the_mean_of_its_past_surprises() -> None:
    rows = log([1, 1, 2, 2, 3], user_id=[1, 2, 1, 2, 1], is_click=[1, 0, 1, 1, 0])
    video = Family("video", ("video_id",), (), ("click",))
    got = history(rows, (video, Family("user", ("user_id",), (), ("click",), 5, beyond="video")))
    # On day 1 nothing was expected; on day 2 the video's rate was 1/2, so user 1 clicked 1/2 more than expected.
    assert got["user_click_beyond_video"].to_pylist() == pytest.approx([0, 0, 0, 0, (1 / 2) / (2 + 5)])


def test_a_row_keeps_its_place_and_its_other_columns(real: pa.Table) -> None:
    assert history(real).select(real.column_names).equals(real)


def test_every_family_adds_its_columns_once(added: pd.DataFrame) -> None:
    assert added.columns.is_unique
    assert len(added.columns) == sum(len(family.counts) + len(family.rates) for family in FAMILIES)


def test_counts_and_rates_agree_with_a_plain_recount(real: pa.Table, added: pd.DataFrame) -> None:
    log = real.select(["day", "video_id", "is_click"]).to_pandas()
    for place in np.random.default_rng(0).choice(len(log), 20, replace=False):
        past = log[log["day"] < log["day"][place]]
        mine = past[past["video_id"] == log["video_id"][place]]
        assert added["video_exposures"][place] == len(mine)
        if len(past):
            rate = (mine["is_click"].sum() + 20 * past["is_click"].mean()) / (len(mine) + 20)
            assert added["video_click"][place] == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize("day", ["2022-04-25", "2022-05-03", "2022-05-08"])
def test_no_outcome_of_a_day_changes_a_feature_of_that_day_or_of_one_before(
    real: pa.Table, added: pd.DataFrame, day: str
) -> None:
    days = real["day"].to_pandas()
    changed = real
    for name in OUTCOMES:
        values = real[name].to_numpy()
        other = 1 - values if set(values) <= {0, 1} else values * 17 // 10 + 3
        column = pa.array(np.where(days == day, other, values))
        changed = changed.set_column(real.schema.get_field_index(name), name, column)
    after = history(changed).drop_columns(real.column_names).to_pandas()
    pd.testing.assert_frame_equal(added[days <= day], after[days <= day], check_exact=True)
    later = added[days > day].fillna(-1) != after[days > day].fillna(-1)
    rates = [name for name in added if not name.endswith("_exposures")]
    assert later[rates].any().all() or not len(later)


def test_features_of_a_day_are_the_same_before_the_next_day_is_known(real: pa.Table, added: pd.DataFrame) -> None:
    known = (real["day"].to_pandas() <= "2022-05-03").to_numpy()
    got = history(real.filter(pa.array(known))).drop_columns(real.column_names).to_pandas()
    pd.testing.assert_frame_equal(got, added[known], check_exact=True)
