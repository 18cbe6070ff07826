"""Rankers side by side on the same visits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from ranking.data.synthetic.features import FeatureConfig, Features, History
from ranking.data.synthetic.population import Population, PopulationConfig
from ranking.data.synthetic.traffic import Served, TrafficConfig, lift, simulate

Rankers = dict[str, Callable[[pa.Table], np.ndarray]]
Serve = Callable[..., dict[str, Served]]


def pairs(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    return table["user_id"].to_numpy(), table["item_id"].to_numpy()


@pytest.fixture(scope="module")
def rankers(population: Population) -> Rankers:
    def engaging(table: pa.Table) -> np.ndarray:
        return population.affinities(*pairs(table))[:, 0]

    return {
        "engaging": engaging,
        "satisfying": lambda table: engaging(table) + population.affinities(*pairs(table))[:, 1],
        "popular": lambda table: population.popularity[pairs(table)[1]],
        "worst": lambda table: -engaging(table),
    }


@pytest.fixture(scope="module")
def serve(population: Population) -> Serve:
    features = Features(population, FeatureConfig(history=4))
    history = History(population.config.users, 4)

    def run(rankers: Rankers, **settings: int) -> dict[str, Served]:
        return simulate(rankers, population, features, history, TrafficConfig(**{"users": 1500, **settings}))

    return run


@pytest.fixture(scope="module")
def served(serve: Serve, rankers: Rankers) -> dict[str, Served]:
    return serve(rankers)


def test_who_knows_the_affinity_serves_best_and_its_opposite_worst(served: dict[str, Served]) -> None:
    clicks = {name: result.engagement.mean() for name, result in served.items()}
    assert clicks["engaging"] > clicks["popular"] > clicks["worst"]


def test_ranking_for_satisfaction_trades_clicks_for_likes(served: dict[str, Served]) -> None:
    gains = {
        what: lift(getattr(served["satisfying"], what), getattr(served["engaging"], what), 0.95)
        for what in ("engagement", "satisfaction")
    }
    assert gains["engagement"].high < 0 < gains["satisfaction"].low


def test_equal_lists_have_equal_outcomes(serve: Serve, rankers: Rankers, served: dict[str, Served]) -> None:
    doubled = serve({"again": lambda table: 2 * rankers["engaging"](table)})["again"]
    assert np.array_equal(doubled.engagement, served["engaging"].engagement)
    assert np.array_equal(doubled.satisfaction, served["engaging"].satisfaction)
    gain = lift(doubled.engagement, served["engaging"].engagement, 0.95)
    assert gain == (0, 0, 0)


def test_pairs_make_the_interval_shorter(serve: Serve, rankers: Rankers) -> None:
    close = {
        "a": rankers["engaging"],
        "b": lambda table: rankers["engaging"](table) + 0.01 * rankers["popular"](table),
    }
    first, second = serve(close).values()
    paired = lift(second.engagement, first.engagement, 0.95)
    unpaired = lift(second.engagement, np.roll(first.engagement, 1), 0.95)
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)


def test_outcomes_come_at_the_true_rates(serve: Serve, population: Population) -> None:
    seen = []

    def by_item(table: pa.Table) -> np.ndarray:
        seen.append(table)
        return -table["item_id"].to_numpy()

    clicks = serve({"by_item": by_item}, candidates=1, visits=3)["by_item"].engagement
    users, items = (np.concatenate(parts) for parts in zip(*map(pairs, seen), strict=True))
    truth = population.probabilities(users, items, np.zeros_like(items))[0]
    assert clicks.size == 1500
    assert users.size == 4500
    assert abs(clicks.sum() - truth.sum()) < 4 * np.sqrt((truth * (1 - truth)).sum())


def test_an_item_is_shown_once_in_a_visit(serve: Serve) -> None:
    constant = serve({"constant": lambda table: np.zeros(table.num_rows)}, candidates=1)
    many = serve({"constant": lambda table: np.zeros(table.num_rows)}, candidates=100)
    assert many["constant"].engagement.max() <= 10
    assert constant["constant"].engagement.max() <= 1


def test_candidates_are_shown_to_the_ranker_at_the_first_position(serve: Serve) -> None:
    def check(table: pa.Table) -> np.ndarray:
        assert set(table["position"].to_pylist()) == {0}
        assert "history" in table.column_names
        return np.zeros(table.num_rows)

    serve({"check": check}, users=10)


def test_the_size_of_chunks_changes_no_outcome(serve: Serve, rankers: Rankers, served: dict[str, Served]) -> None:
    parts = serve({"engaging": rankers["engaging"]}, chunk_users=37)["engaging"]
    assert np.array_equal(parts.engagement, served["engaging"].engagement)


def test_the_interval_covers_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    old = draw.poisson(2.0, (1000, 400)).astype(float)
    new = old + draw.poisson(0.2, old.shape)
    for level in (0.90, 0.95):
        gains = [lift(b, a, level) for a, b in zip(old, new, strict=True)]
        covered = np.mean([gain.low <= 0.1 <= gain.high for gain in gains])
        assert covered == pytest.approx(level, abs=0.03)


def test_there_is_no_gain_over_nothing() -> None:
    assert lift(np.ones(3), np.zeros(3), 0.95) is None


def test_a_population_with_one_taste_rewards_both_tasks_alike(people: Callable[..., PopulationConfig]) -> None:
    population = Population(people(correlation=1.0))
    order = np.argsort(population.affinities(np.zeros(50, int), np.arange(50)), axis=0)
    assert np.array_equal(order[:, 0], order[:, 1])
