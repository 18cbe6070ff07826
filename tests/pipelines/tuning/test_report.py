"""The figures of a study, which optuna draws: none that warns, and settings that can be read."""

from __future__ import annotations

import optuna

from pipelines.tuning.report import draw


def study(trials: int) -> optuna.Study:
    """One setting is the same in all of its trials."""
    found = optuna.create_study(direction="maximize")

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("optimizer.dense.learning_rate", 0.001, 0.01)
        return rate + trial.suggest_int("model.experts", 4, 4)

    found.optimize(objective, n_trials=trials)
    return found


def test_what_needs_two_trials_is_not_drawn_of_one() -> None:
    assert draw(study(1), "auc").keys() == {"history"}


def test_settings_are_named_by_the_whole_end_of_their_paths() -> None:
    drawn = draw(study(3), "auc")
    assert drawn.keys() == {"history", "slices", "importances", "parallel"}
    names = ["model.experts", "dense.learning_rate"]
    assert [tick.get_text() for tick in drawn["parallel"].axes[0].get_xticklabels()] == ["auc", *names]
    assert [axes.get_xlabel() for axes in drawn["slices"].axes[:2]] == names
