"""Turns events of the spool into calls of the MLflow client; every delivery may be repeated without doubling."""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    RunTag,
)
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.models.utils import get_external_mlflow_model_spec
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_MODEL_IS_EXTERNAL

from ranking.errors import first_line
from ranking.files import write_atomically
from ranking.redact import redact_text
from ranking.tracking.spool import Event

logger = logging.getLogger(__name__)

ID_TAG = "ranking.id"
_METRICS_PER_CALL = 1000  # MLflow's limits for one log_batch
_VALUES_PER_CALL = 100
_BATCHED = ("metrics", "param", "tag")
_REFUSED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST", "RESOURCE_ALREADY_EXISTS"}

Entity = Metric | Param | RunTag


@dataclass
class RunIdentity:
    """What ties a run directory to one MLflow run: `run.json`.

    The id is drawn here and tagged on the run, so that a run created just before a crash is found again.
    """

    id: str
    started: int
    run_id: str = ""
    experiment_id: str = ""

    @classmethod
    def load(cls, directory: Path) -> RunIdentity | None:
        """The identity kept in `directory`, None where no run began."""
        path = directory / "run.json"
        return cls(**json.loads(path.read_bytes())) if path.exists() else None

    def save(self, directory: Path) -> None:
        """Write `run.json`."""
        write_atomically(directory / "run.json", json.dumps(asdict(self)).encode())


class MlflowSink:
    """Delivers the events of one run directory to one MLflow run, which it creates when the server can be reached.

    What the server refuses for good (an invalid name, a parameter that changed) goes to `rejected.jsonl` and does not
    hold up the rest; every other failure is raised, for the spool to try again.
    """

    def __init__(
        self,
        directory: Path,
        uri: str,
        experiment: str,
        artifact_location: str = "",
        run_name: str = "",
        request_timeout: int = 10,
    ) -> None:
        """Keep the settings; nothing is contacted before the first event.

        Args:
            directory: The spool's directory, which holds `run.json`.
            uri: Tracking URI.
            experiment: Name of the experiment, created when it is missing.
            artifact_location: Root of its artifacts, then; MLflow's default for "".
            run_name: MLflow invents one for "".
            request_timeout: Seconds one request may take. Retries are the spool's, so MLflow's own are switched off
                for this process until `close`.

        Raises:
            FileNotFoundError: `directory` holds no run.
        """
        self._directory, self._uri = directory, uri
        self._experiment, self._artifact_location, self._run_name = experiment, artifact_location, run_name
        identity = RunIdentity.load(directory)
        if identity is None:
            raise FileNotFoundError(directory / "run.json")
        self.identity = identity
        self._client: MlflowClient | None = None
        self._settings = ExitStack()
        for variable, value in ((MLFLOW_HTTP_REQUEST_MAX_RETRIES, 0), (MLFLOW_HTTP_REQUEST_TIMEOUT, request_timeout)):
            self._settings.callback(_override(variable, value))

    def __call__(self, events: Sequence[Event]) -> int:
        """Deliver the first events: as many as fit one `log_batch`, or a single one of another kind."""
        client = self._connect()
        batch = _leading_batch(events)
        if batch:
            self._log_batch(client, [entity for event in batch for entity in _entities(event)])
            return len(batch)
        event = events[0]
        deliver: dict[str, Callable[[MlflowClient, Event], None]] = {
            "artifact": self._artifact,
            "checkpoint": self._checkpoint,
            "dataset": self._dataset,
            "status": self._status,
        }
        try:
            deliver[event["kind"]](client, event)
        except Exception as error:
            if not _is_refusal(error):
                raise
            self._reject(event, error)
        return 1

    def close(self) -> None:
        """Close database connections and give MLflow its own retries back."""
        self._settings.close()
        engine = self._client and getattr(self._client._tracking_client.store, "engine", None)
        if engine:
            engine.dispose()

    def _connect(self) -> MlflowClient:
        if self._client is None:
            client = MlflowClient(self._uri)
            if not self.identity.run_id:
                self._find_or_create_run(client)
            self._client = client
        return self._client

    def _find_or_create_run(self, client: MlflowClient) -> None:
        identity = self.identity
        found = client.get_experiment_by_name(self._experiment)
        experiment_id = (
            found.experiment_id
            if found
            else client.create_experiment(self._experiment, self._artifact_location or None)
        )
        runs = client.search_runs([experiment_id], f"tags.`{ID_TAG}` = '{identity.id}'", max_results=1) or [
            client.create_run(experiment_id, identity.started, {ID_TAG: identity.id}, self._run_name or None)
        ]
        identity.run_id, identity.experiment_id = runs[0].info.run_id, experiment_id
        identity.save(self._directory)

    def _log_batch(self, client: MlflowClient, entities: Sequence[Entity]) -> None:
        """Log entities; halve a refused batch until the refused entity stands alone."""
        metrics = [entity for entity in entities if isinstance(entity, Metric)]
        params = [entity for entity in entities if isinstance(entity, Param)]
        tags = [entity for entity in entities if isinstance(entity, RunTag)]
        try:
            client.log_batch(self.identity.run_id, metrics, params, tags, synchronous=True)
        except MlflowException as error:
            if not _is_refusal(error):
                raise
            if len(entities) == 1:
                self._reject(dict(entities[0]), error)
                return
            half = len(entities) // 2
            self._log_batch(client, entities[:half])
            self._log_batch(client, entities[half:])

    def _artifact(self, client: MlflowClient, event: Event) -> None:
        path = Path(event["path"])
        folder = path.parent.as_posix()
        client.log_artifact(
            self.identity.run_id, str(self._directory / "artifacts" / path), folder if folder != "." else None
        )

    def _checkpoint(self, client: MlflowClient, event: Event) -> None:
        run_id, step = self.identity.run_id, event["step"]
        model = self._logged_model(client, event)
        outputs = client.get_run(run_id).outputs
        if model.model_id not in {output.model_id for output in (outputs.model_outputs if outputs else [])}:
            client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
        # A model's NaN would be stored as 0 and an undefined AUC would rank: only the run keeps it.
        metrics = [
            Metric(key, value, event["time"], step, model_id=model.model_id if math.isfinite(value) else None)
            for key, value in event["values"].items()
        ]
        self._log_batch(client, metrics)

    def _logged_model(self, client: MlflowClient, event: Event) -> LoggedModel:
        """The external LoggedModel of a step: found, finished where a crash left it half-made, or created.

        The steps of `mlflow.create_external_model`, which cannot be repeated as a whole.
        """
        name, identity = f"step-{event['step']}", self.identity
        tags = {"checkpoint_uri": event["uri"], MLFLOW_MODEL_IS_EXTERNAL: "true"}
        condition = f"name = '{name}' AND source_run_id = '{identity.run_id}'"
        found = client.search_logged_models([identity.experiment_id], condition, max_results=1)
        model: LoggedModel = (
            found[0]
            if found
            else client.create_logged_model(
                identity.experiment_id, name, identity.run_id, tags, {"step": str(event["step"])}, "checkpoint"
            )
        )
        if model.tags.get("checkpoint_uri") != event["uri"]:
            client.set_logged_model_tags(model.model_id, {"checkpoint_uri": event["uri"]})
        if model.status != LoggedModelStatus.READY:
            with tempfile.TemporaryDirectory() as folder:
                get_external_mlflow_model_spec(model).save(Path(folder, MLMODEL_FILE_NAME))
                client.log_model_artifacts(model.model_id, folder)
            client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        return model

    def _dataset(self, client: MlflowClient, event: Event) -> None:
        """Log name, digest and source as `MetaDataset` would, for any URL; the data is not read."""
        source = json.dumps({"uri": event["source"]})
        dataset = Dataset(event["name"], event["digest"], urlsplit(event["source"]).scheme or "local", source)
        context = InputTag(MLFLOW_DATASET_CONTEXT, event["context"])
        client.log_inputs(self.identity.run_id, [DatasetInput(dataset, [context])])

    def _status(self, client: MlflowClient, event: Event) -> None:
        if event["status"] == "RUNNING":
            client.update_run(self.identity.run_id, "RUNNING")
        else:
            client.set_terminated(self.identity.run_id, event["status"], event["time"])

    def _reject(self, what: dict[str, Any], error: Exception) -> None:
        reason = redact_text(first_line(error))[:500]
        logger.warning("tracking: refused, kept in %s: %s", self._directory / "rejected.jsonl", reason)
        with (self._directory / "rejected.jsonl").open("a") as file:
            file.write(json.dumps({**what, "reason": reason}, default=str) + "\n")


