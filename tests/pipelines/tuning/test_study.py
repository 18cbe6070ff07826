"""A study between its workers: what the next trial tries, and how many are left."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from pipelines.tuning.study import as_seen, best, judged, open_study, origin, remaining, requeue, suggestions, turns
from ranking.errors import InputError
from ranking.training.search import Dimension, TuneConfig

pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage")  # these tests ask for trials one by one

SPACE = {"x": FloatDistribution(0, 1)}
TUNE = TuneConfig(space={"x": Dimension(low=0.0, high=1.0)}, trials=4, startup_trials=3, heartbeat=1)


def study(folder: Path, settings: TuneConfig = TUNE, seed: int = 0) -> optuna.Study:
    return open_study(settings, "name", seed, folder)


def ended(state: TrialState, x: float, value: float | None = None, **attributes: str) -> optuna.trial.FrozenTrial:
    return create_trial(state=state, value=value, params={"x": x}, distributions=SPACE, user_attrs=attributes)


def test_what_is_tried_depends_on_seed_number_and_past_alone(tmp_path: Path) -> None:
    def sequence(name: str, seed: int, interrupted: bool = False) -> list[float]:
        tried = []
        for _ in range(5):
            if interrupted or not tried:
                found = study(tmp_path / name, seed=seed)
            trial = found.ask()
            tried.append(suggestions(TUNE, trial)["x"])
            found.tell(trial, -((tried[-1] - 0.3) ** 2))
        return tried

    whole = sequence("whole", 1)
    assert sequence("parts", 1, interrupted=True) == pytest.approx(whole)
    assert len(set(whole)) == 5
    assert sequence("other", 2) != whole


@pytest.mark.parametrize(
    ("dimension", "value", "said"),
    [
        (Dimension(low=0.0, high=1.0), 0.4, None),
        (Dimension(low=0.0, high=1.0), 1.5, 'x is 1.5, the space {"low":0.0,"high":1.0}'),
        (Dimension(choices=([8], [16, 8])), [16, 8], None),
        (Dimension(choices=([8], [16, 8])), [4], 'x is [4], the space {"choices":[[8],[16,8]]}'),
    ],
)
def test_a_configuration_outside_the_space_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dimension: Dimension, value: object, said: str | None
) -> None:
    settings = TuneConfig(space={"x": dimension}, heartbeat=1)
    found = open_study(settings, "name", 0, tmp_path, {"x": value})
    messages = [record.getMessage() for record in caplog.records if record.name == "pipelines.tuning.study"]
    expected = f"the first trial is drawn, not the configuration as it stands: {said}"
    assert messages == ([expected] if said else [])
    assert (suggestions(settings, found.ask())["x"] == value) == (said is None)


def test_pruned_and_diverged_trials_teach_the_sampler(tmp_path: Path) -> None:
    found = study(tmp_path)
    found.add_trial(ended(TrialState.COMPLETE, 0.1, 0.7))
    found.add_trial(ended(TrialState.PRUNED, 0.5, 0.6))
    found.add_trial(ended(TrialState.FAIL, 0.9, error="the loss is not finite"))
    found.add_trial(ended(TrialState.FAIL, 0.2))  # its worker died: says nothing
    own = found.ask()
    seen, now = as_seen(found, found.get_trials()[own.number])
    assert [(t.params["x"], t.value) for t in seen.get_trials(states=(TrialState.COMPLETE,))] == [
        (0.1, 0.7), (0.5, 0.6), (0.9, 0.6)
    ]  # fmt: skip
    assert now.state == TrialState.RUNNING


def test_a_dead_workers_trial_costs_no_budget_and_a_diverged_one_does(tmp_path: Path) -> None:
    found = study(tmp_path)
    found.add_trial(ended(TrialState.COMPLETE, 0.1, 0.7))
    found.add_trial(ended(TrialState.FAIL, 0.9, error="refused"))
    found.add_trial(ended(TrialState.FAIL, 0.2))
    assert (len(judged(found)), remaining(found, TUNE)) == (2, 2)
    found.ask(), found.ask()
    assert remaining(found, TUNE) == 0  # the rest is with other workers
    found.add_trial(ended(TrialState.PRUNED, 0.9, 0.1))
    found.add_trial(ended(TrialState.COMPLETE, 0.9, 0.2))
    assert remaining(found, TUNE) is None


def test_a_worker_waits_for_the_last_trials_of_others_and_takes_over_a_dead_ones(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("pipelines.tuning.study._PAUSE", 0)
    found, waited = study(tmp_path), list[int]()
    other = found.ask()
    found.add_trial(ended(TrialState.COMPLETE, 0.1, 0.7))
    found.add_trial(ended(TrialState.COMPLETE, 0.2, 0.7))

    def waiting() -> None:
        waited.append(len(found.get_trials()))
        if len(waited) == 3:  # the other worker was stopped
            found.tell(other, state=TrialState.FAIL)
            requeue(found, other.number)

    taken = []
    for _ in turns(found, TUNE, waiting):
        trial = found.ask()
        taken.append(trial.number)
        found.tell(trial, 0.5)
    assert (taken, waited) == ([3, 4], [4, 4, 4])


def test_a_stopped_trial_waits_with_its_values_and_its_name(tmp_path: Path) -> None:
    found = study(tmp_path)
    first = found.ask()
    x = suggestions(TUNE, first)["x"]
    first.report(0.5, 8)
    found.tell(first, state=TrialState.FAIL)
    for attempt in range(1, 4):
        requeue(found, attempt - 1)
        requeue(found, attempt - 1)  # it waits already
        again = found.ask()
        assert suggestions(TUNE, again)["x"] == x
        own = found.get_trials()[again.number]
        assert (origin(own), own.intermediate_values) == (0, {8: 0.5})
        found.tell(again, state=TrialState.FAIL)


def test_stops_use_up_no_retries_of_killed_workers(tmp_path: Path) -> None:
    found = study(tmp_path)
    for _ in range(TUNE.retries + 2):
        trial = found.ask()
        suggestions(TUNE, trial)
        found.tell(trial, state=TrialState.FAIL)
        requeue(found, trial.number)
    attempts = [list(each.system_attrs.get("retry_history", [])) for each in found.get_trials()]
    killed = found._storage.get_heartbeat_stale_trial_callback()  # type: ignore[attr-defined]  # of RDBStorage
    for _ in range(TUNE.retries + 1):
        trial = found.ask()
        found.tell(trial, state=TrialState.FAIL)
        killed(found, found.get_trials()[trial.number])
    assert not any(attempts)
    assert [each.state for each in found.get_trials()] == [TrialState.FAIL] * (2 * TUNE.retries + 3)


def test_without_a_finished_trial_the_last_reason_is_told(tmp_path: Path) -> None:
    found = study(tmp_path)
    found.add_trial(ended(TrialState.FAIL, 0.9, error="step 3: the loss is not finite"))
    with pytest.raises(InputError, match="no trial finished; the last one: step 3: the loss is not finite"):
        best(found)


def test_another_space_is_another_study(tmp_path: Path) -> None:
    study(tmp_path)
    with pytest.raises(InputError, match=r"tune\.space: got .*; expected .*, as the study name was begun"):
        study(tmp_path, TUNE.model_copy(update={"space": {"x": Dimension(low=0.0, high=2.0)}}))
    study(tmp_path, TUNE.model_copy(update={"trials": 9}))  # more of the same
