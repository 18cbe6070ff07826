from __future__ import annotations

import json
import math
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure
from mlflow import MlflowClient
from pydantic import ValidationError

from ranking.errors import InputError
from ranking.tracking import runs
from ranking.tracking.delivery import ID_TAG
from ranking.tracking.runs import Dataset, NullRun, Run, TrackingConfig, flatten, git_revision, replay

SETTINGS: dict[str, Any] = {
    "model": {"type": "mmoe", "experts": 8, "layers": [64, 32]},
    "schema": {"features": [{"name": "user_id", "kind": "categorical"}]},
}
DATASET = Dataset(name="kuairand", digest="d" * 64, source="s3://key:canary@bucket/manifest.parquet")


def experiment_id(client: MlflowClient, config: TrackingConfig) -> str:
    return client.get_experiment_by_name(config.experiment).experiment_id


def history(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run_id, key))


def test_a_run_holds_metrics_parameters_tags_and_the_configuration(
    config: TrackingConfig, client: MlflowClient, tmp_path: Path
) -> None:
    config = config.model_copy(update={"run_name": "nightly", "tags": {"team": "feed"}})
    run = Run.open(config, tmp_path, SETTINGS, tags={"mlflow.source.git.commit": "abc1234+dirty"}, dataset=DATASET)
    for step in range(1, 4):
        run.log_metrics({"loss": 1 / step, "auc/click": math.nan}, step)
    assert run.finish() == 0

    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "nightly"
    assert history(client, run.run_id, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert math.isnan(found.data.metrics["auc/click"])
    assert found.data.params["model.experts"] == "8"
    assert found.data.params["schema.features.user_id"] == '{"kind": "categorical"}'
    assert found.data.tags["team"] == "feed"
    assert found.data.tags["mlflow.source.git.commit"] == "abc1234+dirty"
    config_file = client.download_artifacts(run.run_id, "config.yaml", str(tmp_path))
    assert yaml.safe_load(Path(config_file).read_text()) == SETTINGS
    dataset = found.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest) == ("kuairand", "d" * 36)
    assert json.loads(dataset.source) == {"uri": "s3://***@bucket/manifest.parquet"}


def test_every_evaluated_step_is_a_model_that_metrics_find(
    config: TrackingConfig, client: MlflowClient, tmp_path: Path
) -> None:
    with Run.open(config, tmp_path, SETTINGS, dataset=DATASET) as run:
        for step, auc in ((100, 0.6), (200, 0.8), (300, 0.7), (400, math.nan)):
            run.log_checkpoint(step, f"file:///run/{step}", {"click/auc": auc, "click/rows": 10})

    experiment = experiment_id(client, config)
    best = client.search_logged_models(
        [experiment], order_by=[{"field_name": "metrics.click/auc", "ascending": False}]
    ).to_list()
    assert [model.name for model in best[:3]] == ["step-200", "step-300", "step-100"]
    assert best[0].params == {"step": "200"}
    assert best[0].tags["checkpoint_uri"] == "file:///run/200"
    assert best[0].model_type == "checkpoint"
    assert best[0].status == "READY"
    assert {metric.key for metric in best[0].metrics} == {"click/auc", "click/rows"}
    assert [metric.key for metric in best[3].metrics] == ["click/rows"], "an undefined metric must not rank a model"
    outputs = client.get_run(run.run_id).outputs.model_outputs
    assert {output.step: output.model_id for output in outputs}[200] == best[0].model_id
    good = client.search_logged_models([experiment], "metrics.`click/auc` > 0.65")
    assert {model.name for model in good} == {"step-200", "step-300"}


def test_delivering_everything_a_second_time_changes_nothing(
    config: TrackingConfig, client: MlflowClient, tmp_path: Path
) -> None:
    with Run.open(config, tmp_path, SETTINGS, dataset=DATASET) as run:
        run.log_metrics({"loss": 0.5, "nan": math.nan}, 1)
        run.log_checkpoint(1, "file:///run/1", {"auc": 0.7})
        run.log_text("notes/note.txt", "hello")

    def seen() -> tuple[Any, ...]:
        found = client.get_run(run.run_id)
        model = client.search_logged_models([experiment_id(client, config)]).to_list()[0]
        return (
            {key: len(client.get_metric_history(run.run_id, key)) for key in found.data.metrics},
            found.data.params,
            found.data.tags,
            len(found.inputs.dataset_inputs),
            [(output.model_id, output.step) for output in found.outputs.model_outputs],
            [(metric.key, metric.value) for metric in model.metrics],
            found.info.status,
        )

    before = seen()
    (tmp_path / "tracking" / "spool.offset").unlink()
    (tmp_path / "tracking" / "run.json").write_text(  # as if killed between creating the run and noting its id
        json.dumps({"id": client.get_run(run.run_id).data.tags[ID_TAG], "started": 1})
    )
    assert replay(config, tmp_path) == 0
    assert seen() == before
    assert before[0] == {"loss": 1, "nan": 1, "auc": 1}
    assert len(client.search_runs([experiment_id(client, config)])) == 1
    assert len(client.search_logged_models([experiment_id(client, config)])) == 1
    assert not (tmp_path / "tracking" / "rejected.jsonl").exists()


