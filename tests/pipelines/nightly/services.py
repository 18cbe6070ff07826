"""The services of a deployment, real and started by the tests: PostgreSQL, an S3 server, the MLflow server on both."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import fsspec
import pytest

from tests.launch import free_port

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # `models serve` looks for uvicorn
ARTIFACTS, DATA = "mlflow", "training-data"


class Services(NamedTuple):
    """What a job needs to know of them."""

    tracking: str
    variables: dict[str, str]
    files: fsspec.AbstractFileSystem


@contextmanager
def services() -> Iterator[Services]:
    """All three, and two buckets; the test is skipped where PostgreSQL or the S3 server is not installed."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = str(programs[-1]) if programs else shutil.which("initdb")
    if not found:
        pytest.skip("PostgreSQL is not installed: no initdb (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    with ExitStack() as stack:
        database = stack.enter_context(postgresql(Path(found).parent))
        endpoint = stack.enter_context(s3())
        variables = KEYS | {"AWS_ENDPOINT_URL": endpoint, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
        files = fsspec.filesystem("s3", key="test", secret="test", endpoint_url=endpoint)
        for bucket in (ARTIFACTS, DATA):
            files.mkdir(bucket)
        yield Services(stack.enter_context(mlflow_server(database, variables)), variables, files)


@contextmanager
def postgresql(programs: Path) -> Iterator[str]:
    """A fresh cluster with a database `mlflow`; PostgreSQL refuses root, so that root starts it as nobody."""
    folder = Path(tempfile.mkdtemp(prefix="ranking-postgresql-"))
    user = "nobody" if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    data, port = folder / "data", free_port()
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"

    def call(program: str, *arguments: str) -> None:
        command = [str(programs / program), *arguments]
        ended = subprocess.run(command, user=user, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 0, ended.stderr

    try:
        call("initdb", "--pgdata", str(data), "--auth=trust", "--username=mlflow", "--no-sync", "--encoding=UTF8")
        call("pg_ctl", "start", "--pgdata", str(data), "--wait", "--log", str(folder / "log"), "--options", options)
        call("createdb", "--host=127.0.0.1", f"--port={port}", "--username=mlflow", "mlflow")
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/mlflow"
    finally:
        if data.exists():
            call("pg_ctl", "stop", "--pgdata", str(data), "--mode=immediate")
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def s3() -> Iterator[str]:
    """A server that speaks the real protocol."""
    server = pytest.importorskip("moto.server", reason="moto[server,s3] is not installed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every file takes its time
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@contextmanager
def mlflow_server(database: str, variables: dict[str, str]) -> Iterator[str]:
    """The tracking server and registry; clients reach the artifacts through it, as in docker/compose.yaml."""
    port = free_port()
    command = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--serve-artifacts"]
    command += ["--backend-store-uri", database, "--artifacts-destination", f"s3://{ARTIFACTS}"]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with served(command, f"http://127.0.0.1:{port}/health", variables | settings):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def served(command: list[str], health: str, variables: dict[str, str]) -> Iterator[None]:
    """`mlflow <command>` while the block runs, once it answers."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": PATH, "DO_NOT_TRACK": "true", **variables},
            start_new_session=True,
        )
        try:
            wait_for(lambda: answers(health), process)
            yield
        except AssertionError:
            log.seek(0)
            raise AssertionError(log.read().decode()[-3000:]) from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.1)
