"""The serving artefact: rows per second of whole tables, and the latency of a single row.

The other side is the same network on tensors that were encoded before: what remains is the price of the encoder,
of the data frame and of MLflow's pyfunc with its signature.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pyarrow as pa
import torch

from benchmarks import harness, workload
from pipelines.job import _quiet
from ranking.data.transforms import Transforms
from ranking.models.base import predictions
from ranking.serving.artefact import export
from ranking.serving.packaging import log_model
from ranking.serving.ranker import Ranker


def artefact(place: Path, folder: Path) -> Path:
    """The workload's model with random weights."""
    from pipelines.assembly import Assembly
    from ranking.distributed.sharding import local_parts
    from ranking.distributed.world import join

    config = workload.config(place, folder / "run")
    with join("cpu") as world:
        parts = Assembly(config, world)
        state = parts.state(1)
        tensors = {
            name: local_parts(value)[0][0].clone() if "embedding_bags." in name else value.clone()
            for name, value in state.model.state_dict().items()
        }
        transforms: Transforms = parts.transforms
        return export(folder / "ranker", config.schema, config.model, transforms, tensors, config.fusion)


def rate(work: Callable[[], object], rows: int, repeats: int) -> Callable[[], float]:
    """Rows/s of `repeats` calls."""

    def run() -> float:
        return repeats * rows / harness.timed(lambda: [work() for _ in range(repeats)])

    return run


def latency(work: Callable[[], object], repeats: int) -> Callable[[], float]:
    """Median milliseconds of a call."""
    return lambda: 1000 * statistics.median(harness.timed(work) for _ in range(repeats))


def cases(options: Any, folder: Path) -> list[dict[str, object]]:
    """Ranker and pyfunc against the bare network."""
    place = workload.prepare(options.data, options.rows)
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.set_experiment(
        experiment_id=mlflow.create_experiment("benchmark", artifact_location=(folder / "artifacts").as_uri())
    )
    ranker = Ranker.load(artefact(place, folder))
    table = next(workload.workload(workload.WorkloadConfig(rows=4096))).select(list(ranker.inputs))
    with mlflow.start_run() as run:
        served = mlflow.pyfunc.load_model(log_model(folder / "ranker", table.slice(0, 64), run.info.run_id).model_uri)
    found = []
    for rows in (4096, 1):
        part = table.slice(0, rows)
        sides = {"Ranker": _ranker(ranker, part), "pyfunc": _pyfunc(served, part)}
        for name, ours in sides.items():
            other, repeats = _network(ranker, part), 8 if rows > 1 else 100
            measure = (lambda w, r=rows, n=repeats: rate(w, r, n)) if rows > 1 else (lambda w, n=repeats: latency(w, n))
            unit, what = ("rows/s", f"{rows} rows") if rows > 1 else ("ms", "one row")
            case = harness.alternate(f"{name}, {what}", unit, measure(ours), measure(other), options.rounds)
            found.append(case.summary())
    return found


def _ranker(ranker: Ranker, table: pa.Table) -> Callable[[], object]:
    return lambda: ranker.predict(table)


def _pyfunc(served: Any, table: pa.Table) -> Callable[[], object]:
    frame = table.to_pandas()
    return lambda: served.predict(frame)


def _network(ranker: Ranker, table: pa.Table) -> Callable[[], object]:
    ids, lists, dense = ranker.encoder.features(table)

    @torch.inference_mode()
    def run() -> torch.Tensor:
        return predictions(ranker.model((ids, lists), dense), ranker.schema.tasks)

    return run


def main() -> None:
    parser = harness.arguments(__doc__ or "", rounds=7)
    parser.set_defaults(rows=100_000)
    options = parser.parse_args()
    _quiet()
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    before = harness.machine()
    with tempfile.TemporaryDirectory() as folder:
        found = cases(options, Path(folder))
    harness.report("serving", before, {"threads": torch.get_num_threads(), "rounds": options.rounds}, found)


if __name__ == "__main__":
    main()
