"""The MLflow run of one training job: rank 0 logs here, at once and without ever waiting for the server."""

from __future__ import annotations

import json
import re
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import yaml
from pydantic import Field, field_validator

from ranking.distributed.world import built_from
from ranking.errors import InputError
from ranking.redact import redact, redact_text
from ranking.schema import Frozen
from ranking.tracking.spool import Spool
from ranking.tracking.system import SystemMetrics

if TYPE_CHECKING:
    from ranking.tracking.delivery import MlflowSink

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]  # RUNNING: another process goes on with it

_PARAM_LENGTH = 6000  # MLflow's limits, in characters
_KEY_LENGTH = 250
_TAG_LENGTH = 8000
_DIGEST_LENGTH = 36
_STOP_SECONDS = 5.0  # to ship what is left after SIGTERM, and as long for a request under way
_STORES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")
_DOCUMENTS = (":(top,exclude)docs", ":(top,exclude)benchmarks/results")


class TrackingConfig(Frozen):
    """Where a run is tracked, and how an outage of that place is met."""

    uri: str = Field("sqlite:///mlflow.db", description="MLflow tracking URI: a database, or http(s)://host:port.")
    experiment: str = Field("ranking", min_length=1, max_length=500, description="MLflow experiment of the run.")
    artifact_location: str = Field(
        "", description="Root of the artifacts when the experiment is created; left out: MLflow's default."
    )
    run_name: str = Field("", description="Name of the run; left out: MLflow invents one.")
    tags: dict[str, str] = Field({}, description="Tags of the run, beside those that the job sets.")
    system_metrics: bool = Field(False, description="Log CPU, memory, disk, network and GPU use (needs psutil).")
    drain_seconds: float = Field(60.0, ge=0, description="How long the end of a run waits for the server.")
    request_timeout: int = Field(10, ge=1, description="Seconds after which one request counts as failed.")
    max_backoff: float = Field(30.0, gt=0, description="Longest pause between attempts during an outage, in seconds.")

    @field_validator("uri")
    @classmethod
    def _is_a_store(cls, uri: str) -> str:
        if re.split(r"[:+]", uri, maxsplit=1)[0] not in _STORES:
            raise ValueError(f"{redact_text(uri)!r}; expected a URI of {', '.join(_STORES)} (MLflow 3 dropped file:)")
        return uri


class Dataset(Frozen):
    """A data set by reference: nothing is read to log it.

    Attributes:
        name: Name shown in MLflow.
        digest: Digest of the manifest; MLflow keeps the first 36 characters.
        source: URL of the Parquet shards or of their manifest.
    """

    name: str
    digest: str
    source: str


class NullRun:
    """The interface of a run, logging nothing: what every rank but 0 holds.

    No method blocks on the tracking server, and none raises because of it.

    Attributes:
        continued: whether an earlier process of the run directory began the run.
    """

    continued = False

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; "" until the server has been reached."""
        return ""

    @property
    def key(self) -> str:
        """Our own id of the run, known before any server is: the tag `ranking.id` of the MLflow run."""
        return ""

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers of a step, such as `loss` or `auc/click`."""

    def log_checkpoint(self, step: int, uri: str, metrics: Mapping[str, float]) -> None:
        """Log an evaluated checkpoint as the LoggedModel `step-<step>`, searchable by its metrics.

        Args:
            step: Optimizer updates taken (the N of AUC@N-steps).
            uri: Where the committed checkpoint lies.
            metrics: Metrics of the evaluation; one that is not finite stays with the run, so that it cannot rank.
        """

    def log_figure(self, file: Path) -> None:
        """Log an image as `figures/<its name>`; a later one of the same name replaces it."""

    def log_text(self, name: str, text: str) -> None:
        """Log a text file, named with its suffix; URLs lose their credentials."""

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""

    def log_card(self, markdown: str) -> None:
        """Show a model card as the run's description, and keep it as `card.md`."""

    def finish(self, status: Status = "FINISHED") -> int:
        """Ship what is left within `drain_seconds` and end the run; a second call does nothing.

        Returns:
            Number of events that stay in the run directory, for whoever opens the run again or for `replay`.
        """
        return 0

    def stop(self) -> int:
        """End the run as KILLED, within seconds: whoever sent SIGTERM does not wait; what is left stays as well.

        Returns:
            As `finish`.
        """
        return 0

    def __enter__(self) -> Self:
        """The run itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Finish the run, as FAILED after an exception and KILLED after an interrupt or exit."""
        stopped = kind in (KeyboardInterrupt, SystemExit)
        self.finish("FINISHED" if kind is None else "KILLED" if stopped else "FAILED")


