"""The tuner: real trainings as trials of a study that workers share, lose and take up again."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
import yaml

from ranking.config import load, setting
from ranking.errors import EXIT_FAILURE, EXIT_STOPPED
from tests.launch import Ended, Job, run
from tests.pipelines.test_train import statuses
from tests.workspace import Workspace, build

pytestmark = pytest.mark.filterwarnings("ignore")  # of MLflow, SQLAlchemy and optuna, about their own code

SPACE = {
    "optimizer.dense.learning_rate": {"low": 1e-7, "high": 0.03, "log": True},
    "model.experts": {"low": 2, "high": 6},
    "model.bottom": {"choices": [[16, 8], [8]]},
    "schema.tasks.like.weight": {"low": 0.5, "high": 3},
}
OFFLINE = ("--tracking.uri=http://127.0.0.1:9", "--tracking.drain_seconds=0", "--tracking.request_timeout=1")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace whose test rows are nowhere to be found."""
    workspace = build(tmp_path_factory.mktemp("tune"))
    content = yaml.safe_load(workspace.yaml.read_text())
    content["data"]["test"] = str(workspace.folder / "nowhere/*.parquet")
    content["tune"] = {"metric": "r2", "tasks": ["watch"]}  # which learning rates tell apart within seconds
    content["tune"] |= {"space": SPACE, "pruner": {"type": "median", "startup_trials": 1}, "startup_trials": 2}
    workspace.yaml.write_text(yaml.safe_dump(content))
    return workspace


def arguments(home: Workspace, output: Path, *more: str) -> list[str]:
    return home.arguments(f"--output={output}", "--training.epochs=3", "--evaluation.every=8", *more)


def rows(output: Path, target: str = "model") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((output / "tune" / target / "trials.json").read_text())
    return found


@pytest.fixture(scope="module")
def searched(home: Workspace) -> tuple[Path, Ended]:
    output = home.folder / "searched"
    (ended,) = run(home.folder, "pipelines.tune", arguments(home, output, "--tune.trials=4"))
    assert ended.code == 0, ended.err
    return output, ended


def test_the_first_trial_is_the_configuration_as_it_stands(home, searched) -> None:
    config = load([home.yaml])
    first = rows(searched[0])[0]
    assert first["values"] == {path: setting(config, path) for path in SPACE}


def test_a_trial_tries_what_the_space_holds_and_is_judged_by_its_best_evaluation(searched) -> None:
    trials = rows(searched[0])
    assert [trial["trial"] for trial in trials] == list(range(4))
    for trial in trials:
        values = trial["values"]
        assert 1e-7 <= values["optimizer.dense.learning_rate"] <= 0.03
        assert values["model.experts"] in range(2, 7)
        assert values["model.bottom"] in ([16, 8], [8])
        if trial["state"] == "complete":
            assert trial["evaluations"].keys() == {"8", "16", "24"}
            assert trial["value"] == max(trial["evaluations"].values())


def test_a_hopeless_trial_is_stopped_at_an_evaluation(searched) -> None:
    pruned = [trial for trial in rows(searched[0]) if trial["state"] == "pruned"]
    assert pruned
    for trial in pruned:
        assert list(trial["evaluations"]) in (["8"], ["8", "16"])
        assert f"trial {trial['trial']}: stopped at step {list(trial['evaluations'])[-1]}" in searched[1].err


def test_the_best_is_an_overlay_that_trains(home, searched) -> None:
    output = searched[0]
    file = output / "tune/model/best.yaml"
    best = max((trial for trial in rows(output) if trial["state"] == "complete"), key=lambda trial: trial["value"])
    config = load([home.yaml, file])
    assert {path: setting(config, path) for path in SPACE} == best["values"]
    assert config.schema.task_names == ("click", "like", "watch")
    assert f"-c {file}" in searched[1].out


