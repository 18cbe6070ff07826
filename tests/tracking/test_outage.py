"""MLflow goes down and comes back; training goes on and nothing is lost or doubled."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from ranking.tracking.runs import Run, TrackingConfig, replay
from tests.mlflow_store import Server, wait_for

ABANDONED = """
import os, signal, sys
from pathlib import Path
from ranking.tracking.runs import Run, TrackingConfig

run = Run.open(TrackingConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]), {"experts": 8})
for step in range(50):
    run.log_metrics({"loss": step / 3}, step)
run.log_checkpoint(50, "file:///run/50", {"auc": 0.7})
with (Path(sys.argv[2]) / "tracking" / "spool.jsonl").open("ab") as file:
    file.write(b'{"kind":"metrics","time":1')  # killed in the middle of a line
os.kill(os.getpid(), signal.SIGKILL)
"""


def logged(client: MlflowClient, run_id: str, key: str = "loss") -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run_id, key))


def expected(steps: int) -> list[tuple[int, float]]:
    return [(step, step / 3) for step in range(steps)]


@pytest.fixture
def remote(config: TrackingConfig, server: Server) -> TrackingConfig:
    return config.model_copy(
        update={"uri": server.uri, "artifact_location": "", "max_backoff": 0.2, "request_timeout": 5}
    )


def test_an_outage_at_the_start_a_kill_and_an_abandoned_process(
    remote: TrackingConfig, server: Server, client: MlflowClient, tmp_path: Path
) -> None:
    """One story, because a server takes seconds to start. `client` reads the server's database directly."""
    # A process is killed while the server was never up: its events stay on disk.
    abandoned = tmp_path / "abandoned"
    command = [sys.executable, "-c", ABANDONED, remote.model_dump_json(), str(abandoned)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL

    # The server is down when the run begins.
    run = Run.open(remote, tmp_path / "run", {"experts": 8})
    for step in range(100):
        run.log_metrics({"loss": step / 3}, step)
    run.log_checkpoint(100, "file:///run/100", {"auc": 0.6})
    run.log_text("early.txt", "written before the server was up")
    assert run.run_id == ""
    server.start()
    wait_for(lambda: run.run_id and len(logged(client, run.run_id)) == 100)
    assert logged(client, run.run_id) == expected(100)

    # It is killed in the middle.
    server.kill()
    for step in range(100, 2000):
        run.log_metrics({"loss": step / 3}, step)
    run.log_checkpoint(2000, "file:///run/2000", {"auc": 0.7})
    assert len(logged(client, run.run_id)) == 100
    server.start()
    wait_for(lambda: len(logged(client, run.run_id)) == 2000)

    # What the killed process left is delivered by the replay, and only once.
    assert replay(remote, abandoned) == 0
    assert replay(remote, abandoned) == 0

    assert run.finish() == 0
    assert logged(client, run.run_id) == expected(2000)
    experiment = client.get_experiment_by_name(remote.experiment).experiment_id
    runs = {found.info.run_id: found for found in client.search_runs([experiment])}
    other = next(run_id for run_id in runs if run_id != run.run_id)
    assert len(runs) == 2
    assert runs[run.run_id].info.status == "FINISHED"
    assert logged(client, other) == expected(50)
    models = client.search_logged_models([experiment])
    assert sorted((model.source_run_id == other, model.name) for model in models) == [
        (False, "step-100"),
        (False, "step-2000"),
        (True, "step-50"),
    ]
    over_http = MlflowClient(remote.uri)
    assert {file.path for file in over_http.list_artifacts(run.run_id)} == {"config.yaml", "early.txt"}


def test_a_server_that_accepts_and_never_answers_does_not_hold_the_end(
    remote: TrackingConfig, listener: str, tmp_path: Path
) -> None:
    config = remote.model_copy(update={"uri": listener, "request_timeout": 1, "drain_seconds": 0.5})
    run = Run.open(config, tmp_path, {"experts": 8})
    run.log_metrics({"loss": 1.0}, 1)
    assert run.finish() == 4, "parameter, configuration, metric and status stay on disk"


@pytest.fixture
def listener() -> Iterator[str]:
    """The address of a socket whose connections are never answered."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"
