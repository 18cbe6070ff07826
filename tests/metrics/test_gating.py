"""Health of gates and experts, on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from ranking.metrics.gating import GateHealth, MixtureHealth, collapse_warning, dead_share, gate_health, similarity

DRAW = np.random.default_rng(0)


def mixture(**gates: list[float]) -> MixtureHealth:
    found = {name: gate_health(np.array(weights), 0.5, len(weights)) for name, weights in gates.items()}
    return MixtureHealth(gates=found, dead_experts=dead_share([np.array(list(gates.values()))]))


def test_entropy_is_one_for_even_weights_and_zero_for_a_single_expert() -> None:
    assert gate_health(np.full(5, 0.2), 0, 5).entropy == pytest.approx(1)
    assert gate_health(np.array([0, 1.0, 0]), 0, 3).entropy == pytest.approx(0)
    half = gate_health(np.array([0.5, 0.5, 0, 0]), np.log(2), 4)
    assert (half.entropy, half.row_entropy) == (pytest.approx(0.5), pytest.approx(0.5))


def test_experts_that_a_gate_cannot_see_do_not_count() -> None:
    assert gate_health(np.array([0.5, 0.5, 0, 0]), np.log(2), 2).entropy == pytest.approx(1)
    assert gate_health(np.array([1.0, 0]), 0, 1) == GateHealth(weights=(1, 0), entropy=None, row_entropy=None)


def test_an_expert_is_dead_when_no_gate_uses_it() -> None:
    tasks = np.array([[0.991, 0.004, 0.005, 0.0], [0.4, 0.5, 0.1, 0.0]])
    assert dead_share([tasks]) == 0.25
    assert dead_share([tasks, np.array([[0, 0, 0, 1.0]])]) == 0


def test_many_experts_that_share_the_weight_evenly_are_all_alive() -> None:
    many = np.full((1, 4096), 1 / 4096)
    assert dead_share([many]) == 0
    many[0, :1024] /= 20
    assert dead_share([many]) == 0.25


def test_experts_that_are_rotations_of_each_other_are_alike() -> None:
    one = DRAW.normal(size=(300, 6))
    turn, _ = np.linalg.qr(DRAW.normal(size=(6, 6)))
    assert similarity(np.stack([one, 3 * one @ turn + 5])) == pytest.approx(1)


def test_unrelated_experts_are_not_however_wide_they_are() -> None:
    assert similarity(DRAW.normal(size=(4, 100, 80))) == pytest.approx(0, abs=0.03)


def test_the_similarity_is_the_mean_over_pairs() -> None:
    one, other = DRAW.normal(size=(2, 400, 4))
    assert similarity(np.stack([one, one, other])) == pytest.approx(1 / 3, abs=0.03)


def test_a_constant_expert_has_no_similarity() -> None:
    one = DRAW.normal(size=(50, 3))
    assert similarity(np.stack([one, np.ones_like(one)])) is None
    assert similarity(np.stack([one, one, np.ones_like(one)])) == pytest.approx(1)
    assert similarity(one[None]) is None


def test_a_collapse_is_one_line_with_figures_and_a_remedy() -> None:
    health = mixture(click=[0.3, 0.3, 0.4], like=[0.01, 0.97, 0.02], follow=[0, 1, 0])
    line = collapse_warning({"architecture": health}, 0.95, 90)
    assert line is not None
    assert "\n" not in line
    start = "step 90: the gate of architecture for 'like' gives 97% of its weight to expert 1 of 3 (entropy 0.1"
    assert line.startswith(start)
    for part in ("0% of the experts dead", "also architecture follow", "model.balance", "fewer experts"):
        assert part in line
    assert collapse_warning({"architecture": health}, 1.01, 90) is None


def test_metrics_are_flat_and_leave_out_what_is_undefined() -> None:
    found = mixture(click=[0.25, 0.75]).metrics()
    assert found.keys() == {"dead_experts", "click/entropy", "click/row_entropy", "click/weight_0", "click/weight_1"}