def test_mlflow_shows_every_trial_below_the_study(home, searched) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{home.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("ranking")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [each for each in runs if each.info.run_name == "tiny-tune"]
    below = [each for each in runs if each.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {each.data.tags["tune.trial"] for each in below} == set("0123")
    states = {"complete": "FINISHED", "pruned": "KILLED"}
    assert [states[trial["state"]] for trial in rows(searched[0])] == [
        next(each for each in below if each.data.tags["tune.trial"] == str(n)).info.status for n in range(4)
    ]
    assert parent.info.status == "FINISHED"
    figures = {file.path for file in client.list_artifacts(parent.info.run_id, "figures")}
    assert {f"figures/{name}.png" for name in ("history", "importances", "parallel", "slices")} <= figures
    assert any(file.path == "best.yaml" for file in client.list_artifacts(parent.info.run_id))


def test_a_study_that_is_over_only_reports(home, searched) -> None:
    output, before = searched[0], rows(searched[0])
    (ended,) = run(home.folder, "pipelines.tune", arguments(home, output, "--tune.trials=4", *OFFLINE))
    assert ended.code == 0, ended.err
    assert rows(output) == before
    assert not re.search(r"trial \d+:", ended.err)


def test_checkpoints_of_trials_are_not_kept(searched) -> None:
    assert not list(searched[0].rglob("attempts"))


def wait_for(job: Job, file: Path, pattern: str) -> None:
    deadline = time.monotonic() + 60
    while not list(file.glob(pattern)):
        assert job.ranks[0].is_alive(), job.err(0)
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_killed_workers_trial_goes_on_and_a_stopped_ones_too(home, tmp_path) -> None:
    """kill -9, then SIGTERM, then two workers at once, one of them on two ranks."""
    options = arguments(home, tmp_path, "--tune.heartbeat=1", "--tune.trials=2", *OFFLINE)
    options += ["--tune.pruner.startup_trials=9", "--training.epochs=8", "--evaluation.every=4"]
    trials = tmp_path / "tune/model/trials"
    job = Job(tmp_path, "pipelines.tune", options)
    wait_for(job, trials, "0000-*/checkpoints/commits/*.json")
    job.signal(signal.SIGKILL)
    job.wait()

    time.sleep(3.1)  # as long as a silent trial is given
    job = Job(tmp_path, "pipelines.tune", options)
    wait_for(job, trials, f"0000-*/checkpoints/commits/{24:020d}.json")
    job.signal(signal.SIGTERM)
    (ended,) = job.wait()
    assert ended.code == EXIT_STOPPED, ended.err
    assert "step 3/64" not in ended.err  # it went on from the checkpoint
    assert statuses(next(trials.glob("0000-*"))) == ["RUNNING", "KILLED"]

    jobs = [Job(tmp_path, "pipelines.tune", options, size=size) for size in (1, 2)]
    answers = [job.wait() for job in jobs]
    assert [ended.code for answer in answers for ended in answer] == [0, 0, 0], answers[0][0].err + answers[1][0].err
    found = rows(tmp_path)
    states = [trial["state"] for trial in found]
    assert states.count("fail") == 2
    assert 2 <= states.count("complete") <= 3
    first = [trial for trial in found if trial["values"] == found[0]["values"]]
    assert [trial["state"] for trial in first] == ["fail", "fail", "complete"]
    assert len(first[-1]["evaluations"]) == 16


def test_sigterm_ends_a_study_with_75_on_every_rank_and_leaves_the_trial_waiting(home, tmp_path) -> None:
    options = arguments(home, tmp_path, "--tune.trials=1", "--training.epochs=99", *OFFLINE)
    job = Job(tmp_path, "pipelines.tune", options, size=2)
    wait_for(job, tmp_path / "tune/model/trials", "0000-*/checkpoints/commits/*.json")
    job.signal(signal.SIGTERM)
    ended = job.wait()
    assert [each.code for each in ended] == [EXIT_STOPPED] * 2, ended[0].err
    assert "stopped after a commit; run the same command again to resume the trial" in ended[0].err
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path / 'tune/model/study.db'}")
    assert [trial.state.name for trial in study.get_trials()] == ["FAIL", "WAITING"]


@pytest.mark.parametrize(
    ("fault", "size", "line"),
    [
        ("0:fill:write:2", 2, "[Errno 28] No space left on device; expected free disk space"),
        ("0:overtake:commit:2", 1, "this launch (token 1) lost the run directory: "),
    ],
)
def test_a_trial_is_not_charged_with_what_happens_to_its_worker(home, tmp_path, fault, size, line) -> None:
    options = arguments(home, tmp_path / "run", "--tune.heartbeat=1", "--tune.trials=1", *OFFLINE)
    options += ["--checkpoints.on_failure=stop", "--training.epochs=4"]
    ended = Job(tmp_path, "tests.faulty", [fault, *options], size, JOB="pipelines.tune").wait()
    assert {each.code for each in ended} == {EXIT_FAILURE}
    assert line in ended[0].errors[0]

    ended = run(tmp_path, "pipelines.tune", options, size)
    assert {each.code for each in ended} == {0}, ended[0].err
    assert "step 9/32" in ended[0].err
    assert "step 3/32" not in ended[0].err  # it went on from the checkpoint
    assert [(trial["state"], trial["error"]) for trial in rows(tmp_path / "run")] == [
        ("fail", None),
        ("complete", None),
    ]
