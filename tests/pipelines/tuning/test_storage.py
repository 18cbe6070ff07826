"""Where a study lies: PostgreSQL for workers that share no file system, and what may be known of its password."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipelines.tuning.study import open_study
from ranking.errors import InputError
from ranking.training.search import TuneConfig
from tests.launch import Job, free_port
from tests.workspace import Workspace, build

CANARY = "canary-4711"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = build(tmp_path_factory.mktemp("storage"))
    content = yaml.safe_load(workspace.yaml.read_text())
    content["tune"] = {"space": {"optimizer.dense.learning_rate": {"low": 1e-3, "high": 0.1, "log": True}}, "trials": 2}
    workspace.yaml.write_text(yaml.safe_dump(content))
    return workspace


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server that asks for a password."""
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        pytest.skip("no PostgreSQL here: initdb and pg_ctl are not on PATH")
    port, owner = free_port(), {"user": "nobody"} if os.geteuid() == 0 else {}  # it refuses root
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True, **owner).strip())
    try:
        (folder / "password").write_text(CANARY)
        (folder / "password").chmod(0o644)
        options = ["-U", "tuner", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/", "check": True} | owner
        subprocess.run(["initdb", "-D", str(folder / "data"), "-N", *options], **quiet)
        server = f"-p {port} -h 127.0.0.1 -k {folder} -F"
        subprocess.run(["pg_ctl", "-D", str(folder / "data"), "-w", "-o", server, "start"], **quiet)
        yield f"postgresql+psycopg2://tuner:{CANARY}@127.0.0.1:{port}/postgres"
        subprocess.run(["pg_ctl", "-D", str(folder / "data"), "-m", "immediate", "stop"], **quiet)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_workers_share_a_study_in_postgres_and_keep_its_password(home: Workspace, postgres: str, tmp_path) -> None:
    over = tmp_path / "secret.yaml"
    over.write_text(yaml.safe_dump({"tune": {"storage": postgres}}))
    outputs = [tmp_path / name for name in ("one", "other")]  # nothing shared but the database
    offline = (
        "--tracking.uri=http://127.0.0.1:9",
        "--tracking.drain_seconds=0",
        "--tracking.request_timeout=1",
    )  # the spool keeps what MLflow would get
    short = ["-c", str(over), "--training.epochs=1", *offline]
    jobs = [Job(tmp_path, "pipelines.tune", home.arguments(*short, f"--output={output}")) for output in outputs]
    ended = [rank for job in jobs for rank in job.wait()]
    assert [each.code for each in ended] == [0, 0], ended[0].err + ended[1].err
    for output in outputs:
        found = json.loads((output / "tune/model/trials.json").read_text())
        assert 2 <= len(found) <= 3
        assert len({trial["values"]["optimizer.dense.learning_rate"] for trial in found}) == len(found)
    over.unlink()
    places = [*tmp_path.rglob("*"), *home.folder.rglob("*")]
    assert not [str(path) for path in places if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_a_database_out_of_reach_is_one_line_without_its_password(tmp_path) -> None:
    settings = TuneConfig.model_validate({"storage": f"postgresql+psycopg2://tuner:{CANARY}@127.0.0.1:9/postgres"})
    with pytest.raises(InputError) as caught:
        open_study(settings, "name", 0, tmp_path)
    line = str(caught.value)
    assert line.startswith("tune.storage: got postgresql+psycopg2://***@127.0.0.1:9/postgres: ")
    assert "\n" not in line
    assert CANARY not in line
