"""A tiny impression log with three tasks, and the configuration that trains on it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from ranking.config import RunConfig, load
from ranking.data.transforms import Transforms

SCHEMA: dict[str, Any] = {
    "user": "user_id",
    "features": [
        {"kind": "categorical", "name": "user_id", "table": "users", "encoding": {"type": "vocabulary"}},
        {"kind": "categorical", "name": "video_id", "table": "videos"},
        {"kind": "categorical", "name": "recent", "table": "videos", "multi_hot": True, "pooling": "mean"},
        {"kind": "categorical", "name": "tab", "encoding": {"type": "identity"}},
        {"kind": "dense", "name": "duration", "log1p": True},
        {"kind": "dense", "name": "age", "null": "mean", "indicator": True},
    ],
    "tables": {"videos": {"rows": 40}, "tab": {"rows": 5, "dim": 4}},
    "embedding_dim": 8,
    "tasks": [
        {"name": "click", "label": "is_click"},
        {"name": "like", "label": "is_like", "given": "click", "group": "satisfaction", "gamma": 0.5},
        {"name": "watch", "label": "log1p(play_ms / 1000)", "loss": "mse", "given": "click", "weight": 0.3},
    ],
}


def impressions(rows: int, seed: int) -> pa.Table:
    """Rows whose clicks depend on user and video, with nulls, empty lists and unobserved labels among them."""
    draw = np.random.default_rng(seed)
    user, video = draw.integers(0, 30, rows), draw.integers(0, 60, rows)
    click = draw.random(rows) < 1 / (1 + np.exp(-(user % 5 - 2) - (video % 3 - 1)))
    like = click & (draw.random(rows) < 0.2 + 0.2 * (video % 2))
    return pa.table(
        {
            "user_id": user,
            "video_id": pa.array(video, mask=draw.random(rows) < 0.05),
            "recent": pa.array([draw.integers(0, 60, n) for n in draw.integers(0, 4, rows)], pa.list_(pa.int64())),
            "tab": draw.integers(0, 5, rows),
            "duration": draw.exponential(20, rows),
            "age": pa.array(draw.normal(30, 9, rows), mask=draw.random(rows) < 0.2),
            "is_click": pa.array(click.astype(np.int64)),
            "is_like": pa.array(like.astype(np.int64), mask=draw.random(rows) < 0.05),
            "play_ms": click * draw.exponential(9000, rows),
        }
    )


@dataclass(frozen=True)
class Workspace:
    """A directory with data, fitted transforms and `run.yaml`."""

    folder: Path

    @property
    def yaml(self) -> Path:
        return self.folder / "run.yaml"

    def files(self, split: str) -> list[Path]:
        return sorted((self.folder / "data" / split).glob("*.parquet"))

    def config(self, *overrides: str) -> RunConfig:
        return load([self.yaml], overrides)

    def arguments(self, *overrides: str) -> list[str]:
        return ["-c", str(self.yaml), *overrides]


def build(folder: Path) -> Workspace:
    """Write everything a job reads: 1000 + 400 + 400 rows, 8 training steps an epoch."""
    for split, files, seed in (("train", 4, 1), ("validation", 1, 20), ("test", 1, 30)):
        (folder / "data" / split).mkdir(parents=True)
        for number in range(files):
            table = impressions(250 if split == "train" else 400, seed + number)
            pq.write_table(
                table, folder / f"data/{split}/part-{number}.parquet", row_group_size=100, write_page_checksum=True
            )
    workspace = Workspace(folder)
    workspace.yaml.write_text(yaml.safe_dump(content(folder), sort_keys=False))
    schema = workspace.config().schema
    Transforms.fit(schema, [pq.read_table(file) for file in workspace.files("train")]).save(str(folder / "transforms"))
    return workspace


def content(folder: Path) -> dict[str, Any]:
    """The configuration as a mapping; dropout, warm-up and decay make every part of the state matter."""
    return {
        "name": "tiny",
        "output": str(folder / "run"),
        "data": {
            "train": str(folder / "data/train/*.parquet"),
            "validation": str(folder / "data/validation/*.parquet"),
            "test": str(folder / "data/test/*.parquet"),
            "transforms": str(folder / "transforms"),
            "batch_size": 128,
            "lanes": 4,
            "block": 2,
        },
        "schema": deepcopy(SCHEMA),
        "model": {"type": "mmoe", "bottom": [16, 8], "experts": 3, "tower": [4], "dropout": 0.2},
        "optimizer": {"dense": {"learning_rate": 0.01}, "schedule": {"type": "cosine", "warmup_steps": 5}},
        "training": {"epochs": 2, "log_every": 3},
        "evaluation": {"every": 6, "batch_size": 256},
        "tracking": {
            "uri": f"sqlite:///{folder / 'mlflow.db'}",
            "artifact_location": (folder / "artifacts").as_uri(),
            "drain_seconds": 60,
        },
    }
