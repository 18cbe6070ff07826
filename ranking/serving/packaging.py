"""An artefact as an MLflow model: code, signature, input example and pinned requirements."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow.artifacts
import mlflow.pyfunc
import pandas as pd
import pyarrow as pa
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.types.schema import AnyType, Array, ColSpec, DataType, Schema, TensorSpec

import ranking
from ranking.errors import InputError, ServiceError, listed, one_line
from ranking.schema import Identity
from ranking.serving.ranker import Ranker

if not sys.stderr.isatty():
    # In a log file every tick is a line.
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)  # type: ignore[no-untyped-call]

_PACKAGES = ("torch", "numpy", "pandas", "pyarrow", "pydantic", "safetensors", "fsspec", "mlflow")
_EXAMPLE_ROWS = 5
_LONGEST = 500  # characters of a reason
_WITH_NULLS = (DataType.double, DataType.string)


def log_model(artefact: Path, sample: pa.Table, run_id: str, step: int = 0, name: str = "ranker") -> ModelInfo:
    """Log a models-from-code pyfunc that needs neither this checkout nor TorchRec to load.

    Args:
        artefact: directory that `export` wrote.
        sample: raw rows with at least the feature columns; their types make the signature, the first ones the example.
        run_id: MLflow run the model belongs to, on the current tracking URI.
        step: updates the weights have had; the run's metrics of this step become the model's.
        name: name of the logged model.

    Returns:
        MLflow's description of it: `model_id`, `model_uri`.

    Raises:
        InputError: the sample lacks a column or cannot be scored.
    """
    ranker = Ranker.load(artefact)
    columns = _columns(ranker, sample)
    example = columns.slice(0, _EXAMPLE_ROWS)
    ranker.predict(example)
    run = mlflow.get_run(run_id)
    made = MlflowClient().create_logged_model(  # where the run's experiment keeps its files, not the active one's
        run.info.experiment_id, name, source_run_id=run_id, params=run.data.params, model_type="ranker"
    )
    info: ModelInfo = Model.log(  # what mlflow.pyfunc.log_model calls; only here can the run be one that is not active
        artifact_path=None,
        flavor=mlflow.pyfunc,
        run_id=run_id,
        model_id=made.model_id,
        step=step,
        python_model=str(Path(__file__).with_name("pyfunc.py")),
        artifacts={"ranker": str(artefact)},
        code_paths=[str(Path(ranking.__file__).parent)],
        signature=signature(ranker, columns),
        input_example=pd.DataFrame(example.to_pydict()),
        pip_requirements=requirements(),
        metadata=ranker.description.metadata,
    )
    return info


def signature(ranker: Ranker, sample: pa.Table) -> ModelSignature:
    """Types of a request and its answer.

    What may be missing is optional, whether the sample misses it or not. Of MLflow's types only double, its lists and
    string let a null through as it is: the others refuse it, or make `False` or a string of it, so that integers and
    booleans that may be missing are of any type, and so are lists of them and of strings. Of any type are those of
    uint64, too, which MLflow has no type for. The encoder checks what they are.

    Args:
        ranker: the model.
        sample: raw rows with at least the feature columns.

    Raises:
        InputError: a column is missing or of a type no feature can have.
    """
    columns = _columns(ranker, sample)
    present = _never_missing(ranker)
    inputs: list[ColSpec | TensorSpec] = [
        _spec(field.name, field.type, field.name in present) for field in columns.schema
    ]
    outputs: list[ColSpec | TensorSpec] = [ColSpec(DataType.double, name) for name in ranker.outputs]
    return ModelSignature(Schema(inputs), Schema(outputs))


def fetch(model_uri: str) -> Ranker:
    """The artefact inside a logged or registered model, with none of the model's code run; see `downloaded`."""
    with downloaded(model_uri) as folder:
        return Ranker.load(folder)


