"""Encoded rows as a training batch."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
import torch

from ranking.batch import RankingBatch, jagged
from ranking.data.encode import Encoder
from ranking.data.transforms import Transforms
from ranking.rows import Rows
from ranking.schema import Schema
from tests.workspace import Workspace


@pytest.fixture(scope="module")
def schema(workspace: Workspace) -> Schema:
    return workspace.config().schema


@pytest.fixture(scope="module")
def rows(workspace: Workspace, schema: Schema) -> Rows:
    """Seven real rows and two of padding."""
    table = pq.read_table(workspace.files("train")[0]).slice(0, 7)
    transforms = Transforms.load(workspace.config().data.transforms, schema)
    real = Encoder(schema, transforms).rows(table, torch.arange(7))
    return Rows.cat([real, real.padding(2)])


def test_every_feature_finds_its_ids_under_its_name(schema: Schema, rows: Rows) -> None:
    found = jagged(schema, rows)
    assert found.values().dtype == found.lengths().dtype == torch.int32
    assert found.keys() == ["user_id", "video_id", "tab", "recent"]
    for place, name in enumerate(["user_id", "video_id", "tab"]):
        assert found[name].values().tolist() == rows.ids[place].tolist()
        assert found[name].lengths().tolist() == [1] * 9
        assert found[name].weights().tolist() == [1.0] * 9
    assert found["recent"].values().tolist() == rows.lists[0].values.tolist()
    assert found["recent"].lengths().tolist() == rows.lists[0].lengths.tolist()
    torch.testing.assert_close(found["recent"].weights(), rows.lists[0].weights)


def test_nothing_is_left_to_count(schema: Schema, rows: Rows) -> None:
    found = jagged(schema, rows)
    assert (
        found.length_per_key_or_none() == found.lengths().view(4, 9).sum(1).tolist() == found.to("cpu").length_per_key()
    )


def test_without_weighted_features_ids_carry_no_weights(schema: Schema, rows: Rows) -> None:
    plain = [f.model_copy(update={"pooling": "sum"}) if f.name == "recent" else f for f in schema.features]
    unweighted = schema.model_copy(update={"features": tuple(plain)})
    assert jagged(unweighted, rows).weights_or_none() is None


def test_padding_and_rows_outside_the_space_weigh_nothing(schema: Schema, rows: Rows) -> None:
    masks = RankingBatch.build(schema, rows, torch.ones(len(schema.tasks)), epoch=0, step=0).masks
    assert masks.dtype == torch.float32
    assert masks[7:].sum() == 0
    assert masks[:7].tolist() == rows.masks[:7].float().tolist()
    like, click = schema.task_names.index("like"), schema.task_names.index("click")
    assert not (masks[:, like] > rows.labels[:, click]).any()


def test_the_position_travels_with_the_data_when_it_moves(schema: Schema, rows: Rows) -> None:
    batch = RankingBatch.build(schema, rows, counts=rows.masks.sum(0).float(), epoch=3, step=41)
    moved = batch.to(torch.device("meta"))
    assert (moved.epoch, moved.step) == (3, 41)
    assert {t.device.type for t in (moved.dense, moved.labels, moved.masks, moved.counts)} == {"meta"}
    assert moved.sparse.values().device.type == "meta"
    assert moved.rows is rows
    assert rows.dense.device.type == "cpu"
