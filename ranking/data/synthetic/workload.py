"""The benchmark workload "20x100k": ids, lists, numbers and labels of a fixed shape, without anything to learn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import Field

from ranking.data.synthetic.draws import Ints
from ranking.data.writer import WriterConfig, write_dataset

PARTITION = "shard"

_SINGLE, _LISTS, _DENSE = 18, 2, 13
_LONGEST_LIST = 9
_EXPONENT, _IDS = 1.3, 100_000
_CLICK_RATE, _LIKE_RATE = 0.1, 0.2


class WorkloadConfig(WriterConfig):
    """18 single-valued and 2 list features of ids, 13 numbers, `click` (10 %) and `like` (20 % of the clicks)."""

    rows: int = Field(1_000_000, ge=1)
    file_rows: int = Field(125_000, ge=1, description="Rows of a file.")
    row_group_rows: int = Field(65_536, ge=1, description="Most rows of a row group.")
    seed: int = Field(0, ge=0)


def write_workload(output: Path, config: WorkloadConfig) -> None:
    """Write `<output>/shard=<i>/part-0.parquet`; a million rows make 8 files.

    Raises:
        InputError: `output` is not empty and `config.overwrite` is false.
    """
    write_dataset(workload(config), output, PARTITION, config)


def workload(config: WorkloadConfig) -> Iterator[pa.Table]:
    """The files' tables one after another; a file depends on the seed and its number alone."""
    for shard, start in enumerate(range(0, config.rows, config.file_rows)):
        rows = min(config.file_rows, config.rows - start)
        columns = _columns(rows, np.random.default_rng([config.seed, shard]))
        yield pa.table(columns | {PARTITION: pa.repeat(f"{shard:04}", rows)})


def _columns(rows: int, draw: np.random.Generator) -> dict[str, pa.Array]:
    click = draw.random(rows) < _CLICK_RATE
    like = click & (draw.random(rows) < _LIKE_RATE)
    return {
        **{f"id_{k}": pa.array(_ids(rows, draw)) for k in range(_SINGLE)},
        **{f"list_{k}": _id_lists(rows, draw) for k in range(_LISTS)},
        **{f"dense_{k}": pa.array(draw.random(rows, np.float32)) for k in range(_DENSE)},
        "click": pa.array(click.astype(np.int8)),
        "like": pa.array(like.astype(np.int8)),
    }


def _ids(count: int, draw: np.random.Generator) -> Ints:
    return draw.zipf(_EXPONENT, count) % _IDS


def _id_lists(rows: int, draw: np.random.Generator) -> pa.ListArray:
    lengths = draw.integers(0, _LONGEST_LIST + 1, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(_ids(int(lengths.sum()), draw)))
