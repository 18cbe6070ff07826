"""The score is a product of powers of the predictions."""

import pytest
import torch

from ranking.errors import InputError
from ranking.schema import Task
from ranking.serving.fusion import FusionConfig, fuse

TASKS = (Task(name="click", label="c"), Task(name="like", label="l"), Task(name="watch", label="w", loss="mse"))
P = torch.tensor([[0.5, 0.2, 30.0], [0.1, 0.9, 4.0]])


def score(config: dict, predictions=P, length=None) -> list[float]:
    return fuse(predictions, TASKS, FusionConfig.model_validate(config), length).tolist()


def test_without_powers_the_binary_tasks_are_multiplied():
    assert score({}) == pytest.approx([0.5 * 0.2, 0.1 * 0.9])


def test_without_powers_and_binary_tasks_every_task_counts():
    assert fuse(P[:, 2:], TASKS[2:], FusionConfig()).tolist() == pytest.approx([30, 4])


def test_only_named_tasks_count_each_to_its_power():
    assert score({"powers": {"like": 2, "watch": -0.5}}) == pytest.approx([0.04 * 30**-0.5, 0.81 * 0.5])


def test_the_length_enters_as_a_power_of_its_column():
    lengths = torch.tensor([100.0, 25.0])
    config = {"powers": {"click": 1}, "length": {"column": "duration", "power": -0.5}}
    assert score(config, length=lengths) == pytest.approx([0.05, 0.02])


def test_a_prediction_of_zero_and_a_regression_below_it_score_last_but_positive():
    config = {"powers": {"click": 1, "watch": 1}}
    zero, negative, tiny = score(config, torch.tensor([[0.0, 0.5, 3.0], [0.9, 0.5, -7.0], [1e-6, 0.5, 1e-3]]))
    assert 0 < zero < tiny
    assert 0 < negative < tiny


def test_extreme_powers_stay_finite_and_positive():
    scores = torch.tensor(score({"powers": {"click": 1e4, "watch": -1e4}}))
    assert torch.isfinite(scores).all()
    assert (scores >= 0).all()
    assert score({"powers": {"click": -1e5}}) == pytest.approx([1e304, 1e304], rel=0.1)


def test_a_missing_prediction_is_not_hidden():
    assert torch.tensor(score({}, torch.tensor([[torch.nan, 0.5, 1.0]]))).isnan().all()


def test_an_unknown_task_is_named_by_its_path():
    with pytest.raises(InputError, match=r"^fusion\.powers\.share: unknown task; expected some of \['click'"):
        score({"powers": {"share": 1}})


@pytest.mark.parametrize("config", [{"powers": {"click": float("nan")}}, {"power": {}}, {"length": {"column": ""}}])
def test_a_section_that_makes_no_sense_is_refused(config):
    with pytest.raises(ValueError, match=r"finite|extra|at least 1"):
        FusionConfig.model_validate(config)
