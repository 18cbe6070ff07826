"""The MLflow model: typed, self-contained, and loadable without this checkout, TorchRec or pickle."""

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ranking.errors import InputError, ServiceError
from ranking.serving.ranker import Ranker
from tests.launch import free_port

from .conftest import impressions

pytestmark = pytest.mark.filterwarnings("ignore")  # of MLflow and SQLAlchemy, about their own code

STRANGER = """
import importlib.machinery, json, sys

class Stranger:
    "Has neither TorchRec nor the project, whatever is installed; only what a model brings along."

    def find_spec(self, name, path=None, target=None):
        brought = [place for place in sys.path if place.endswith("code")]
        found = importlib.machinery.PathFinder.find_spec(name, brought) if name == "ranking" else None
        if found is None and name in ("ranking", "torchrec", "fbgemm_gpu"):
            raise ImportError(name + " is not installed here")
        return found

sys.meta_path.insert(0, Stranger())
import mlflow
import pandas as pd

model = mlflow.pyfunc.load_model(sys.argv[1])
answers = [model.predict(pd.DataFrame(json.load(open(file)))) for file in sys.argv[2:]]
import ranking
print(json.dumps({"from": ranking.__file__, "answers": [answer.to_dict("list") for answer in answers]}))
"""


class BotoError(Exception):
    """As S3 answers."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.fixture(scope="module")
def mlflow():
    """Imported where its warnings are expected."""
    import mlflow.pyfunc

    return mlflow


@pytest.fixture(scope="module")
def packaging(mlflow):
    from ranking.serving import packaging

    return packaging


@pytest.fixture(scope="module")
def requests() -> pa.Table:
    return impressions(50, seed=1).drop_columns(["clicked", "liked"])


@pytest.fixture(scope="module")
def logged(mlflow, packaging, artefact, requests, tmp_path_factory):
    """Logged to a run that has ended, as the trainer's may have."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}")
    client = mlflow.MlflowClient()
    place = tmp_path_factory.mktemp("artifacts").as_uri()
    run = client.create_run(client.create_experiment("serving", artifact_location=place))
    client.log_metric(run.info.run_id, "auc", 0.7, step=200)
    client.set_terminated(run.info.run_id)
    yield packaging.log_model(artefact, requests, run.info.run_id, step=200)
    mlflow.set_tracking_uri(before)


def test_the_signature_has_the_types_of_the_raw_columns(packaging, artefact, requests):
    description = packaging.signature(Ranker.load(artefact), requests)
    inputs = {column.name: str(column.type) for column in description.inputs}
    assert inputs == {
        "user": "DataType.string",
        "video": "Any",
        "day": "DataType.long",
        "size": "DataType.double",
        "age": "DataType.double",
        "views": "Any",
        "last": "Any",
        "tags": "Any",
        "tag_weights": "Array(double)",
        "seconds": "DataType.double",
    }
    assert description.inputs.required_input_names() == ["day", "seconds"]  # identity; the length of the score
    assert [column.name for column in description.outputs] == ["click", "like", "watch", "score"]


def test_what_may_be_missing_does_not_depend_on_what_the_sample_misses(packaging, artefact, requests):
    ranker, whole = Ranker.load(artefact), requests.filter(pc.is_valid(requests["video"]))
    assert packaging.signature(ranker, whole) == packaging.signature(ranker, requests)


def test_integers_that_mlflow_cannot_type_pass_as_they_are(packaging, artefact, requests):
    """64-bit hashes, and lists with nulls in them."""
    from mlflow.models.utils import _enforce_schema

    wide = pa.array(np.full(len(requests), 2**63 + 5, np.uint64))
    lists = pa.array([[1, None, 3]] * len(requests), pa.list_(pa.int64()))
    table = requests.set_column(1, "video", wide).set_column(6, "last", lists)
    description = packaging.signature(Ranker.load(artefact), table)
    frame = table.to_pandas()
    frame.at[0, "last"] = None
    found = _enforce_schema(frame, description.inputs)
    assert found["video"].tolist() == frame["video"].tolist()
    assert found["last"][0] is None
    np.testing.assert_array_equal(found["last"][1], [1.0, np.nan, 3.0])


def test_a_sample_without_a_feature_is_refused(packaging, artefact, requests):
    with pytest.raises(InputError, match="column 'day': missing"):
        packaging.signature(Ranker.load(artefact), requests.drop_columns("day"))


def test_requirements_are_pinned_to_public_versions(packaging):
    assert all(line.count("==") == 1 and "+" not in line for line in packaging.requirements())
    assert not any("torchrec" in line or "fbgemm" in line for line in packaging.requirements())


def test_the_model_belongs_to_the_run_and_its_step(mlflow, logged):
    client = mlflow.MlflowClient()
    run = client.get_run(logged.run_id)
    assert [(output.model_id, output.step) for output in run.outputs.model_outputs] == [(logged.model_id, 200)]
    assert run.info.status == "FINISHED"
    model = client.get_logged_model(logged.model_id)
    assert [metric.value for metric in model.metrics] == [0.7]
    assert (model.experiment_id, str(model.status)) == (run.info.experiment_id, "READY")
    assert model.artifact_location.startswith(client.get_experiment(run.info.experiment_id).artifact_location)
    assert logged.metadata == {"step": 200, "run": "abc"}


