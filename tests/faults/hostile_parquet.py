"""Hostile Parquet files by class: each function spoils a good one, with draws of a random generator."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults.hostile import NAMES, Case

GROUP = 25  # rows of a row group


def shard(table: pa.Table, **settings: Any) -> bytes:
    sink = pa.BufferOutputStream()
    own = {"row_group_size": GROUP, "compression": "zstd", "write_page_checksum": True}
    pq.write_table(table, sink, **own | settings)
    return sink.getvalue().to_pybytes()


def parquet_flip(draw: Random, data: bytes, table: pa.Table) -> Case:
    """Bits flipped anywhere."""
    spoiled = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 16])):
        spoiled[draw.randrange(len(spoiled))] ^= 1 << draw.randrange(8)
    return Case("", file=bytes(spoiled), table=table)


def parquet_footer(draw: Random, data: bytes, table: pa.Table) -> Case:
    """Bytes changed in the footer alone, which has no checksum."""
    spoiled, length = bytearray(data), int.from_bytes(data[-8:-4], "little")
    for _ in range(draw.choice([1, 1, 2, 5])):
        place = draw.randrange(len(data) - 8 - length, len(data))
        spoiled[place] = draw.choice([spoiled[place] ^ (1 << draw.randrange(8)), draw.randrange(256)])
    return Case("", file=bytes(spoiled), table=table)


def parquet_cut(draw: Random, data: bytes, table: pa.Table) -> Case:
    """Truncated, emptied, overwritten, longer."""
    place, size = draw.randrange(len(data)), draw.choice([1, 8, 100, 1000])
    match draw.randrange(5):
        case 0:
            spoiled = data[:place]
        case 1:
            spoiled = data[:place] + data[place + size :]
        case 2:
            spoiled = data[:place] + bytes(len(data[place : place + size])) + data[place + size :]
        case 3:
            spoiled = data[:place] + draw.randbytes(size) + data[place:]
        case _:
            spoiled = draw.choice([b"", b"PAR1", b"PAR1" * 3, b"\xff" * 200, data * 2, data[::-1], b"x" * 12 + b"PAR1"])
    return Case("", file=spoiled, table=table)


SAME: list[Callable[[pa.Array], pa.Array]] = [
    lambda values: values.cast(pa.int32()),
    lambda values: values.cast(pa.int16()),
    lambda values: values.cast(pa.float64()),
    lambda values: values.cast(pa.decimal128(19, 0)).cast(pa.decimal128(10, 0)),
    lambda values: values.dictionary_encode(),
    lambda values: values.cast(pa.int32()).dictionary_encode(),
]
OTHER: list[pa.DataType] = [
    pa.string(),
    pa.binary(),
    pa.bool_(),
    pa.date32(),
    pa.timestamp("us"),
    pa.time64("ns"),
    pa.duration("s"),
    pa.float16(),
    pa.float32(),
    pa.uint64(),
    pa.decimal128(38, 10),
    pa.decimal256(60, 0),
    pa.list_(pa.int64()),
    pa.large_list(pa.string()),
    pa.list_(pa.list_(pa.int64())),
    pa.list_(pa.int64(), 2),
    pa.map_(pa.string(), pa.int64()),
    pa.struct([("a", pa.int64())]),
    pa.dictionary(pa.int8(), pa.string()),
    pa.null(),
    pa.list_(pa.null()),
    pa.string_view(),
    pa.list_(pa.dictionary(pa.int32(), pa.int64())),
]


def parquet_same(draw: Random, data: bytes, table: pa.Table) -> Case:
    """Other types, layouts and column orders that hold the same values."""
    for name in draw.sample(["user_id", "tab", "video_id", "is_click", "is_like", "recent"], draw.randrange(1, 4)):
        place, values = table.schema.get_field_index(name), table[name].combine_chunks()
        if name == "recent":
            kind = draw.choice([pa.large_list(pa.int64()), pa.list_(pa.int32()), pa.large_list(pa.int16())])
            new = values.cast(kind)
        else:
            new = draw.choice(SAME)(values)
        spoiled = table.set_column(place, name, new)
        table = spoiled
    table = table.select(draw.sample(table.column_names, len(table.column_names)))
    settings = {
        "row_group_size": draw.choice([1, 7, 1000]),
        "compression": draw.choice(["none", "snappy", "gzip", "zstd"]),
        "use_dictionary": draw.random() < 0.5,
        "version": draw.choice(["1.0", "2.4", "2.6"]),
        "data_page_version": draw.choice(["1.0", "2.0"]),
        "write_page_checksum": draw.random() < 0.7,
    }
    return Case("", file=shard(table, **settings), table=table)


def parquet_types(draw: Random, data: bytes, table: pa.Table) -> Case:
    """A column lost, twice, under another name, or of another type."""
    name = draw.choice(table.column_names)
    place = table.schema.get_field_index(name)
    match draw.randrange(5):
        case 0:
            spoiled = table.drop_columns([name])
        case 1:
            spoiled = table.append_column(name, table[draw.choice(table.column_names)])
        case 2:
            spoiled = table.rename_columns(
                [draw.choice(NAMES) if i == place else n for i, n in enumerate(table.column_names)]
            )
        case _:
            spoiled = table.set_column(place, name, _of_type(draw, draw.choice(OTHER), table[name].combine_chunks()))
    return Case("", file=shard(spoiled))


def _of_type(draw: Random, kind: pa.DataType, values: pa.Array) -> pa.Array:
    if draw.random() < 0.5:
        try:
            return values.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            pass
    return pa.nulls(len(values), kind)


NUMBERS = [float("nan"), float("inf"), -float("inf"), -1, 1e300, 2.0**53 + 2, -0.0, 0.1, 5, 40, 10**6, -(2**63)]
INTEGERS = [None, -1, 5, 40, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)]


def parquet_cells(draw: Random, data: bytes, table: pa.Table) -> Case:
    """Values nobody expects: null, NaN, infinite, negative, past every table."""
    name = draw.choice(table.column_names)
    values = table[name].to_pylist()
    for _ in range(draw.choice([1, 2, len(values)])):
        row = draw.randrange(len(values))
        if name == "recent":
            values[row] = draw.choice([None, [], [None], [draw.choice(INTEGERS)] * draw.randrange(4)])
        else:
            whole = pa.types.is_integer(table.schema.field(name).type)
            values[row] = draw.choice(INTEGERS) if whole else draw.choice([None, *map(float, NUMBERS)])
    array = pa.array(values, table.schema.field(name).type)
    spoiled = table.set_column(table.schema.get_field_index(name), name, array)
    return Case("", file=shard(spoiled), table=spoiled)


def parquet_names(draw: Random, data: bytes, table: pa.Table) -> Case:
    """Hostile names of files and of the directories they lie in."""
    odd = [
        name
        for name in NAMES
        if "\x00" not in name and name not in ("", ".", "/nowhere/", "../../etc/passwd") and len(name) < 200
    ]
    name = draw.choice(odd).replace("/", "_") + draw.choice([".parquet", "", ".parquet.parquet"])
    folder = draw.choice(
        ["", "", f"day={draw.choice(odd)}/", "tab=9/", "=x/", "a=b=c/", "tab=../", "day=%00/", "день=1/"]
    )
    return Case("", file=data, name=f"{folder.replace('../', '_/')}{name or '_'}", table=table)


KINDS = {
    f.__name__: f
    for f in (
        parquet_flip,
        parquet_footer,
        parquet_cut,
        parquet_same,
        parquet_types,
        parquet_cells,
        parquet_names,
    )
}
