"""Random numbers by counter."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from ranking.data.synthetic.draws import pick, uniform, zipf

ROWS = np.arange(100_000)


def test_a_number_depends_on_its_counter_and_not_on_what_was_drawn_before() -> None:
    assert np.array_equal(uniform(0, "click", ROWS)[500:700], uniform(0, "click", ROWS[500:700]))


def test_numbers_are_uniform_and_neighbours_unrelated() -> None:
    numbers = uniform(0, "click", ROWS)
    assert kstest(numbers, "uniform").statistic < 0.006  # passed by 99.9 % of true uniform samples
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.015
    assert ((numbers > 0) & (numbers < 1)).all()


@pytest.mark.parametrize(
    "other",
    [uniform(1, "click", ROWS), uniform(0, "like", ROWS), uniform(0, "click", ROWS, ROWS)],
    ids=["seed", "stream", "second counter"],
)
def test_another_seed_stream_or_counter_gives_unrelated_numbers(other: np.ndarray) -> None:
    assert abs(np.corrcoef(uniform(0, "click", ROWS), other)[0, 1]) < 0.015


def test_counters_broadcast() -> None:
    table = uniform(0, "item", np.arange(3)[:, None], np.arange(4)[None, :])
    assert table[2, 3] == uniform(0, "item", np.array([2]), np.array([3]))[0]
    assert np.unique(table).size == 12


def test_zipf_falls_by_a_power_of_the_rank() -> None:
    shares = zipf(1000, 1.2)
    assert shares.sum() == pytest.approx(1)
    assert shares[0] / shares[9] == pytest.approx(10**1.2)


def test_pick_draws_in_proportion() -> None:
    drawn = pick(np.cumsum([0.5, 0.2, 0.3]), uniform(0, "item", ROWS))
    assert np.bincount(drawn) / ROWS.size == pytest.approx([0.5, 0.2, 0.3], abs=0.006)
