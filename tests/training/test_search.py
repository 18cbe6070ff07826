"""The search space: what YAML says, and what a trial is given."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ranking.training.search import Dimension, TuneConfig


class Fake:
    """Says how it was asked, and answers with the upper end."""

    asked: tuple[Any, ...] = ()

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self.asked = ("int", name, low, high, step, log)
        return high

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        self.asked = ("float", name, low, high, step, log)
        return high

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.asked = ("choice", name, tuple(choices))
        return choices[-1]


@pytest.mark.parametrize(
    ("section", "asked", "given"),
    [
        ({"low": 2, "high": 8}, ("int", "x", 2, 8, 1, False), 8),
        ({"low": 2, "high": 8, "step": 2}, ("int", "x", 2, 8, 2, False), 8),
        ({"low": 1, "high": 64, "log": True}, ("int", "x", 1, 64, 1, True), 64),
        ({"low": 0, "high": 0.5, "step": 0.1}, ("float", "x", 0, 0.5, 0.1, False), 0.5),
        ({"low": "1e-4", "high": 0.1, "log": True}, ("float", "x", 1e-4, 0.1, None, True), 0.1),
        ({"choices": ["adam", "sgd"]}, ("choice", "x", ("adam", "sgd")), "sgd"),
        ({"choices": [[8], [16, 8]]}, ("choice", "x", ("[8]", "[16, 8]")), [16, 8]),
    ],
)
def test_a_trial_is_asked_for_what_the_section_says(section: dict[str, Any], asked: tuple, given: Any) -> None:
    trial = Fake()
    assert Dimension.model_validate(section).suggest(trial, "x") == given
    assert trial.asked == asked


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "expected either low and high, or choices"),
        ({"low": 1}, "expected either low and high, or choices"),
        ({"low": 1, "high": 2, "choices": [1]}, "expected either low and high, or choices"),
        ({"low": 2, "high": 1}, "high: got 1; expected more than low, 2"),
        ({"low": 0, "high": 1, "log": True}, "expected low above 0"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Dimension.model_validate(section)


def test_a_value_is_called_as_the_study_calls_it_or_not_at_all() -> None:
    numbers, lists = Dimension(low=1, high=4), Dimension(choices=([8], [16, 8]))
    assert [numbers.label(value) for value in (0, 1, 4, 5, "x", None)] == [None, 1, 4, None, None, None]
    assert (lists.label([16, 8]), lists.label([4])) == ("[16, 8]", None)


def test_the_direction_is_what_the_metric_wants() -> None:
    found = {metric: TuneConfig(metric=metric).better for metric in ("auc", "gauc", "r2", "log_loss", "mse")}
    assert found == {"auc": "maximize", "gauc": "maximize", "r2": "maximize", "log_loss": "minimize", "mse": "minimize"}
    assert TuneConfig(direction="minimize").better == "minimize"
    assert TuneConfig(metric="mse", target="fusion").better == "maximize"


def test_the_password_of_a_storage_is_never_shown() -> None:
    config = TuneConfig.model_validate({"storage": "postgresql://me:canary@host/db"})
    assert "canary" not in config.model_dump_json() + repr(config)
