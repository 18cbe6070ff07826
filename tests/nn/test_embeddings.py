"""Plain tables: what serving looks features up in."""

from __future__ import annotations

import pytest
import torch

from ranking.nn.embeddings import EmbeddingTables
from ranking.rows import Ragged
from ranking.schema import Schema

SCHEMA = Schema.model_validate(
    {
        "features": [
            {"kind": "categorical", "name": "recent", "table": "video", "multi_hot": True, "pooling": "mean"},
            {"kind": "categorical", "name": "user"},
            {"kind": "dense", "name": "age"},
            {"kind": "categorical", "name": "video"},
        ],
        "tables": {"user": {"rows": 4, "dim": 2}, "video": {"rows": 6, "dim": 3}},
        "tasks": [{"name": "click", "label": "c"}],
    }
)
ROWS = {"user": 4, "video": 6}
IDS = torch.tensor([[3, 0], [5, 1]])  # users, videos
LISTS = (Ragged(torch.tensor([2, 4]), torch.tensor([0, 2]), torch.tensor([0.5, 0.25])),)


@pytest.fixture
def tables() -> EmbeddingTables:
    tables = EmbeddingTables(SCHEMA, ROWS, ("a__", "b__"))
    for table in tables.tables.values():
        torch.nn.init.normal_(table)
    return tables


def test_vectors_stand_in_schema_order_for_every_copy(tables: EmbeddingTables) -> None:
    found = tables((IDS, LISTS))
    assert found.shape == (2, 2, 3 + 2 + 3)
    for place, prefix in enumerate(("a__", "b__")):
        user, video = tables.tables[f"{prefix}user"], tables.tables[f"{prefix}video"]
        pooled = torch.stack([torch.zeros(3), 0.5 * video[2] + 0.25 * video[4]])
        torch.testing.assert_close(found[:, place], torch.cat([pooled, user[[3, 0]], video[[5, 1]]], dim=1))


def test_features_of_one_table_share_its_rows(tables: EmbeddingTables) -> None:
    assert sorted(tables.tables) == ["a__user", "a__video", "b__user", "b__video"]


def test_a_schema_without_categorical_features_gives_an_empty_block() -> None:
    schema = Schema.model_validate(
        {"features": [{"kind": "dense", "name": "x"}], "tasks": [{"name": "t", "label": "l"}]}
    )
    assert EmbeddingTables(schema, {})((torch.zeros(0, 5, dtype=torch.int64), ())).shape == (5, 1, 0)
