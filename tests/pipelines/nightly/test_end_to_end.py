"""Retraining with real parts: MLflow on PostgreSQL, artifacts and data in S3, a night for every kind of day."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from pipelines.nightly.night import Night
from ranking.errors import EXIT_BAD_DATA, EXIT_INFRASTRUCTURE, EXIT_NOT_PROMOTED, EXIT_OK
from ranking.promotion.registry import Registry
from tests.launch import Ended, Job, free_port
from tests.pipelines.nightly.services import ARTIFACTS, DATA, Services, served, services
from tests.workspace import content, impressions

FIRST, DAYS, ROWS = date(2022, 5, 1), 7, 1200
BAD = date(2022, 5, 7)
UNTRAINED = [
    "--retrain.scratch_every=1",
    "--optimizer.sparse.learning_rate=1e-9",
    "--optimizer.dense.learning_rate=1e-9",
]


class Deployment:
    """A bucket with a week of impressions, a configuration, and the services."""

    def __init__(self, folder: Path, services: Services) -> None:
        self.folder, self.services = folder, services
        for number in range(DAYS):
            self.deliver(FIRST + timedelta(days=number), impressions(ROWS, seed=number))
        settings = content(folder)
        for section in ("train", "validation", "test"):
            settings["data"][section] = f"s3://{DATA}/log/*/*.parquet"
        settings["evaluation"] = {"batch_size": 256}
        settings["training"] = {"epochs": 3, "log_every": 20}
        settings["output"] = str(folder / "nights")
        settings["tracking"] = {"uri": services.tracking, "experiment": "nights", "drain_seconds": 60}
        settings["gate"] = {"tasks": ["click"], "margin": 0.1, "improve": "none", "calibration": [0.2, 5], "ece_max": 1}
        settings["retrain"] = {
            "partition": f"s3://{DATA}/log/day={{date}}/",
            "window": 3,
            "scratch_every": 0,
            "warm_days": "unseen",
            "warm_epochs": 2,
            "keep_checkpoints": 1,
        }
        (folder / "nightly.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))

    def deliver(self, day: date, table: pa.Table) -> None:
        if day == BAD:  # milliseconds where there were seconds
            table = table.set_column(
                table.column_names.index("duration"), "duration", pc.multiply(table["duration"], 1000)
            )
        with self.services.files.open(f"{DATA}/log/day={day}/part-0.parquet", "wb") as file:
            pq.write_table(table, file, row_group_size=100, write_page_checksum=True)

    def job(self, name: str, *options: str, **variables: str) -> Ended:
        arguments = ["-c", str(self.folder / "nightly.yaml"), *options]
        (ended,) = Job(self.folder, f"pipelines.{name}", arguments, **self.services.variables | variables).wait(600)
        return ended

    def night(self, day: str) -> Night:
        night = Night.load(self.folder / "nights" / day)
        assert night is not None
        return night

    @property
    def registry(self) -> Registry:
        return Registry(self.services.tracking, "ranker")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with services() as running:
        yield Deployment(tmp_path_factory.mktemp("nightly"), running)


@pytest.fixture(scope="module")
def ended(deployment: Deployment) -> dict[str, Ended]:
    """Three good nights, one whose model learns nothing, one whose data is bad."""
    return {
        "good": deployment.job("retrain", "--backfill", "2022-05-03:2022-05-05"),
        "worse": deployment.job("retrain", "--date", "2022-05-06", *UNTRAINED),
        "bad": deployment.job("retrain", "--date", "2022-05-07"),
    }


def test_three_nights_promote_three_models(deployment: Deployment, ended: dict[str, Ended]) -> None:
    assert ended["good"].code == EXIT_OK, ended["good"].err
    nights = [deployment.night(f"2022-05-0{day}") for day in (3, 4, 5)]
    assert [(night.outcome, night.version, night.champion) for night in nights] == [
        ("promoted", 1, None),
        ("promoted", 2, 1),
        ("promoted", 3, 2),
    ]
    first, second, _ = (night.plan for night in nights)
    assert first
    assert second
    assert (first.train, first.validation, first.judge) == (
        (FIRST, date(2022, 5, 2)),
        date(2022, 5, 3),
        date(2022, 5, 4),
    )
    assert first.why.startswith("from scratch")
    assert second.train == (date(2022, 5, 3),)  # what the champion has not seen
    assert "warm start from the champion, version 1" in second.why


def test_a_worse_model_is_blocked_and_the_night_says_why(deployment: Deployment, ended: dict[str, Ended]) -> None:
    assert ended["worse"].code == EXIT_NOT_PROMOTED, ended["worse"].err
    night = deployment.night("2022-05-06")
    assert (night.outcome, night.version, night.champion) == ("not_better", 4, 3)
    assert "click: auc_change -" in night.reason
    assert night.plan
    assert night.plan.judge == night.day  # the day after it is bad and judges nobody
    report = (deployment.folder / "nights/2022-05-06/report.html").read_text()
    assert "Not promoted: version 4 did not pass, version 3 stays champion." in report


def test_bad_data_trains_nothing_and_names_column_and_effect(deployment: Deployment, ended: dict[str, Ended]) -> None:
    assert ended["bad"].code == EXIT_BAD_DATA, ended["bad"].err
    night = deployment.night("2022-05-07")
    assert (night.outcome, night.version) == ("bad_data", None)
    (finding,) = night.data.errors
    assert finding.where == "feature duration"
    assert "KS 0.9" in finding.message
    assert not (deployment.folder / "nights/2022-05-07/run").exists()
    assert "feature duration" in (deployment.folder / "nights/2022-05-07/report.md").read_text()


def test_every_night_can_be_seen_in_mlflow(deployment: Deployment, ended: dict[str, Ended]) -> None:
    client = MlflowClient(deployment.services.tracking)
    experiment = client.get_experiment_by_name("nights")
    assert experiment
    found = client.search_runs([experiment.experiment_id], "tags.`retrain.outcome` != ''")
    told = {run.data.tags["retrain.date"]: run for run in found}
    outcomes = {day: (run.data.tags["retrain.outcome"], run.info.status) for day, run in told.items()}
    assert outcomes["2022-05-05"] == ("promoted", "FINISHED")
    assert outcomes["2022-05-06"] == ("not_better", "FINISHED")
    assert outcomes["2022-05-07"] == ("bad_data", "FAILED")
    assert "duration" in told["2022-05-07"].data.tags["retrain.reason"]
    assert {"champion/click/auc", "challenger/click/auc"} <= set(told["2022-05-05"].data.metrics)
    assert "report.html" in {file.path for file in client.list_artifacts(told["2022-05-07"].info.run_id)}


def test_models_and_reports_lie_in_s3(deployment: Deployment, ended: dict[str, Ended]) -> None:
    client = MlflowClient(deployment.services.tracking)
    experiment = client.get_experiment_by_name("nights")
    assert experiment
    stored = deployment.services.files.find(f"{ARTIFACTS}/{experiment.experiment_id}")
    assert sum(path.endswith("model.json") for path in stored) == 4  # a serving artefact each
    assert sum(path.endswith("report.html") for path in stored) == 5


def test_the_summary_tells_of_every_night(deployment: Deployment, ended: dict[str, Ended]) -> None:
    text = (deployment.folder / "nights/summary.md").read_text()
    assert all(f"2022-05-0{day}/report.html" in text for day in (3, 4, 5, 6, 7))
    page = (deployment.folder / "nights/summary.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "http" not in page.split("</style>")[1].replace("data:image", "")  # nothing is fetched


def test_old_checkpoints_go_but_those_of_champions_stay(deployment: Deployment, ended: dict[str, Ended]) -> None:
    kept = {path.parts[-3] for path in (deployment.folder / "nights").glob("*/run/checkpoints")}
    assert kept == {"2022-05-04", "2022-05-05", "2022-05-06"}  # the champion before, the champion, the newest


def test_a_finished_date_does_nothing(deployment: Deployment, ended: dict[str, Ended]) -> None:
    versions = len(deployment.registry.history())
    again = deployment.job("retrain", "--date", "2022-05-05")
    assert (again.code, len(deployment.registry.history())) == (EXIT_OK, versions)
    assert "2022-05-05: done already: Promoted: version 3" in again.out
    blocked = deployment.job("retrain", "--date", "2022-05-06")
    assert blocked.code == EXIT_NOT_PROMOTED


def test_a_night_that_died_after_the_gate_moved_the_alias_finds_the_decision(
    deployment: Deployment, ended: dict[str, Ended]
) -> None:
    folder, night = deployment.folder / "nights/2022-05-05", deployment.night("2022-05-05")
    unfinished = {"outcome": None, "stage": "trained", "duels": (), "champion": None, "verdict": "", "reported": False}
    night.model_copy(update=unfinished).save(folder)
    again = deployment.job("retrain", "--date", "2022-05-05")
    assert again.code == EXIT_OK, again.err
    assert "step " not in again.err  # nothing was trained
    found = deployment.night("2022-05-05")
    assert (found.outcome, found.version, found.champion) == ("promoted", 3, 2)
    assert found.duels == night.duels


def test_the_champion_answers_over_http(deployment: Deployment, ended: dict[str, Ended], tmp_path: Path) -> None:
    """As README shows it: the request is the one that the model carries."""
    uri, port = "models:/ranker@champion", free_port()
    example = download_artifacts(
        artifact_uri=f"{uri}/serving_input_example.json",
        dst_path=str(tmp_path),
        tracking_uri=deployment.services.tracking,
    )
    body = Path(example).read_bytes()
    command = ["models", "serve", "--model-uri", uri, "--env-manager", "local", "--port", str(port)]
    variables = {"MLFLOW_TRACKING_URI": deployment.services.tracking, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    with served(command, f"http://127.0.0.1:{port}/ping", variables):
        request = Request(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=30) as answer:
            predictions = json.load(answer)["predictions"]
    assert len(predictions) == len(json.loads(body)["dataframe_split"]["data"]) > 0
    assert {name for row in predictions for name in row} == {"click", "like", "watch", "score"}
    assert all(0 < row["click"] < 1 for row in predictions)


def test_a_rollback_puts_the_champion_before_it_back(deployment: Deployment, ended: dict[str, Ended]) -> None:
    ended_well = deployment.job("rollback")
    assert ended_well.code == EXIT_OK, ended_well.err
    assert deployment.registry.champion() == 2


def test_a_server_out_of_reach_is_an_infrastructure_failure_that_the_record_keeps(
    deployment: Deployment, ended: dict[str, Ended]
) -> None:
    out = deployment.folder / "unreachable"
    away = f"http://127.0.0.1:{free_port()}"
    lost = deployment.job(
        "retrain", "--date", "2022-05-05", f"--output={out}", f"--tracking.uri={away}", "--tracking.drain_seconds=0",
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
    )  # fmt: skip
    assert lost.code == EXIT_INFRASTRUCTURE, lost.err
    night = Night.load(out / "2022-05-05")
    assert night
    assert (night.outcome, night.stage) == ("infrastructure", "begun")
    assert "registry ranker" in night.reason
    assert np.isfinite(night.data.rows)
