"""The splits as tensors in memory, made by the recipe and the encoder that production uses."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from pipelines.studies.census.config import CensusStudyConfig, Made
from ranking.data.encode import Encoder
from ranking.data.recipes.census import prepare_census
from ranking.data.transforms import Transforms
from ranking.schema import Schema

SPLITS = ("train", "validation", "test")


class Split(NamedTuple):
    """Encoded rows.

    Attributes:
        ids: `[N, S]` int32, rows of one table that holds all tables.
        dense: `[N, F]` float32.
        labels: `[N, T]` float32.
    """

    ids: Tensor
    dense: Tensor
    labels: Tensor


class Splits(NamedTuple):
    """Train, validation and test of one group, and what they are looked up in."""

    schema: Schema
    rows: int
    train: Split
    validation: Split
    test: Split


def load(config: CensusStudyConfig, group: str, made: Sequence[Made]) -> Splits:
    """Encode a group's splits, with the columns of `made`; every recipe's data set is written once into the output."""
    schema = config.schema_of(group, made)
    recipe = hashlib.sha256(config.recipe.model_dump_json().encode()).hexdigest()[:8]
    directory = config.output / "splits" / recipe
    if not directory.exists():
        prepare_census(config.source, directory, config.recipe)
    tables = {name: _read(directory / f"split={name}", schema) for name in SPLITS}
    transforms = Transforms.fit(schema, [tables["train"]])
    sizes = torch.tensor([transforms.table_rows(schema, name) for name in schema.table_names()])
    starts = dict(zip(schema.table_names(), (sizes.cumsum(0) - sizes).tolist(), strict=True))
    first = torch.tensor([starts[feature.table_name] for feature in schema.categorical])
    encoder = Encoder(schema, transforms)
    train, validation, test = (_encode(encoder, tables[name], first) for name in SPLITS)
    return Splits(schema, int(sizes.sum()), train, validation, test)


def number(schema: Schema, split: Split, name: str) -> Tensor:
    """`[N]`, the first input of a dense feature."""
    widths = {feature.name: feature.width for feature in schema.dense}
    return split.dense[:, sum(widths[each] for each in list(widths)[: list(widths).index(name)])]


class Lookup(nn.Module):
    """One table for all features and copies: a look-up is one gather, for any number of runs at once.

    Args:
        rows: of all tables together.
        dim: width of a vector.
        copies: P, of the tables; one unless an architecture shares no embeddings.
        dtype: of what comes out.
    """

    def __init__(self, rows: int, dim: int, copies: int, dtype: torch.dtype) -> None:
        """Draw the vectors from a narrow normal."""
        super().__init__()
        self.table, self.copies, self.dtype = nn.Parameter(torch.randn(rows, copies * dim) * 0.1), copies, dtype

    def forward(self, ids: Tensor) -> Tensor:
        """`[B, S]` to `[B, P, S * dim]`."""
        vectors = nn.functional.embedding(ids, self.table).to(self.dtype)
        split = vectors.unflatten(2, (self.copies, -1)).transpose(1, 2)
        return split.flatten(2)


def _read(directory: Path, schema: Schema) -> pa.Table:
    files = sorted(directory.glob("*.parquet"))
    return pa.concat_tables(pq.read_table(file, columns=list(schema.columns()), partitioning=None) for file in files)


def _encode(encoder: Encoder, table: pa.Table, first: Tensor) -> Split:
    rows = encoder.rows(table, torch.arange(len(table)))
    return Split((rows.ids.t() + first).int().contiguous(), rows.dense, rows.labels.float())
