"""Use of the machine, sampled beside training and logged like every other metric: through the spool."""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ranking.errors import InputError

logger = logging.getLogger(__name__)


class SystemMetrics:
    """Samples MLflow's own monitors: MLflow's logging thread would give up at the first outage."""

    def __init__(self, seconds: float = 10.0) -> None:
        """Find what can be sampled.

        Args:
            seconds: Time between two samples.

        Raises:
            InputError: psutil is not installed.
        """
        if importlib.util.find_spec("psutil") is None:
            raise InputError("tracking.system_metrics: true, but psutil is missing; expected `pip install psutil`")
        self._seconds, self._monitors = seconds, _monitors()
        self._stopping = threading.Event()

    def start(self, log: Callable[[Mapping[str, float], int], None]) -> None:
        """Sample until `stop`; `log` takes the metrics `system/...` and the number of the sample."""
        self._thread = threading.Thread(target=self._sample, args=(log,), name="system-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no further sample."""
        self._stopping.set()
        self._thread.join()

    def _sample(self, log: Callable[[Mapping[str, float], int], None]) -> None:
        sample = 0
        while True:
            values: dict[str, float] = {}
            for monitor in self._monitors:
                monitor.clear_metrics()
                monitor.collect_metrics()
                values |= {f"system/{key}": value for key, value in monitor.aggregate_metrics().items()}
            log(values, sample)
            sample += 1
            if self._stopping.wait(self._seconds):
                return


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics import cpu_monitor, disk_monitor, gpu_monitor, network_monitor

    classes: list[Any] = [cpu_monitor.CPUMonitor, disk_monitor.DiskMonitor, network_monitor.NetworkMonitor]
    monitors = [monitor() for monitor in classes]
    try:
        gpu: Any = gpu_monitor.GPUMonitor
        monitors.append(gpu())
    except Exception as error:  # no driver, or nvidia-ml-py is not installed
        logger.info("system metrics without a GPU: %s", error)
    return monitors