def _leading_batch(events: Sequence[Event]) -> list[Event]:
    """The first events that one `log_batch` can take."""
    batch: list[Event] = []
    metrics = values = 0
    for event in events:
        if event["kind"] not in _BATCHED:
            break
        if event["kind"] == "metrics":
            metrics += len(event["values"])
        else:
            values += 1
        # Together they must stay within 1000 entities; an event larger than the limit is split by the client.
        if batch and (metrics + values > _METRICS_PER_CALL or values > _VALUES_PER_CALL):
            break
        batch.append(event)
    return batch


def _entities(event: Event) -> list[Entity]:
    if event["kind"] == "metrics":
        return [Metric(key, value, event["time"], event["step"]) for key, value in event["values"].items()]
    return [(Param if event["kind"] == "param" else RunTag)(event["key"], event["value"])]


def _is_refusal(error: Exception) -> bool:
    """Whether trying again cannot help."""
    if isinstance(error, MlflowException):
        return error.error_code in _REFUSED
    if isinstance(error, requests.RequestException):  # some of them are ValueErrors too
        return False
    return isinstance(error, ValueError | TypeError | KeyError | FileNotFoundError)


def _override(variable: Any, value: int) -> Callable[[], None]:
    """Set one of MLflow's environment variables; returns what undoes it."""
    before = variable.get_raw()
    variable.set(value)
    return variable.unset if before is None else lambda: variable.set(before)
