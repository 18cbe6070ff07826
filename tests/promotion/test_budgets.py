"""Budgets: what serving may cost, and how far the scores may move."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import spearmanr

from ranking.promotion.budgets import Cost, LatencyConfig, ShadowConfig, judge_latency, judge_shadow, judge_size


def test_a_latency_is_bounded_for_itself_and_beside_the_champions():
    config = LatencyConfig(p95_ms=10, ratio=1.5)
    judged = {check.name: check for check in judge_latency(Cost(9.0, 1), Cost(5.0, 1), config)}
    assert (judged["latency"].passed, judged["latency_ratio"].passed) == (True, False)
    assert judged["latency_ratio"].value == pytest.approx(1.8)
    assert [check.name for check in judge_latency(Cost(11.0, 1), None, config) if not check.passed] == ["latency"]
    assert judge_latency(Cost(9.0, 1), Cost(5.0, 1), LatencyConfig()) == []


def test_a_latency_that_was_not_measured_fails():
    config = LatencyConfig(p95_ms=10, ratio=1.5)
    assert not any(check.passed for check in judge_latency(Cost(None, 1), Cost(5.0, 1), config))


def test_a_size_is_bounded_where_a_bound_is_set():
    assert judge_size(Cost(None, 3.0), None) == []
    assert [judge_size(Cost(None, 3.0), most)[0].passed for most in (2.0, 3.0, 4.0)] == [False, True, True]


def test_shadow_scores_are_reported_and_bounded():
    draw = np.random.default_rng(0)
    old = draw.random(5000)
    new = np.where(draw.random(5000) < 0.1, old * 1.5, old * 1.1)
    checks, told = judge_shadow(new, old, ShadowConfig(rows=5000))
    assert checks == []
    moved = np.mean(np.abs(new / old - 1) > 0.2)
    assert told.startswith(f"shadow: the score of {moved:.1%} of 5000 rows moves by more than 20%")
    assert told.endswith(f"{spearmanr(new, old).statistic:.4f}")
    share, correlation = judge_shadow(new, old, ShadowConfig(rows=5000, max_moved=0.05, min_correlation=0.5))[0]
    assert (share.passed, correlation.passed) == (False, True)
    assert share.value == pytest.approx(moved)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_scores_that_are_not_finite_fail_every_bound(wrong):
    new = np.linspace(0.1, 0.9, 50)
    new[3] = wrong
    checks, told = judge_shadow(new, np.linspace(0.1, 0.9, 50), ShadowConfig(max_moved=1, min_correlation=-1))
    assert [check.passed for check in checks] == [False, False]
    assert "undefined" in told


def test_constant_scores_have_no_rank_correlation():
    (check,), _ = judge_shadow(np.full(9, 0.5), np.linspace(0, 1, 9), ShadowConfig(min_correlation=-1))
    assert (check.passed, check.value) == (False, None)


@pytest.mark.parametrize(("kind", "values"), [(LatencyConfig, {"p95_ms": 0}), (ShadowConfig, {"moved": float("inf")})])
def test_bounds_that_make_no_sense_are_refused(kind, values):
    with pytest.raises(ValidationError):
        kind(**values)
