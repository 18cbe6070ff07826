"""Small Parquet data sets of a chosen layout, and the smallest encoder that shows what was read."""

from collections.abc import Callable
from uuid import uuid4

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ranking.rows import Ragged, Rows

Layout = list[list[int]]
"""Rows of every row group, file by file."""


def impressions(start: int, stop: int) -> pa.Table:
    """Rows whose every column is known from the row's number; row r carries r % 3 tags."""
    rows = np.arange(start, stop)
    return pa.table(
        {
            "row": pa.array(rows),
            "user": pa.array([f"u{row % 7}" for row in rows], pa.string()),
            "tags": pa.array([[row + tag for tag in range(row % 3)] for row in rows], pa.list_(pa.int64())),
            "x": pa.array(rows / 2, pa.float32()),
        }
    )


@pytest.fixture(scope="session")
def write_shards() -> Callable[..., str]:
    """Writes `part-000.parquet` ... of a layout into a directory (a new memory:// one) and returns its URL."""

    def write(layout: Layout, url: str = "", options: dict[str, object] | None = None, **settings: object) -> str:
        url = url or f"memory://{uuid4().hex}"
        system, path = fsspec.core.url_to_fs(url, **(options or {}))
        system.makedirs(path, exist_ok=True)
        first = 0
        for number, groups in enumerate(layout):
            with system.open(f"{path}/part-{number:03}.parquet", "wb") as file:
                writer = pq.ParquetWriter(file, impressions(0, 0).schema, write_page_checksum=True, **settings)
                for rows in groups:
                    writer.write_table(impressions(first, first + rows), row_group_size=max(rows, 1))
                    first += rows
                writer.close()
        return url

    return write


@pytest.fixture(scope="session")
def encode_impressions() -> Callable[[pa.Table, torch.Tensor, torch.Tensor | None], Rows]:
    """ids: the row's own number; one list: its tags; dense: x."""

    def encode(table: pa.Table, index: torch.Tensor, order: torch.Tensor | None) -> Rows:
        count = table.num_rows
        tags = table["tags"].combine_chunks()
        if isinstance(tags, pa.ChunkedArray):
            tags = pa.concat_arrays(tags.chunks)
        one = torch.ones(count, 1)
        rows = Rows(
            ids=torch.tensor(table["row"].to_numpy()).view(1, count).int(),
            lists=(
                Ragged(
                    torch.tensor(tags.flatten().to_numpy()).int(), torch.tensor(np.diff(tags.offsets.to_numpy())).int()
                ),
            ),
            dense=torch.tensor(table["x"].to_numpy()).view(count, 1),
            labels=one,
            observed=one.bool(),
            masks=one.bool(),
            groups=torch.zeros(count, dtype=torch.int64),
            index=index,
        )
        return rows if order is None else rows.take(order)

    return encode
