"""Source tables of a recipe, from Parquet or delimited text, with the columns and types it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from ranking.data.storage import Store
from ranking.errors import InputError, first_line, listed

Types = Mapping[str, pa.DataType]


def read_table(path: Path, types: Types, publisher: str) -> pa.Table:
    """The columns in `types`, as those types, of a Parquet file or of a CSV file with a header.

    Args:
        path: local file; `.csv` is text, everything else Parquet.
        types: of the columns wanted, in the order wanted.
        publisher: where the file can be had, for messages.

    Raises:
        InputError: the file is missing or damaged, lacks a column, or has one that does not convert.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; expected it as published at {publisher}")
    table = _read_csv(path, types) if path.suffix == ".csv" else _read_parquet(path)
    return pa.table({name: converted(_column(table, name, path), kind, name, path) for name, kind in types.items()})


def converted(values: pa.ChunkedArray, kind: pa.DataType, name: str, path: Path) -> pa.ChunkedArray:
    """`values` `[N]` as `kind`, without loss.

    Raises:
        InputError: naming `path`, column `name` and what does not convert.
    """
    try:
        return pc.cast(values, kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = first_line(error)
        raise InputError(f"{path}: column {name!r}: got {values.type}; expected {kind} ({reason})") from None


def _column(table: pa.Table, name: str, path: Path) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise InputError(f"{path}: column {name!r}: missing; got columns {listed(table.column_names)}")
    values = table[name]
    return pc.cast(values, values.type.value_type) if pa.types.is_dictionary(values.type) else values


def _read_parquet(path: Path) -> pa.Table:
    with Store().open(str(path), page_checksum_verification=True) as file:
        return file.read()


def _read_csv(path: Path, types: Types) -> pa.Table:
    # Numbers are left to inference: integers with gaps stand in such files as 9.0, which only a cast takes.
    strings = {name: kind for name, kind in types.items() if pa.types.is_large_string(kind)}
    convert = csv.ConvertOptions(column_types=strings, strings_can_be_null=True, null_values=[""])
    try:
        return csv.read_csv(path, convert_options=convert)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: got {first_line(error)!r}; expected CSV with a header") from None