class Run(NullRun):
    """One MLflow run, fed through the spool in `<run directory>/tracking`."""

    def __init__(self, config: TrackingConfig, directory: Path) -> None:
        """Use `Run.open`."""
        self._config = config
        self._sink = _sink(config, directory)
        self._spool = Spool(directory, self._sink, max_backoff=config.max_backoff)
        self._system: SystemMetrics | None = None

    @classmethod
    def open(
        cls,
        config: TrackingConfig,
        directory: Path,
        resolved_config: Mapping[str, Any] | str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        dataset: Dataset | None = None,
    ) -> Run:
        """Begin the run of a run directory, or go on with the one that began there.

        Args:
            config: The tracking section.
            directory: Run directory on local disk; what an earlier process left there is delivered first.
            resolved_config: The whole configuration, as a mapping or as YAML; kept as `config.yaml`.
            params: Parameters; left out: the flattened configuration. A run that goes on keeps its first ones.
            tags: Tags such as the git revision, beside `config.tags`.
            dataset: Training data.

        Secrets are masked before anything is written, to the spool as well.
        """
        from ranking.tracking.delivery import RunIdentity  # importing MLflow takes seconds, and only rank 0 needs it

        system = SystemMetrics() if config.system_metrics else None
        folder = directory / "tracking"
        begun = RunIdentity.load(folder) is not None
        if not begun:
            RunIdentity(uuid.uuid4().hex, _now()).save(folder)
        run = cls(config, folder)
        run.continued = begun
        settings = resolved_config if isinstance(resolved_config, Mapping) else yaml.safe_load(resolved_config)
        if begun:
            run._spool.append({"kind": "status", "status": "RUNNING", "time": _now()})
        else:
            run._log_params(settings if params is None else params)
        run.log_text("config.yaml", yaml.safe_dump(redact(settings), sort_keys=False))
        run.log_tags({**config.tags, **(tags or {})})
        if dataset:
            run._log_dataset(dataset)
        if system:
            system.start(run.log_metrics)
            run._system = system
        return run

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; "" until the server has been reached."""
        return self._sink.identity.run_id

    @property
    def key(self) -> str:
        """See `NullRun.key`."""
        return self._sink.identity.id

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:  # noqa: D102
        numbers = {key: float(value) for key, value in values.items()}
        self._spool.append({"kind": "metrics", "time": _now(), "step": int(step), "values": numbers})

    def log_checkpoint(self, step: int, uri: str, metrics: Mapping[str, float]) -> None:
        """See `NullRun.log_checkpoint`; written to the spool at once."""
        self._spool.append(
            {
                "kind": "checkpoint",
                "time": _now(),
                "step": int(step),
                "uri": redact_text(uri),
                "values": {key: float(value) for key, value in metrics.items()},
            }
        )

    def log_figure(self, file: Path) -> None:  # noqa: D102
        self._spool.attach(f"figures/{file.name}", file.read_bytes())

    def log_text(self, name: str, text: str) -> None:  # noqa: D102
        self._spool.attach(name, redact_text(text).encode())

    def log_tags(self, tags: Mapping[str, str]) -> None:  # noqa: D102
        for key, value in redact(tags).items():
            self._spool.append({"kind": "tag", "key": key, "value": str(value)[:_TAG_LENGTH]})

    def log_card(self, markdown: str) -> None:  # noqa: D102
        self.log_text("card.md", markdown)
        body = re.sub(r"\A---\n.*?\n---\n", "", markdown, flags=re.DOTALL)  # MLflow would show the YAML header as text
        self.log_tags({"mlflow.note.content": body.lstrip()})

    def finish(self, status: Status = "FINISHED") -> int:
        """See `NullRun.finish`; a second call does nothing."""
        return self._end(status, self._config.drain_seconds, self._config.request_timeout + 5.0)

    def stop(self) -> int:  # noqa: D102
        return self._end("KILLED", min(self._config.drain_seconds, _STOP_SECONDS), _STOP_SECONDS)

    def _end(self, status: Status, deadline: float, grace: float) -> int:
        if self._spool.closed:
            return 0
        if self._system:
            self._system.stop()
        self._spool.append({"kind": "status", "status": status, "time": _now()})
        return self._spool.close(deadline, grace)

    def _log_params(self, params: Mapping[str, Any]) -> None:
        for key, value in flatten(redact(params)):
            self._spool.append({"kind": "param", "key": key[:_KEY_LENGTH], "value": value[:_PARAM_LENGTH]})

    def _log_dataset(self, dataset: Dataset) -> None:
        self._spool.append(
            {
                "kind": "dataset",
                "name": dataset.name,
                "digest": dataset.digest[:_DIGEST_LENGTH],
                "source": redact_text(dataset.source),
                "context": "training",
            }
        )


def replay(config: TrackingConfig, directory: Path) -> int:
    """Deliver what an outage left in a run directory whose job is over.

    Returns:
        Number of events that still stay there.

    Raises:
        InputError: No run began in `directory`.
    """
    folder = directory / "tracking"
    if not (folder / "run.json").exists():
        raise InputError(f"{folder / 'run.json'}: missing; expected the directory of a run that was tracked")
    return Spool.replay(folder, _sink(config, folder), config.drain_seconds)


def flatten(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and text values of nested settings.

    A list of sections that carry names, such as the features, gives one key per name; other lists are one value.
    """
    for key, value in params.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
            for item in value:
                yield f"{name}.{item['name']}", _text({k: v for k, v in item.items() if k != "name"})
        else:
            yield name, _text(value)


def git_revision() -> str:
    """Revision of the image, or of the checkout this package runs from; "" elsewhere.

    "+dirty" with local changes, those of documents left aside: studies and benchmarks write theirs into the checkout.
    """
    if built_from():
        return built_from()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--", ":(top)", *_DOCUMENTS)
        return git("rev-parse", "--short", "HEAD") + ("+dirty" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _sink(config: TrackingConfig, directory: Path) -> MlflowSink:
    from ranking.tracking.delivery import MlflowSink

    return MlflowSink(
        directory, config.uri, config.experiment, config.artifact_location, config.run_name, config.request_timeout
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _now() -> int:
    return time.time_ns() // 1_000_000
