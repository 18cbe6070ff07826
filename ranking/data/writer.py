"""Writing data sets: hive-partitioned Parquet that appears under its name whole or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from ranking.errors import InputError, listed
from ranking.files import replacing
from ranking.schema import Frozen


class WriterConfig(Frozen):
    """How a data set is written."""

    row_group_rows: int = Field(
        4096, ge=1, description="Most rows of a row group; the loader permutes row groups, so a file needs several."
    )
    overwrite: bool = Field(False, description="Replace a data set that is already there.")


def write_dataset(tables: Iterable[pa.Table], directory: Path, partition: str, config: WriterConfig) -> None:
    """Write `<directory>/<partition>=<value>/part-<i>.parquet`: zstd, with page checksums, in bounded row groups.

    Args:
        tables: written one after another, rows in their order; a value seen again gets a further part.
        directory: local path, replaced as a whole at the end.
        partition: column that names the directory of a row and is left out of the files; its values become strings.
        config: row groups, and whether to replace.

    Raises:
        InputError: as `replacing`, or a table lacks `partition` or has a null in it.
    """
    parts: Counter[str] = Counter()
    with replacing(directory, config.overwrite) as new:
        for value, rows in (piece for table in tables for piece in _split(table, partition)):
            folder = new / f"{partition}={quote(value, safe='')}"
            folder.mkdir(exist_ok=True)
            pq.write_table(
                rows,
                folder / f"part-{parts[value]}.parquet",
                row_group_size=config.row_group_rows,
                compression="zstd",
                write_page_checksum=True,
            )
            parts[value] += 1


def _split(table: pa.Table, column: str) -> Iterator[tuple[str, pa.Table]]:
    if column not in table.column_names:
        raise InputError(f"partition column {column!r}: missing; got columns {listed(table.column_names)}")
    values = pc.cast(table[column], pa.string())
    if values.null_count:
        raise InputError(f"partition column {column!r}: got {values.null_count} nulls; expected a value in every row")
    rest = table.drop_columns([column])
    for value in pc.unique(values):
        yield value.as_py(), rest.filter(pc.equal(values, value))