def test_a_run_directory_goes_on_with_its_run(config: TrackingConfig, client: MlflowClient, tmp_path: Path) -> None:
    first = Run.open(config, tmp_path, SETTINGS)
    first.log_metrics({"loss": 2.0}, 1)
    first.finish("KILLED")
    assert client.get_run(first.run_id).info.status == "KILLED"

    second = Run.open(config, tmp_path, {"model": {"experts": 16}})
    second.log_metrics({"loss": 1.0}, 2)
    assert second.finish() == 0
    assert second.run_id == first.run_id
    found = client.get_run(first.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params["model.experts"] == "8"
    assert history(client, first.run_id, "loss") == [(1, 2.0), (2, 1.0)]


def test_what_the_server_refuses_does_not_hold_up_the_rest(
    config: TrackingConfig, client: MlflowClient, tmp_path: Path
) -> None:
    with Run.open(config, tmp_path, SETTINGS) as run:
        run.log_metrics({"loss": 0.5, "auc@100": 0.7, "rmse": 1.0}, 1)
    assert client.get_run(run.run_id).data.metrics == {"loss": 0.5, "rmse": 1.0}
    rejected = [json.loads(line) for line in (tmp_path / "tracking" / "rejected.jsonl").read_text().splitlines()]
    assert [(entry["key"], entry["value"]) for entry in rejected] == [("auc@100", 0.7)]


def test_more_metrics_than_one_call_takes(config: TrackingConfig, client: MlflowClient, tmp_path: Path) -> None:
    with Run.open(config, tmp_path, {f"p{number}": number for number in range(250)}) as run:
        run.log_metrics({f"wide/{number}": number for number in range(1500)}, 1)
        for step in range(1500):
            run.log_metrics({"loss": step / 7}, step)
    found = client.get_run(run.run_id)
    assert len(found.data.params) == 250
    assert len(found.data.metrics) == 1501
    assert history(client, run.run_id, "loss") == [(step, step / 7) for step in range(1500)]


def test_figures_and_the_card_are_artifacts(config: TrackingConfig, client: MlflowClient, tmp_path: Path) -> None:
    figure = Figure()
    figure.add_subplot().plot([1, 2])
    figure.savefig(tmp_path / "auc.png")
    with Run.open(config, tmp_path, SETTINGS) as run:
        run.log_figure(tmp_path / "auc.png")
        run.log_card("---\nlicense: apache-2.0\n---\n\n# Model\n" + "x" * 9000)
    note = client.get_run(run.run_id).data.tags["mlflow.note.content"]
    assert note.startswith("# Model")
    assert len(note) == 8000
    image = Path(client.download_artifacts(run.run_id, "figures/auc.png", str(tmp_path)))
    assert image.read_bytes() == (tmp_path / "auc.png").read_bytes()
    card = Path(client.download_artifacts(run.run_id, "card.md", str(tmp_path)))
    assert card.read_text().startswith("---\nlicense: apache-2.0")


def test_no_secret_reaches_disk_or_server(config: TrackingConfig, client: MlflowClient, tmp_path: Path) -> None:
    settings = {
        "store": {"aws_secret_access_key": "canary", "url": "s3://key:canary@host/b", "nested": [{"token": "canary"}]},
        "tracking": {"uri": "http://user:canary@mlflow:5000"},
    }
    with Run.open(
        config,
        tmp_path,
        yaml.safe_dump(settings),
        tags={"password": "canary", "u": "https://a:canary@h"},
        dataset=DATASET,
    ) as run:
        run.log_checkpoint(1, "https://a:canary@h/1?token=canary", {"auc": 0.5})
        run.log_text("log.txt", "from https://a:canary@h")
        run.log_card("data: https://a:canary@h")
    database = Path(config.uri.removeprefix("sqlite:///"))
    artifacts = database.parent / "artifacts"
    files = [database, *(path for root in (tmp_path, artifacts) for path in root.rglob("*") if path.is_file())]
    assert {path.name for path in files} >= {"spool.jsonl", "config.yaml", "log.txt", "card.md", "mlflow.db"}
    assert [path for path in files if b"canary" in path.read_bytes()] == []
    assert client.get_run(run.run_id).data.params["store.aws_secret_access_key"] == "***"


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, "FAILED"), (SystemExit, "KILLED")])
def test_an_exception_ends_the_run(
    config: TrackingConfig, client: MlflowClient, tmp_path: Path, error: type[BaseException], status: str
) -> None:
    run = Run.open(config, tmp_path, SETTINGS)
    with pytest.raises(error), run:
        raise error
    assert client.get_run(run.run_id).info.status == status


