"""What becomes of a night: how a failure is told, what its report hides, and who hears of it when MLflow is away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.job import Command
from pipelines.nightly.night import DayReport, Night
from pipelines.nightly.pages import publish
from pipelines.nightly.run import run
from pipelines.nightly.worker import NightStoppedError, SigtermGuard, WorkerError
from pipelines.retrain import retrain
from ranking.config import RunConfig
from ranking.data.findings import Finding
from ranking.errors import EXIT_OK, InputError, ServiceError
from ranking.promotion.registry import RegistryError
from ranking.tracking.runs import Run
from tests.launch import free_port
from tests.pipelines.test_retrain import DAY, Log, judged


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


class Failing:
    """A night whose first stage fails."""

    def __init__(self, folder: Path, error: Exception) -> None:
        self.folder, self.day, self.error = folder, DAY, error

    def after(self, _: str) -> tuple[str, Callable[[Night], Night]]:
        return "examined", self.examine

    def examine(self, _: Night) -> Night:
        raise self.error


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        ("infrastructure", ServiceError("s3://log/: got 'SlowDown'; expected an answer")),
        ("infrastructure", RegistryError("registry ranker at http://away: no answer")),
        ("infrastructure", WorkerError("training ended with code 1")),
        ("infrastructure", OSError("No space left on device")),
        ("bad_input", InputError("s3://log/: got 'Forbidden'; expected a readable file")),
        ("stopped", NightStoppedError("stopped by SIGTERM")),
        ("fault", KeyError("a bug")),
    ],
)
def test_what_failed_a_night_is_told_by_its_outcome(tmp_path: Path, outcome: str, error: Exception) -> None:
    assert run(Failing(tmp_path, error), SigtermGuard()).outcome == outcome  # type: ignore[arg-type]


def test_a_report_shows_no_secret_of_the_command_or_the_data(log: Log) -> None:
    options = (
        "--tracking.uri=postgresql://mlflow:canary/1@db/mlflow",
        '--data.storage_options={"key": "AK", "secret": "canary2"}',
        "--retrain.partition=https://blob/{date}/?sv=2024&sig=canary3",
    )
    found = Finding(level="error", where="files", message="https://blob/x.parquet?sig=canary4: got nothing")
    for outcome in ("bad_data", "infrastructure", "promoted"):
        night = judged(outcome=outcome, reason="https://u:canary5@blob/", data=DayReport(findings=(found,)))
        page = publish(night, log.config(*options), Command((log.yaml,), options))
        for text in (page.read_text(), page.with_suffix(".md").read_text()):
            assert "canary" not in text
            assert "--tracking.uri=postgresql://***@db/mlflow" in text


def test_what_mlflow_missed_of_a_night_the_same_command_delivers_once(
    log: Log, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    database = f"sqlite:///{log.folder}/nights.db"
    away, back = (
        log.config(f"--tracking.uri={uri}", f"--tracking.drain_seconds={seconds}", "--tracking.max_backoff=0.1")
        for uri, seconds in ((f"http://127.0.0.1:{free_port()}", 0), (database, 60))
    )
    folder = away.output / str(DAY)
    judged(reason="click: auc_change -0.1").save(folder)
    with Run.open(away.tracking, folder / "run", {}) as training:
        training.log_metrics({"loss": 0.5}, 1)

    def again(config: RunConfig) -> bool:
        assert retrain(config, Command((log.yaml,), ()), str(DAY)) == EXIT_OK
        night = Night.load(folder)
        assert night is not None
        return night.reported

    assert [again(away), again(away), again(back)] == [False, False, True]
    said = capsys.readouterr().out
    assert "done already" not in said
    assert "auc_change" not in said, "the gate has said it"
    assert again(back)
    assert "done already" in capsys.readouterr().out
    client = MlflowClient(database)
    runs = client.search_runs([client.get_experiment_by_name(back.tracking.experiment).experiment_id])
    found = {run.data.tags.get("retrain.outcome", "training"): run.info for run in runs}
    assert {outcome: info.status for outcome, info in found.items()} == {"promoted": "FINISHED", "training": "FINISHED"}
    for outcome, metric in (("promoted", "challenger/click/auc"), ("training", "loss")):
        assert len(client.get_metric_history(found[outcome].run_id, metric)) == 1
