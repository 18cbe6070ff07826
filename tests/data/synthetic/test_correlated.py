"""The paper's correlated tasks: what p means, and what a seed fixes."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from ranking.data.synthetic.correlated import CorrelatedConfig, CorrelatedTasks, correlated_tasks, pearson

LINEAR = CorrelatedConfig(dimensions=20, scale=2.0, noise=0.0)
WAVY = CorrelatedConfig(dimensions=20, alpha=(1.0, 2.0, 3.0), beta=(0.0, 1.0, 2.0))


@pytest.mark.parametrize("p", [-0.5, 0.0, 0.5, 0.9, 1.0])
def test_p_is_the_cosine_of_weights_of_length_c(p) -> None:
    first, second = CorrelatedTasks(LINEAR, p, runs=7, seed=1).weights.unbind(1)
    torch.testing.assert_close(first.norm(dim=1), torch.full((7,), 2.0))
    torch.testing.assert_close(second.norm(dim=1), torch.full((7,), 2.0))
    torch.testing.assert_close((first * second).sum(1) / 4, torch.full((7,), p), rtol=0, atol=1e-6)


@pytest.mark.parametrize("p", [0.0, 0.5, 0.9, 1.0])
def test_linear_labels_without_noise_correlate_as_p(p) -> None:
    correlations = pearson(CorrelatedTasks(LINEAR, p, runs=10, seed=2).draw(4000)[1])
    assert correlations.mean().item() == pytest.approx(p, abs=4 * (1 - p * p) / math.sqrt(40_000) + 1e-6)


def test_noise_shrinks_the_correlation_by_its_share_of_the_variance() -> None:
    config = LINEAR.model_copy(update={"scale": 1.0, "noise": 1.0})
    correlations = pearson(CorrelatedTasks(config, 1.0, runs=10, seed=3).draw(4000)[1])
    assert correlations.mean().item() == pytest.approx(0.5, abs=0.02)


def test_sinusoids_lower_the_correlation_but_it_stays_positive_and_rises_with_p() -> None:
    found = [pearson(CorrelatedTasks(WAVY, p, 10, seed=4).draw(4000)[1]).mean().item() for p in (0.3, 0.6, 0.9)]
    assert 0 < found[0] < found[1] < found[2]
    assert all(value < p for value, p in zip(found, (0.3, 0.6, 0.9), strict=True))


def test_the_label_is_the_formula_of_the_paper() -> None:
    tasks = CorrelatedTasks(WAVY, 0.5, runs=2, seed=5)
    x, _ = tasks.draw(3)
    z = float(x[1, 2] @ tasks.weights[1, 0])
    expected = z + math.sin(z) + math.sin(2 * z + 1) + math.sin(3 * z + 2)
    assert tasks.signal(x)[1, 2, 0].item() == pytest.approx(expected, abs=1e-5)


def test_noise_has_the_configured_variance() -> None:
    tasks = CorrelatedTasks(WAVY, 0.5, runs=4, seed=6)
    x, labels = tasks.draw(5000)
    noise = labels - tasks.signal(x)
    assert noise.var().item() == pytest.approx(0.01, rel=0.05)
    assert abs(pearson(noise).mean().item()) < 0.05  # eps1 and eps2 are independent


def test_a_seed_fixes_everything_and_inputs_do_not_depend_on_p() -> None:
    half, again, one = (CorrelatedTasks(WAVY, p, 3, seed=7) for p in (0.5, 0.5, 1.0))
    for left, right in zip(half.draw(4), again.draw(4), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)
    torch.testing.assert_close(half.weights[:, 0], one.weights[:, 0])
    one.draw(4)
    torch.testing.assert_close(half.draw(4)[0], one.draw(4)[0], rtol=0, atol=0)


def test_every_run_and_every_draw_is_fresh() -> None:
    tasks = CorrelatedTasks(WAVY, 0.5, 2, seed=8)
    first, second = tasks.draw(4)[0], tasks.draw(4)[0]
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(tasks.weights[0], tasks.weights[1])


def test_a_phase_belongs_to_every_frequency() -> None:
    with pytest.raises(ValidationError, match=r"beta: got 1 phases; expected one for each of 2 alpha"):
        CorrelatedConfig(alpha=(1.0, 2.0), beta=(0.0,))


def test_both_tasks_are_regressions() -> None:
    assert [task.kind for task in correlated_tasks()] == ["regression", "regression"]