@contextmanager
def downloaded(model_uri: str) -> Iterator[Path]:
    """Directory of the artefact inside a logged or registered model, not opened yet.

    It is gone after the block, unless the store is a directory of this machine. A ranker that was loaded inside stays
    whole: what it has mapped of a file outlives the file's name.

    Args:
        model_uri: such as `models:/ranker@champion` or `models:/<model id>`, on the current tracking URI.

    Raises:
        InputError: there is no such model, or it is not one that `log_model` logged.
        ServiceError: MLflow or its store cannot be reached, or the machine has no room.
    """
    with TemporaryDirectory(prefix="ranker-", ignore_cleanup_errors=True) as folder:
        yield _download(model_uri, folder)


def _download(model_uri: str, folder: str) -> Path:
    """Where the artefact lies: below the folder, or in a store on this machine, of which nothing is copied."""
    try:
        repository: Any = get_artifact_repository(model_uri)  # MLflow does not type it
        inside = repository.list_artifacts("artifacts")  # what is not there a store may report as a failure of its own
        local = isinstance(getattr(repository, "repo", repository), LocalArtifactRepository)
        place = repository.download_artifacts("artifacts", None if local else folder) if inside else folder
        found = list(Path(place).glob("*/model.json"))
    except Exception as error:  # every kind of store has its own
        reason = one_line(error)[:_LONGEST]
        kind = InputError if _is_refusal(error) else ServiceError
        raise kind(f"{model_uri}: {reason}; expected a model that training logged") from error
    if len(found) != 1:
        raise InputError(f"{model_uri}: got {len(found)} serving artefacts inside; expected one, as training logs")
    return found[0].parent


def _is_refusal(error: Exception) -> bool:
    """Whether what was asked for is to blame, or who asked: no such model, no permission."""
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()  # type: ignore[no-untyped-call]
    else:
        answer: Any = getattr(error, "response", None)  # of requests, or a mapping of botocore's
        metadata = answer.get("ResponseMetadata", {}) if isinstance(answer, dict) else {}
        status = metadata.get("HTTPStatusCode", 0) or getattr(answer, "status_code", 0)
    return isinstance(error, FileNotFoundError | PermissionError) or (400 <= status < 500 and status != 429)


def requirements() -> list[str]:
    """The installed versions of what serving imports, without a build's local part (`+cpu`)."""
    return [f"{package}=={metadata.version(package).split('+')[0]}" for package in _PACKAGES]


def _columns(ranker: Ranker, sample: pa.Table) -> pa.Table:
    missing = [name for name in ranker.inputs if name not in sample.column_names]
    if missing:
        raise InputError(f"column {missing[0]!r}: missing; expected one of {listed(sample.column_names)}")
    return sample.select(list(ranker.inputs))


def _never_missing(ranker: Ranker) -> set[str]:
    """Columns of which the encoder, or the score, refuses a null."""
    identities = {f.source for f in ranker.schema.categorical if isinstance(f.encoding, Identity) and not f.multi_hot}
    rejecting = {f.source for f in ranker.schema.dense if f.null == "reject"}
    length = ranker.description.fusion.length
    return identities | rejecting | ({length.column} if length else set())


def _spec(name: str, kind: pa.DataType, required: bool) -> ColSpec:
    if _is_list(kind):
        inner = _scalar(name, kind.value_type)
        values = Array(inner) if inner == DataType.double else AnyType()  # type: ignore[no-untyped-call]
        return ColSpec(values, name, required=False)
    scalar = _scalar(name, kind)
    if scalar is None or not (required or scalar in _WITH_NULLS):
        return ColSpec(AnyType(), name, required=False)  # type: ignore[no-untyped-call]
    return ColSpec(scalar, name, required=required)


def _scalar(name: str, kind: pa.DataType) -> DataType | None:
    """MLflow's type; None where it has none."""
    types = pa.types
    if types.is_null(kind) or types.is_uint64(kind):
        return None
    if types.is_dictionary(kind):
        return _scalar(name, kind.value_type)
    if types.is_integer(kind):
        return DataType.long
    if types.is_floating(kind) or types.is_decimal(kind):
        return DataType.double
    if types.is_boolean(kind):
        return DataType.boolean
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return DataType.string
    raise InputError(f"column {name!r}: got type {kind}; expected numbers, booleans, strings or lists of them")


def _is_list(kind: pa.DataType) -> bool:
    return any(check(kind) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))
