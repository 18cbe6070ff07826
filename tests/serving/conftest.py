"""A model of every feature kind with random weights, and the artefact it becomes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from ranking.data.encode import Encoder
from ranking.data.transforms import Transforms
from ranking.models.base import ArchitectureConfig, predictions
from ranking.models.mmoe import MMoEConfig
from ranking.models.ranker import RankingModel
from ranking.models.zoo import build, prefixes
from ranking.nn.embeddings import EmbeddingTables
from ranking.schema import Schema
from ranking.serving.artefact import export
from ranking.serving.fusion import FusionConfig

SCHEMA = Schema.model_validate(
    {
        "features": [
            {"kind": "dense", "name": "age", "null": "zero", "indicator": True},
            {"kind": "dense", "name": "views", "log1p": True, "scale": "standardise"},
            {"kind": "categorical", "name": "user", "encoding": {"type": "vocabulary"}},
            {"kind": "categorical", "name": "video", "encoding": {"type": "hash"}},
            {"kind": "categorical", "name": "day", "encoding": {"type": "identity"}},
            {"kind": "categorical", "name": "size", "encoding": {"type": "bucketise", "buckets": 4}},
            {"kind": "categorical", "name": "last", "table": "video", "multi_hot": True, "pooling": "mean"},
            {"kind": "categorical", "name": "tags", "multi_hot": True, "weights": "tag_weights"},
        ],
        "tasks": [
            {"name": "click", "label": "clicked"},
            {"name": "like", "label": "liked", "given": "click", "group": "satisfaction"},
            {"name": "watch", "label": "log1p(seconds)", "loss": "mse", "given": "click"},
        ],
        "tables": {"video": {"rows": 40, "dim": 8}, "day": {"rows": 7, "dim": 4}, "tags": {"rows": 30}},
        "embedding_dim": 8,
    }
)
ARCHITECTURE = MMoEConfig(bottom=(16, 8), experts=3, tower=(4,), dropout=0.3, embedding_dropout=0.2)


def impressions(rows: int, seed: int = 0) -> pa.Table:
    """Raw rows with nulls, unknown users and lists of 0 to 3 ids."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(0, 4, rows)
    words = np.array(["dance", "music", "food", "sport"])
    return pa.table(
        {
            "user": pa.array([f"u{number}" for number in draw.integers(0, 20 + 5 * seed, rows)]),
            "video": pa.array(draw.integers(0, 1000, rows), mask=draw.random(rows) < 0.1),
            "day": draw.integers(0, 7, rows, dtype=np.int32),
            "size": draw.normal(0, 1, rows),
            "age": pa.array(draw.normal(30, 9, rows), mask=draw.random(rows) < 0.2),
            "views": draw.integers(0, 10_000, rows),
            "last": pa.array([draw.integers(0, 1000, length) for length in lengths], pa.list_(pa.int64())),
            "tags": pa.array([draw.choice(words, length) for length in lengths], pa.list_(pa.string())),
            "tag_weights": pa.array([draw.random(length) for length in lengths], pa.list_(pa.float64())),
            "seconds": draw.exponential(20, rows),
            "clicked": draw.integers(0, 2, rows),
            "liked": draw.integers(0, 2, rows),
        }
    )


@dataclass(frozen=True)
class Trained:
    """What a training leaves behind: the network, its fitted transforms, its tensors by the checkpoint's names."""

    model: RankingModel
    config: ArchitectureConfig
    transforms: Transforms
    tensors: dict[str, Tensor]

    def predictions(self, table: pa.Table) -> np.ndarray:
        """`[N, T]`, without any code of serving."""
        ids, lists, dense = Encoder(SCHEMA, self.transforms).features(table)
        with torch.no_grad():
            return predictions(self.model((ids, lists), dense), SCHEMA.tasks).numpy()


@pytest.fixture(scope="session")
def transforms() -> Transforms:
    return Transforms.fit(SCHEMA, [impressions(400)])


@pytest.fixture(scope="session")
def trained(transforms) -> Callable[[ArchitectureConfig], Trained]:
    def build_trained(config: ArchitectureConfig) -> Trained:
        torch.manual_seed(3)
        rows = {table: transforms.table_rows(SCHEMA, table) for table in SCHEMA.table_names()}
        embeddings = EmbeddingTables(SCHEMA, rows, prefixes(config, SCHEMA.tasks))
        for table in embeddings.tables.values():
            torch.nn.init.normal_(table)
        model = RankingModel(embeddings, build(config, SCHEMA.input_width, SCHEMA.tasks)).eval()
        tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        for name in [name for name in tensors if ".tables." in name]:
            bag = name.replace(".tables.", ".collection.embedding_bags.") + ".weight"
            tensors[bag] = tensors.pop(name)
        return Trained(model, config, transforms, tensors)

    return build_trained


@pytest.fixture(scope="session")
def mmoe(trained) -> Trained:
    return trained(ARCHITECTURE)


@pytest.fixture(scope="session")
def artefact(mmoe, tmp_path_factory) -> Path:
    """An exported directory; tests that change it copy it first."""
    fusion = FusionConfig.model_validate({"powers": {"click": 1, "watch": 0.5}, "length": {"column": "seconds"}})
    directory = tmp_path_factory.mktemp("export") / "ranker"
    return export(directory, SCHEMA, mmoe.config, mmoe.transforms, mmoe.tensors, fusion, {"step": 200, "run": "abc"})
