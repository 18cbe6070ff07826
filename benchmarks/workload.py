"""The workload "20x100k": its Parquet files, and the configuration that trains on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ranking.config import RunConfig
from ranking.data.manifest import Manifest
from ranking.data.synthetic.workload import WorkloadConfig, workload, write_workload
from ranking.data.transforms import Transforms
from ranking.schema import Schema

IDS, LISTS, NUMBERS, TABLE_ROWS, FILES = 20, 2, 13, 100_000, 8


def prepare(folder: Path, rows: int) -> Path:
    """Directory of the workload, written when it is not there yet."""
    place = folder / f"20x100k-{rows}"
    if not (place / "transforms").exists():
        write_workload(place / "train", WorkloadConfig(rows=rows, file_rows=-(-rows // FILES), overwrite=True))
        sample = next(workload(WorkloadConfig(rows=10_000)))
        Transforms.fit(schema(), [sample]).save(str(place / "transforms"))
    return place


def schema() -> Schema:
    """Its columns."""
    return Schema(**_schema())


def config(place: Path, output: Path, **sections: Any) -> RunConfig:
    """Training on it: an MMoE of 8 experts [128] on the 333 inputs, towers [64], row-wise Adagrad and Adam.

    Args:
        place: what `prepare` returned.
        output: run directory.
        sections: overlaid key by key, one level deep.
    """
    base: dict[str, Any] = {
        "name": "benchmark",
        "output": str(output),
        "data": {
            "train": str(place / "train/*/*.parquet"),
            "transforms": str(place / "transforms"),
            "batch_size": 1024,
        },
        "schema": _schema(),
        "model": {"type": "mmoe", "bottom": (128,), "experts": 8, "tower": (64,)},
        "tracking": {"uri": f"sqlite:///{output / 'mlflow.db'}", "artifact_location": (output / "artifacts").as_uri()},
    }
    for name, section in sections.items():
        base[name] = base.get(name, {}) | section if isinstance(section, dict) else section
    return RunConfig(**base)


def manifest(place: Path) -> Manifest:
    """Its footers."""
    return Manifest.build((str(place / "train/*/*.parquet"),), schema().columns())


def _schema() -> dict[str, Any]:
    identity = {"kind": "categorical", "encoding": {"type": "identity"}}
    single = [{"name": f"id_{i}", **identity} for i in range(IDS - LISTS)]
    lists = [{"name": f"list_{i}", "multi_hot": True, **identity} for i in range(LISTS)]
    dense = [{"name": f"dense_{i}", "kind": "dense", "scale": "none"} for i in range(NUMBERS)]
    return {
        "features": [*single, *lists, *dense],
        "tables": {feature["name"]: {"rows": TABLE_ROWS} for feature in [*single, *lists]},
        "tasks": [
            {"name": "click", "label": "click"},
            {"name": "like", "label": "like", "given": "click", "group": "satisfaction"},
        ],
    }