def test_nothing_in_the_model_is_a_pickle(mlflow, logged):
    files = [file for file in Path(mlflow.artifacts.download_artifacts(logged.model_uri)).rglob("*") if file.is_file()]
    files = [file for file in files if file.parent.name != "__pycache__"]  # Python's own, written where it is loaded
    assert {file.suffix for file in files} <= {".json", ".parquet", ".safetensors", ".py", ".yaml", ".txt", ""}
    assert {file.name for file in files if not file.suffix} <= {"MLmodel", "registered_model_meta"}


def test_the_input_example_is_scored(mlflow, logged, artefact, requests):
    model = mlflow.pyfunc.load_model(logged.model_uri)
    answer = model.predict(model.input_example)
    expected = Ranker.load(artefact).predict(requests.slice(0, 5)).to_pandas()
    pd.testing.assert_frame_equal(answer, expected)


def test_fetching_runs_none_of_the_models_code(mlflow, packaging, logged, artefact, requests, tmp_path):
    copy = Path(shutil.copytree(mlflow.artifacts.download_artifacts(logged.model_uri), tmp_path / "copy"))
    assert (copy / "pyfunc.py").exists()
    (copy / "pyfunc.py").write_text("raise SystemExit('executed')")
    assert packaging.fetch(str(copy)).predict(requests).equals(Ranker.load(artefact).predict(requests))


class Remote:
    """A store whose models have to be copied before they can be opened."""

    def __init__(self, artefact: Path) -> None:
        self.artefact = artefact

    def list_artifacts(self, path: str) -> list[str]:
        return [path]

    def download_artifacts(self, path: str, place: str | None = None) -> str:
        place = place or tempfile.mkdtemp()  # as MLflow does
        return str(Path(shutil.copytree(self.artefact, Path(place) / path / "ranker")).parent)


def test_what_was_downloaded_is_gone_once_it_is_open_and_predicts_all_the_same(
    packaging, artefact, requests, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(packaging, "get_artifact_repository", lambda _: Remote(artefact))
    ranker = packaging.fetch("models:/ranker/1")
    assert list(tmp_path.iterdir()) == []
    assert ranker.predict(requests).equals(Ranker.load(artefact).predict(requests))


def test_what_is_no_logged_ranker_cannot_be_fetched(packaging, logged, tmp_path):
    with pytest.raises(InputError, match=r"models:/nobody@champion.*expected a model that training logged") as caught:
        packaging.fetch("models:/nobody@champion")
    assert type(caught.value) is InputError
    with pytest.raises(InputError, match="got 0 serving artefacts inside; expected one, as training logs"):
        packaging.fetch(str(tmp_path))


def test_what_cannot_be_fetched_since_mlflow_is_away_is_no_bad_input(mlflow, packaging, logged, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"http://127.0.0.1:{free_port()}")
    try:
        with pytest.raises(ServiceError, match="models:/ranker/1: "):
            packaging.fetch("models:/ranker/1")
    finally:
        mlflow.set_tracking_uri(before)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (ServiceError, OSError(errno.ENOSPC, "No space left on device")),
        (ServiceError, ConnectionRefusedError(errno.ECONNREFUSED, "refused")),
        (ServiceError, BotoError(503)),
        (InputError, BotoError(403)),
        (InputError, PermissionError(errno.EACCES, "forbidden")),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_who_asks_for_a_model_is_told_apart_from_what_keeps_it(packaging, monkeypatch, kind, error):
    def repository(_):
        raise error

    monkeypatch.setattr(packaging, "get_artifact_repository", repository)
    with pytest.raises(InputError, match=r"models:/ranker/1: .*expected a model that training logged") as caught:
        packaging.fetch("models:/ranker/1")
    assert type(caught.value) is kind


def test_nulls_pass_through_the_servers_json(mlflow, logged, artefact, requests):
    """Of every column in which one may be missing, and in lists."""
    frame = pd.DataFrame(requests.slice(0, 3).to_pydict())
    for column in set(frame.columns) - {"day", "seconds", "tag_weights"}:
        frame[column] = frame[column].astype(object)
        frame.at[1, column] = None
    frame.at[2, "last"], frame.at[2, "tags"], frame.at[2, "tag_weights"] = [5, None], ["food", None], [0.5, 0.25]
    frame.at[1, "tag_weights"] = None
    payload = mlflow.models.convert_input_example_to_serving_input(frame)
    answer = mlflow.models.validate_serving_input(logged.model_uri, payload)
    pd.testing.assert_frame_equal(pd.DataFrame(answer), Ranker.load(artefact).predict(frame))


def test_it_serves_where_neither_ranking_nor_torchrec_is_installed(mlflow, logged, artefact, requests, tmp_path):
    single = requests.slice(3, 1)
    for name, table in (("all.json", requests), ("single.json", single)):
        (tmp_path / name).write_text(json.dumps(table.to_pydict()))
    (tmp_path / "stranger.py").write_text(STRANGER)
    command = [sys.executable, "stranger.py", mlflow.artifacts.download_artifacts(logged.model_uri)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*command, "all.json", "single.json"],
        cwd=tmp_path,
        env=environment | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert "/code/" in told["from"]
    for table, answer in zip((requests, single), told["answers"], strict=True):
        expected = Ranker.load(artefact).predict(table).to_pandas()
        np.testing.assert_allclose(pd.DataFrame(answer)[expected.columns], expected, rtol=1e-6)