def test_only_the_first_finish_counts(config: TrackingConfig, client: MlflowClient, tmp_path: Path) -> None:
    with Run.open(config, tmp_path, SETTINGS) as run:
        run.finish("KILLED")
    assert client.get_run(run.run_id).info.status == "KILLED"


def test_a_stopped_run_is_killed_until_it_goes_on(config: TrackingConfig, client: MlflowClient, tmp_path: Path) -> None:
    with Run.open(config, tmp_path, SETTINGS) as run:
        assert run.stop() == 0
    assert client.get_run(run.run_id).info.status == "KILLED"
    with Run.open(config, tmp_path, SETTINGS):
        pass
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_a_run_that_is_stopped_does_not_wait_for_the_server_as_long_as_one_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_STOP_SECONDS", 0.2)
    out_of_reach = TrackingConfig(uri="http://127.0.0.1:9", drain_seconds=60, request_timeout=1)
    run, began = Run.open(out_of_reach, tmp_path, SETTINGS), time.monotonic()
    assert run.stop() > 0
    assert time.monotonic() - began < 10


def test_finishing_leaves_no_thread_and_gives_mlflow_its_settings_back(
    config: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
    before = set(threading.enumerate())
    with Run.open(config, tmp_path, SETTINGS):
        assert MLFLOW_HTTP_REQUEST_TIMEOUT.get() == config.request_timeout
        assert MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 0
    assert set(threading.enumerate()) <= before
    assert not MLFLOW_HTTP_REQUEST_TIMEOUT.is_set()
    assert MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 4


def test_system_metrics_take_the_same_road(config: TrackingConfig, client: MlflowClient, tmp_path: Path) -> None:
    pytest.importorskip("psutil")
    with Run.open(config.model_copy(update={"system_metrics": True}), tmp_path, SETTINGS) as run:
        pass
    assert "system/cpu_utilization_percentage" in client.get_run(run.run_id).data.metrics


def test_a_null_run_has_the_same_methods() -> None:
    public = {name for name in vars(Run) if not name.startswith("_")} - {"open"}
    assert public == {name for name in vars(NullRun) if not name.startswith("_")} - {"continued"}  # a value
    with NullRun() as run:
        run.log_metrics({"loss": 1.0}, 1)
    assert run.finish() == 0
    assert run.run_id == ""


def test_a_file_store_is_refused_with_its_credentials_masked() -> None:
    with pytest.raises(ValidationError, match="expected a URI of sqlite"):
        TrackingConfig(uri="file:./mlruns")
    with pytest.raises(ValidationError, match=r"'ftp://\*\*\*@host'"):
        TrackingConfig(uri="ftp://user:canary@host")


def test_replaying_a_directory_without_a_run_is_an_input_error(config: TrackingConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.json: missing"):
        replay(config, tmp_path)


def test_settings_become_dotted_parameters() -> None:
    assert dict(flatten({"a": {"b": 1, "c": {}}, "l": [1, 2], "t": "x", "f": [{"name": "n", "k": None}]})) == {
        "a.b": "1",
        "a.c": "{}",
        "l": "[1, 2]",
        "t": "x",
        "f.n": '{"k": null}',
    }


def test_the_git_revision_says_whether_the_code_has_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "runs.py"
    module.write_text("")
    monkeypatch.setattr("ranking.tracking.runs.__file__", str(module))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_revision() == ""

    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    clean = git_revision()
    assert len(clean) >= 7
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/report.md").write_text("written by a study")
    assert git_revision() == clean
    module.write_text("changed")
    assert git_revision() == f"{clean}+dirty"
