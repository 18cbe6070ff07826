"""The ground truth behind a synthetic log."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pydantic import ValidationError

from ranking.data.synthetic.draws import uniform
from ranking.data.synthetic.population import Population, PopulationConfig

People = Callable[..., PopulationConfig]


def met(population: Population, rows: int = 100_000) -> tuple[np.ndarray, np.ndarray]:
    """Users and items as they meet in a log."""
    numbers = np.arange(rows)
    return population.draw_users(9, numbers), population.draw_items(9, numbers)


@pytest.mark.parametrize("p", [-1.0, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("exponent", [0.0, 1.3])
def test_affinities_correlate_as_configured_whatever_the_popularities(
    people: People, p: float, exponent: float
) -> None:
    population = Population(people(correlation=p, item_exponent=exponent))
    affinities = population.affinities(*met(population))
    assert np.corrcoef(affinities.T)[0, 1] == pytest.approx(p, abs=0.02)
    assert affinities.mean(0) == pytest.approx([0, 0], abs=0.02)
    assert affinities.std(0) == pytest.approx([1, 1], abs=0.03)


def test_correlation_turns_satisfaction_and_leaves_engagement(people: People) -> None:
    same, apart = (Population(people(correlation=p)) for p in (1.0, 0.0))
    users, items = met(same, 1000)
    assert np.array_equal(same.affinities(users, items)[:, 0], apart.affinities(users, items)[:, 0])
    assert same.affinities(users, items)[:, 0] == pytest.approx(same.affinities(users, items)[:, 1], abs=1e-4)


def test_a_position_is_examined_less_than_the_one_above(population: Population) -> None:
    positions = np.arange(10)
    clicks = population.probabilities(np.full(10, 5), np.full(10, 7), positions)[0]
    assert (np.diff(clicks) < 0).all()
    assert clicks / clicks[0] == pytest.approx((1 + positions) ** -0.5)


def test_without_position_bias_all_positions_are_alike(people: People) -> None:
    flat = Population(people(position_bias=0.0))
    assert np.ptp(flat.probabilities(np.full(10, 5), np.full(10, 7), np.arange(10))[0]) == 0


def test_satisfaction_does_not_depend_on_the_position(population: Population) -> None:
    users, items = met(population, 10)
    _, likes = population.probabilities(users, items, np.arange(10))
    assert np.array_equal(likes, population.probabilities(users, items, np.zeros_like(items))[1])


def test_the_head_of_popularity_follows_zipf(people: People) -> None:
    population = Population(people(items=1000, item_exponent=1.0))
    _, items = met(population)
    shares = np.sort(np.bincount(items, minlength=1000))[::-1] / items.size
    harmonic = (1 / np.arange(1, 1001)).sum()
    assert shares[:10].sum() == pytest.approx((1 / np.arange(1, 11)).sum() / harmonic, abs=0.01)


def test_candidates_stand_once_in_a_request(population: Population) -> None:
    items = population.candidates(0, np.arange(50), 100)
    assert items.shape == (50, 100)
    for request in items:
        kept = request[request >= 0]
        assert np.unique(kept).size == kept.size > 30


def test_a_clicked_item_is_watched_for_a_part_of_its_length(population: Population) -> None:
    users, items = met(population, 1000)
    seconds = population.watch_seconds(users, items, uniform(0, "watch", users))
    assert ((seconds > 0) & (seconds < population.seconds[items])).all()


def test_the_seed_makes_the_population(people: People) -> None:
    first, again, other = Population(people()), Population(people()), Population(people(seed=4))
    users, items = met(first, 100)
    assert np.array_equal(first.affinities(users, items), again.affinities(users, items))
    assert not np.allclose(first.affinities(users, items), other.affinities(users, items))


def test_a_click_rate_beyond_what_is_examined_is_refused(people: People) -> None:
    with pytest.raises(ValidationError, match=r"click_rate: got 0\.6; expected less than 0\.502"):
        people(click_rate=0.6)
