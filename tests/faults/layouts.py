"""Data sets of any layout: files or row groups without a row, one row in all, far more of one than of others."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow.parquet as pq
import torch

from ranking.config import load
from ranking.data.encode import Encoder
from ranking.data.loader import Loader
from ranking.data.transforms import Transforms
from ranking.distributed.world import World
from ranking.training.feed import Feed
from tests.workspace import impressions


def draw(seed: int) -> list[list[int]]:
    """Rows of every row group, file by file; never none in all."""
    choose = random.Random(seed)
    sizes = choose.choice([[0, 1], [0, 1, 2, 3], [0, 5, 40], [1], [30]])
    layout = [[choose.choice(sizes) for _ in range(choose.randrange(4))] for _ in range(choose.randrange(1, 5))]
    return layout if any(map(sum, layout)) else [[], [1]]


def write(folder: Path, layout: list[list[int]]) -> int:
    """The data set, and how many rows it has."""
    folder.mkdir()
    table, first = impressions(sum(map(sum, layout)), 0), 0
    for number, groups in enumerate(layout):
        file = folder / f"part-{number}.parquet"
        with pq.ParquetWriter(file, table.schema, write_page_checksum=True) as writer:
            for rows in groups:
                writer.write_table(table.slice(first, rows), row_group_size=max(rows, 1))
                first += rows
    return first


def read(world: World, folders: list[Path], config: Path) -> list[list[int]]:
    """The rows that reach this rank's batches in one epoch of each data set."""
    settings = load([config])
    schema = settings.schema
    encoder = Encoder(schema, Transforms.load(settings.data.transforms, schema))
    found = []
    for number, folder in enumerate(folders):
        changes = {
            "batch_size": 32,
            "lanes": 4,
            "block": 1 + number % 3,
            "order": ["shuffled", "chronological"][number % 2],
        }
        data = settings.data.model_copy(update=changes)
        manifest = data.manifest([str(folder)], schema.columns(), "data.train")
        plan = data.plan(manifest, number)
        loader = Loader(manifest, plan, encoder.rows, data, world.rank, world.size, epochs=1)
        index = torch.cat([batch.rows.index for batch in Feed(loader, schema, world, plan.steps)])
        assert len(index) == plan.steps * data.batch_size // world.size
        found.append(index[index >= 0].tolist())
    return found
