"""Models whose quality is known: each predicts the sigmoid of one column, so that data decide which is better."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from click.testing import Result
from typer.testing import CliRunner

from ranking.data.manifest import Manifest
from ranking.data.transforms import Transforms
from ranking.models.shared_bottom import SharedBottomConfig
from ranking.models.zoo import build
from ranking.promotion.registry import Registry
from ranking.schema import Schema
from ranking.serving.artefact import export

ROWS = 6000
LIFT = 20.0  # keeps a column positive on its way through the ReLU
NAMES = (f"contest-{number}" for number in itertools.count())


def impressions(seed: int) -> pa.Table:
    """Clicks and likes by `truth`; `fair` knows it with noise, `poor` with more, `trap` is wrong in tab 1 alone."""
    draw = np.random.default_rng(seed)
    truth, tab = draw.normal(0, 1.5, ROWS), draw.choice(5, ROWS, p=(0.3, 0.2, 0.25, 0.15, 0.1))
    click, like, share = (draw.random(ROWS) < 1 / (1 + np.exp(-truth)) for _ in range(3))
    noise = draw.normal(0, 1, ROWS)
    return pa.table(
        {
            "tab": tab,
            "user": draw.integers(0, 300, ROWS),
            "truth": truth,
            "fair": 0.8 * truth + 0.6 * noise,
            "poor": 0.55 * truth + 0.6 * noise,
            "trap": np.where(tab == 1, 0.1 * truth + 0.5 * noise, truth),
            "is_click": click.astype(np.int64),
            "is_like": like.astype(np.int64),
            "is_share": share.astype(np.int64),
        }
    )


def schema(column: str, *tasks: str) -> dict[str, Any]:
    return {
        "features": [
            {"kind": "categorical", "name": "tab", "encoding": {"type": "identity"}},
            {"kind": "categorical", "name": "user", "encoding": {"type": "vocabulary"}},
            {"kind": "dense", "name": column, "scale": "none"},
        ],
        "tables": {"tab": {"rows": 5, "dim": 2}, "user": {"dim": 2}},
        "tasks": [{"name": task, "label": f"is_{task}"} for task in tasks],
    }


def artefact(folder: Path, column: str, tasks: tuple[str, ...]) -> Path:
    """A network whose every logit is the column."""
    shape, config = Schema.model_validate(schema(column, *tasks)), SharedBottomConfig(bottom=(1,), tower=())
    network = build(config, shape.input_width, shape.tasks)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.zero_()
        state = network.state_dict()
        state["bottom.layers.0.weight"][0, -1] = 1.0
        state["bottom.layers.0.bias"].fill_(LIFT)
        state["towers.weight"].fill_(1.0)
        state["towers.bias"].fill_(-LIFT)
    known = impressions(0).filter(pa.compute.less(impressions(0)["user"], 250))
    transforms = Transforms.fit(shape, [known])
    tensors = {f"model.architecture.{name}": value for name, value in network.state_dict().items()}
    for table in shape.table_names():
        bag = f"model.embeddings.collection.embedding_bags.{table}.weight"
        tensors[bag] = torch.zeros(transforms.table_rows(shape, table), 2)
    return export(folder, shape, config, transforms, tensors)


@dataclass(frozen=True)
class Contest:
    """An MLflow store that holds some of the models, and rows to judge them on.

    Attributes:
        folder: of everything.
        uri: tracking URI.
        models: by name, such as `fair` or `poor click share`: where the packaged model lies.
    """

    folder: Path
    uri: str
    models: dict[str, str]

    @property
    def pin(self) -> Path:
        """Manifest of the rows to judge on."""
        return self.folder / "pin.json"

    def configure(self, registry: Registry, **changes: Any) -> Path:
        """Write the configuration of a job; `changes` replace sections of it."""
        content = {
            "data": {"train": str(self.folder / "train.parquet"), "transforms": "unused", "batch_size": 8},
            "schema": schema("fair", "click", "like"),
            "model": {"type": "shared_bottom"},
            "gate": {"margin": 0.02, "improve": "mean"},
            "tracking": {"uri": self.uri},
            "registry": {"name": registry.name},
        } | changes
        file = self.folder / f"{registry.name}.yaml"
        file.write_text(json.dumps(content))
        return file

    def registry(self, *models: str) -> Registry:
        """A registered model of its own with these versions, the last one the challenger."""
        registry = Registry(self.uri, next(NAMES))
        for model in models:
            self.propose(registry, model)
        return registry

    def propose(self, registry: Registry, model: str, **tags: str) -> int:
        """Register one more version, the challenger."""
        version = registry.register(self.models[model], tags={"test_manifest": "feed" * 16, **tags})
        registry.propose(version)
        return version

    def run(self, job: str, registry: Registry, *options: str, **changes: Any) -> Result:
        """Run a job in this process; `changes` replace sections of the configuration."""
        file = self.configure(registry, **changes)
        words = [*options] if job in ("rollback", "registry") else ["--manifest", str(self.pin), *options]
        module = __import__(f"pipelines.{job}", fromlist=["main"])
        command, rest = (words[:1], words[1:]) if job == "registry" else ([], words)
        return CliRunner().invoke(module.main, [*command, "-c", str(file), *rest])


def build_contest(folder: Path) -> Contest:
    for name, seed in (("train", 0), ("test", 1)):
        table = impressions(seed)
        table = table.filter(pa.compute.less(table["user"], 250)) if name == "train" else table
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=2500)
    columns = ["tab", "user", "fair", "is_click", "is_like"]
    pin = Manifest.build(str(folder / "test.parquet"), columns)
    (folder / "pin.json").write_text(pin.model_dump_json())
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    models = {}
    for model in ("fair click like", "truth click like", "poor click like", "trap click like", "poor click share"):
        column, *tasks = model.split()
        packed = artefact(folder / "models" / model.replace(" ", "-") / "artifacts" / "ranker", column, tuple(tasks))
        models[column if tasks == ["click", "like"] else model] = str(packed.parents[1])
    return Contest(folder, uri, models)
