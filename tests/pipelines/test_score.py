"""Batch scoring: Parquet in, Parquet out, by a registered model."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from ranking.data.transforms import Transforms
from ranking.models.shared_bottom import SharedBottomConfig
from ranking.models.zoo import build
from ranking.schema import Schema
from ranking.serving.artefact import export
from ranking.serving.ranker import Ranker
from tests import launch

pytestmark = pytest.mark.filterwarnings("ignore")  # of TorchRec, MLflow and SQLAlchemy, about their own code

SCHEMA = Schema.model_validate(
    {
        "features": [
            {"kind": "categorical", "name": "user"},
            {"kind": "categorical", "name": "tags", "multi_hot": True},
            {"kind": "dense", "name": "age", "null": "reject"},
        ],
        "tasks": [{"name": "click", "label": "clicked"}, {"name": "like", "label": "liked", "given": "click"}],
        "tables": {"user": {"rows": 50, "dim": 4}, "tags": {"rows": 20, "dim": 4}},
    }
)


def impressions(rows: int, seed: int) -> pa.Table:
    draw = np.random.default_rng(seed)
    return pa.table(
        {
            "request": [f"{seed}-{row}" for row in range(rows)],
            "user": draw.integers(0, 99, rows),
            "tags": pa.array([draw.integers(0, 9, row % 3) for row in range(rows)], pa.list_(pa.int64())),
            "age": draw.normal(30, 9, rows),
        }
    )


@pytest.fixture(scope="module")
def artefact(tmp_path_factory) -> Path:
    torch.manual_seed(1)
    config = SharedBottomConfig(bottom=(8,), tower=(4,))
    network = build(config, SCHEMA.input_width, SCHEMA.tasks)
    tensors = {f"model.architecture.{name}": value for name, value in network.state_dict().items()}
    for name, table in SCHEMA.tables.items():
        bag = f"model.embeddings.collection.embedding_bags.{name}.weight"
        tensors[bag] = torch.randn(table.rows, table.dim)
    transforms = Transforms.fit(SCHEMA, [impressions(200, 0)])
    return export(tmp_path_factory.mktemp("export") / "ranker", SCHEMA, config, transforms, tensors)


@pytest.fixture(scope="module")
def config(artefact, tmp_path_factory) -> Path:
    """A configuration whose registry has the artefact as version 1, the challenger."""
    import mlflow

    from ranking.promotion.registry import Registry
    from ranking.serving.packaging import log_model

    folder, before = tmp_path_factory.mktemp("job"), mlflow.get_tracking_uri()
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    registry = Registry(uri, "scorer")
    assert registry.champion() is None
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("score", artifact_location=(folder / "artifacts").as_uri())
    run = client.create_run(experiment).info.run_id
    registry.propose(registry.register(log_model(artefact, impressions(9, 0), run).model_uri, run))
    content = {
        "data": {"train": "unused", "transforms": "unused", "batch_size": 8},
        "schema": SCHEMA.model_dump(mode="json"),
        "model": {"type": "shared_bottom"},
        "tracking": {"uri": uri},
        "registry": {"name": "scorer"},
    }
    (folder / "run.yaml").write_text(json.dumps(content))
    yield folder / "run.yaml"
    mlflow.set_tracking_uri(before)


@pytest.fixture
def shards(tmp_path) -> Path:
    """Two files, the first of three row groups."""
    (tmp_path / "in").mkdir()
    for number, rows in enumerate((250, 40)):
        pq.write_table(impressions(rows, number), tmp_path / f"in/{number}.parquet", row_group_size=100)
    return tmp_path / "in"


def run(config: Path, *options: object):
    from pipelines.score import main

    return CliRunner().invoke(main, ["-c", str(config), *map(str, options)])


def test_every_row_is_scored_in_order_beside_its_id(config, artefact, shards, tmp_path):
    done = run(config, "--input", shards, "--output", tmp_path / "out", "--model", "challenger", "--keep", "request")
    assert done.exit_code == 0, done.output
    assert "290 rows of 2 files scored by models:/scorer/1" in done.output
    for number in range(2):
        raw = pq.read_table(shards / f"{number}.parquet")
        scored = pq.read_table(tmp_path / f"out/part-{number:05}.parquet", page_checksum_verification=True)
        assert scored.column_names == ["request", "click", "like", "score"]
        assert scored["request"].to_pylist() == raw["request"].to_pylist()
        expected = Ranker.load(artefact).predict(raw)
        for name in ("click", "like", "score"):
            np.testing.assert_allclose(scored[name], expected[name], rtol=1e-6)


def test_the_output_tells_where_it_comes_from(config, shards, tmp_path):
    run(config, "--input", shards, "--output", tmp_path / "out", "--model", "1")
    file = pq.ParquetFile(tmp_path / "out/part-00000.parquet")
    assert file.schema_arrow.metadata[b"model"] == b"models:/scorer/1"
    assert file.schema_arrow.metadata[b"source"].endswith(b"in/0.parquet")
    assert file.metadata.num_row_groups == 3
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_one_bad_row_leaves_no_output_and_is_named(config, shards, tmp_path):
    table = impressions(40, 2)
    ages = [None if row == 27 else age for row, age in enumerate(table["age"].to_pylist())]
    pq.write_table(table.set_column(3, "age", pa.array(ages)), shards / "2.parquet", row_group_size=20)
    done = run(config, "--input", shards, "--output", tmp_path / "out", "--model", "1")
    assert done.exit_code == 2
    assert "2.parquet: row group 1: column 'age', row 27: got None" in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_what_exists_is_not_overwritten(config, shards, tmp_path):
    (tmp_path / "out").mkdir()
    done = run(config, "--input", shards, "--output", tmp_path / "out", "--model", "1")
    assert done.exit_code == 2
    assert "--output" in done.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "champion"], "registry scorer has no champion"),
        (["--model", "best"], "--model: got 'best'"),
        (["--model", "7"], "no version 7"),
        (["--model", "1", "--keep", "video"], "column 'video': missing"),
        (["--model", "1", "--keep", "click"], "--keep: got ['click']"),
    ],
    ids=["no_champion", "unknown_alias", "no_version", "missing_column", "answer_column"],
)
def test_wrong_options_end_in_one_line_and_no_output(config, shards, tmp_path, options, message):
    done = run(config, "--input", shards, "--output", tmp_path / "out", *options)
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert len(done.output.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_a_version_is_looked_for_where_the_configuration_says(config, shards, tmp_path):
    """A process of its own: no other test has told MLflow the place."""
    options = ["-c", str(config), "--input", str(shards), "--output", str(tmp_path / "out"), "--model", "1"]
    (ended,) = launch.run(tmp_path, "pipelines.score", options, MLFLOW_TRACKING_URI="")
    assert ended.code == 0, ended.err
    assert not (tmp_path / "mlflow.db").exists()
