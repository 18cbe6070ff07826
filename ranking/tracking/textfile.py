"""Metrics for Prometheus in a file of node_exporter's textfile collector, so that a job that is over is scraped too."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
from prometheus_client.parser import text_string_to_metric_families
from pydantic import Field, field_validator

from ranking.errors import EXIT_NOT_PROMOTED, EXIT_OK, EXIT_WAITING
from ranking.schema import Frozen

log = logging.getLogger(__name__)

_RUN, _TASK, _JOB = ("model",), ("model", "task"), ("model", "pipeline")
GAUGES: dict[str, tuple[tuple[str, ...], str]] = {
    "ranking_rows_per_second": (_RUN, "Rows trained on per second, over all ranks."),
    "ranking_input_wait_ratio": (_RUN, "Share of time in which ranks waited for input."),
    "ranking_step": (_RUN, "Optimizer updates taken."),
    "ranking_step_target": (_RUN, "Optimizer updates of the whole run."),
    "ranking_quarantined_rows": (_RUN, "Rows left out because their row group is damaged."),
    "ranking_loss": (_TASK, "Training loss since the log line before."),
    "ranking_auc": (_TASK, "AUC on validation in the sample space."),
    "ranking_r2": (_TASK, "R squared on validation in the sample space."),
    "ranking_checkpoint_timestamp_seconds": (_RUN, "When the newest checkpoint was committed."),
    "ranking_job_start_timestamp_seconds": (_JOB, "When the job last began."),
    "ranking_job_end_timestamp_seconds": (_JOB, "When the job last ended."),
    "ranking_job_last_success_timestamp_seconds": (_JOB, "When the job last did its work, a verdict against included."),
    "ranking_job_exit_code": (_JOB, "Exit code of the job when it last ended."),
}
_WORKED = (EXIT_OK, EXIT_NOT_PROMOTED, EXIT_WAITING)

Sample = tuple[str, tuple[str, ...]]


class MetricsConfig(Frozen):
    """Metrics of the jobs for a monitoring system."""

    textfile: Path | None = Field(
        None, description="File ending in .prom for node_exporter's textfile collector; jobs may share it. Empty: none."
    )

    @field_validator("textfile", mode="before")
    @classmethod
    def _ends_in_prom(cls, value: object) -> object:
        if value is None or str(value) == "":
            return None
        if not str(value).endswith(".prom"):
            raise ValueError(f"{value}; expected a name ending in .prom, as the collector reads no other")
        return value


class Textfile:
    """Gauges of one job; written as a whole, beside what other jobs have in the file. A full disk stops no job."""

    def __init__(self, config: MetricsConfig, model: str) -> None:
        """Keep the settings; nothing is written yet.

        Args:
            config: where to write.
            model: registered model that the samples are labelled with.
        """
        self._path, self._model = config.textfile, model
        self._values: dict[Sample, float] = {}
        self._renewed: set[str] = set()  # gauges of which the file's samples of this model are out of date

    def begin(self, pipeline: str) -> None:
        """A job begins."""
        self._set("ranking_job_start_timestamp_seconds", time.time(), pipeline)
        self._write()

    def end(self, pipeline: str, code: int) -> None:
        """A job ended with an exit code."""
        now = time.time()
        self._set("ranking_job_end_timestamp_seconds", now, pipeline)
        self._set("ranking_job_exit_code", code, pipeline)
        if code in _WORKED:
            self._set("ranking_job_last_success_timestamp_seconds", now, pipeline)
        self._write()

    def observe(self, values: Mapping[str, float], step: int, target: int) -> None:
        """One log line of the trainer."""
        self._set("ranking_step", step)
        self._set("ranking_step_target", target)
        self._renewed.add("ranking_loss")
        plain = {
            "train/rows_per_second": "ranking_rows_per_second",
            "train/input_wait_share": "ranking_input_wait_ratio",
            "data/quarantined_rows": "ranking_quarantined_rows",
        }
        for key, value in values.items():
            if key in plain:
                self._set(plain[key], value)
            elif key.startswith("train/loss/"):
                self._set("ranking_loss", value, key.removeprefix("train/loss/"))
        self._write()

    def checkpoint(self, metrics: Mapping[str, float]) -> None:
        """A checkpoint was committed and evaluated; an undefined metric leaves no sample."""
        self._set("ranking_checkpoint_timestamp_seconds", time.time())
        quality = {"ranking_auc", "ranking_r2"}
        self._values = {key: value for key, value in self._values.items() if key[0] not in quality}
        self._renewed |= quality
        for key, value in metrics.items():
            match key.split("/"):
                case ["validation", task, ("auc" | "r2") as metric]:
                    self._set(f"ranking_{metric}", value, task)
        self._write()

    def _set(self, name: str, value: float, *labels: str) -> None:
        self._values[name, (self._model, *labels)] = float(value)

    def _write(self) -> None:
        if self._path is None:
            return
        registry, gauges = CollectorRegistry(), {}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            for (name, labels), value in sorted({**self._others(), **self._values}.items()):
                if name not in gauges:
                    gauges[name] = Gauge(name, GAUGES[name][1], GAUGES[name][0], registry=registry)
                gauges[name].labels(*labels).set(value)
            write_to_textfile(str(self._path), registry)
            self._path.chmod(0o644)  # node_exporter runs as another user
        except OSError as error:
            log.warning("%s: metrics are not written: %s", self._path, error)

    def _others(self) -> dict[Sample, float]:
        """What the file has from other jobs and earlier runs."""
        found = _read(self._path) if self._path else {}
        return {key: found[key] for key in found if not (key[0] in self._renewed and key[1][0] == self._model)}


class _Tracker(Protocol):
    def log_metrics(self, values: Mapping[str, float], step: int) -> None: ...

    def log_checkpoint(self, step: int, uri: str, metrics: Mapping[str, float]) -> None: ...


class Watched:
    """A run whose numbers go into a textfile, too.

    Args:
        run: the run of rank 0.
        textfile: where its numbers go.
        target: updates of the whole run.
    """

    def __init__(self, run: _Tracker, textfile: Textfile, target: int) -> None:
        """Nothing is written yet."""
        self._run, self._textfile, self._target = run, textfile, target
        self._lock = threading.Lock()  # a checkpoint is logged by the thread that saved it

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """See `NullRun.log_metrics`."""
        self._run.log_metrics(values, step)
        with self._lock:
            self._textfile.observe(values, step, self._target)

    def log_checkpoint(self, step: int, uri: str, metrics: Mapping[str, float]) -> None:
        """See `NullRun.log_checkpoint`."""
        self._run.log_checkpoint(step, uri, metrics)
        with self._lock:
            self._textfile.checkpoint(metrics)


def _read(path: Path) -> dict[Sample, float]:
    """What stands in the file; nothing where it is missing or damaged."""
    try:
        families = list(text_string_to_metric_families(path.read_text()))
    except (OSError, ValueError):
        return {}
    return {
        (sample.name, tuple(sample.labels.get(label, "") for label in GAUGES[sample.name][0])): sample.value
        for family in families
        for sample in family.samples
        if sample.name in GAUGES and math.isfinite(sample.value)
    }
