"""A synthetic log: its rates, its truth, its history, and that it streams."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ranking.data.manifest import Manifest
from ranking.data.synthetic.impressions import ImpressionsConfig, expose, impressions, replay, write_impressions
from ranking.data.synthetic.population import Population
from ranking.data.writer import write_dataset
from ranking.metrics import roc_auc

LogOf = Callable[..., ImpressionsConfig]


def column(log: pa.Table, name: str) -> np.ndarray:
    return log[name].to_numpy()


def bounds(rate: float, count: int) -> object:
    """`rate` give or take four standard errors of a share of `count` rows."""
    return pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / count))


def test_rates_are_as_configured(log: pa.Table) -> None:
    click, like = column(log, "click"), column(log, "like")
    assert click.mean() == bounds(0.1, click.size)
    assert like[click == 1].mean() == bounds(0.1, click.sum())


def test_a_click_is_needed_for_a_like_and_for_watching(log: pa.Table) -> None:
    passed = column(log, "click") == 0
    assert not column(log, "like")[passed].any()
    assert not column(log, "watch_s")[passed].any()
    assert (column(log, "watch_s")[~passed] > 0).all()


def test_clicks_fall_with_the_position(log: pa.Table) -> None:
    click, position = column(log, "click"), column(log, "position")
    rates = np.bincount(position, click) / np.bincount(position)
    assert rates[0] > rates[1] > rates[3] > rates[9]
    assert rates[9] / rates[0] == pytest.approx(10**-0.5, rel=0.1)


@pytest.mark.parametrize("label", ["click", "like"])
def test_the_true_probabilities_are_calibrated(log: pa.Table, label: str) -> None:
    space = log if label == "click" else log.filter(pc.equal(log["click"], 1))
    truth, outcome = column(space, f"p_{label}").astype(np.float64), column(space, label)
    for tenth in np.array_split(np.argsort(truth), 10):
        error = np.sqrt((truth[tenth] * (1 - truth[tenth])).sum())
        assert abs(outcome[tenth].sum() - truth[tenth].sum()) < 4 * error


def test_the_oracle_knows_more_than_popularity(log: pa.Table, population: Population) -> None:
    click = column(log, "click")
    popular = roc_auc(population.popularity[column(log, "item_id")], click)
    assert 0.5 < popular < 0.6 < 0.7 < roc_auc(column(log, "p_click"), click)


def test_the_truth_follows_from_the_ids(log: pa.Table, population: Population) -> None:
    users, items, positions = (column(log, name) for name in ("user_id", "item_id", "position"))
    click, like = population.probabilities(users, items, positions)
    np.testing.assert_allclose(column(log, "p_click"), click, rtol=1e-6)
    np.testing.assert_allclose(column(log, "p_like"), like, rtol=1e-6)


def test_features_tell_something_of_the_affinity(log: pa.Table, population: Population) -> None:
    users, items = column(log, "user_id"), column(log, "item_id")
    own = np.stack([column(log, f"item_dense_{k}") for k in range(8)], axis=1)
    target = population.affinities(users, items)[:, 0]
    fitted = own @ np.linalg.lstsq(own, target)[0]
    assert np.corrcoef(fitted, target)[0, 1] > 0.1


def test_a_request_shows_one_user_every_position(log: pa.Table) -> None:
    users = column(log, "user_id").reshape(-1, 10)
    assert (users == users[:, :1]).all()
    assert (column(log, "position").reshape(-1, 10) == np.arange(10)).all()


def test_history_is_what_was_clicked_before_the_day_latest_first(log: pa.Table) -> None:
    user, item, click, day = (log[name].to_pylist() for name in ("user_id", "item_id", "click", "day"))
    rows = range(0, log.num_rows, 97)
    shown = log["history"].take(list(rows)).to_pylist()
    clicked: dict[int, list[tuple[str, int]]] = {}
    for who, what, when in ((u, i, d) for u, i, c, d in zip(user, item, click, day, strict=True) if c):
        clicked.setdefault(who, []).append((when, what))
    for row, history in zip(rows, shown, strict=True):
        before = [what for when, what in clicked.get(user[row], []) if when < day[row]]
        assert history == before[::-1][:4]
    assert max(map(len, shown)) == 4


def test_replay_gives_the_histories_of_the_day_after(log_of: LogOf) -> None:
    short, longer = log_of(rows=30_000, days=1), log_of(rows=60_000, days=2)
    next_day = pa.concat_tables(impressions(longer)).slice(30_000)
    histories = replay(Population(short.population), short).of(next_day["user_id"].to_numpy())
    assert next_day["history"].combine_chunks().equals(histories)


@pytest.mark.parametrize("chunk", [999, 5000])
def test_the_size_of_chunks_changes_no_value(log_of: LogOf, chunk: int) -> None:
    whole = pa.concat_tables(impressions(log_of(rows=10_005, days=3)))
    parts = pa.concat_tables(impressions(log_of(rows=10_005, days=3, chunk_rows=chunk)))
    assert whole.num_rows == 10_005
    assert parts.equals(whole)


def test_another_seed_gives_another_log_of_the_same_population(log_of: LogOf) -> None:
    first, other = (next(impressions(log_of(rows=1000, seed=seed))) for seed in (0, 1))
    assert not first["item_id"].equals(other["item_id"])
    width = len(set(zip(column(first, "user_id"), column(first, "user_dense_0"), strict=True)))
    assert width == len(set(column(first, "user_id")))


def test_truth_and_extra_features_are_a_choice(log_of: LogOf) -> None:
    bare = {"categorical": 0, "multi_hot": 0, "dense": 0, "history": 0}
    table = next(impressions(log_of(rows=100, days=1, truth=False, features=bare)))
    assert table.column_names == [
        *("user_id", "item_id", "position", "item_duration_s", "history"),
        *("click", "like", "watch_s", "day"),
    ]
    assert table["history"].to_pylist() == [[]] * 100


def test_files_are_partitioned_by_day_in_bounded_row_groups(log_of: LogOf, tmp_path: Path) -> None:
    write_impressions(tmp_path / "log", log_of(rows=9000, days=3, row_group_rows=500, chunk_rows=2000))
    manifest = Manifest.build(str(tmp_path / "log"))
    assert {shard.partition["day"] for shard in manifest.shards} == {"2024-01-01", "2024-01-02", "2024-01-03"}
    assert manifest.rows == 9000
    assert manifest.row_groups.max() == 500
    group = pq.read_metadata(tmp_path / "log/day=2024-01-02/part-1.parquet").row_group(0)
    assert group.column(0).compression == "ZSTD"


def test_writing_holds_two_chunks_at_most(log_of: LogOf, tmp_path: Path) -> None:
    seen: list[weakref.ref[pa.Table]] = []
    most = 0

    def watched() -> Iterator[pa.Table]:
        nonlocal most
        for table in impressions(log_of(rows=5000, days=2, chunk_rows=250)):
            seen.append(weakref.ref(table))
            most = max(most, sum(reference() is not None for reference in seen))
            yield table
            del table

    write_dataset(watched(), tmp_path / "log", "day", log_of())
    assert len(seen) == 20
    assert 1 <= most <= 2


def test_exposures_are_drawn_chunk_by_chunk(log_of: LogOf) -> None:
    config = log_of(rows=10**12, days=2, chunk_rows=1000)
    chunk = next(expose(Population(config.population), config))
    assert chunk.users.size == 1000
