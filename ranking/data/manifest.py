"""What a data set consists of: its Parquet files, their row groups and columns, read from the footers alone."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import repeat
from typing import Annotated, Any, Self
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, PlainSerializer, PlainValidator

from ranking.data.plan import Int64
from ranking.data.storage import Options, find, open_parquet
from ranking.errors import InputError
from ranking.schema import Frozen

_FOOTERS_AT_ONCE = 16
_PARTITION = re.compile(r"(?<![^/])([A-Za-z_]\w*)=([^/]*)/")
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"

Types = dict[str, pa.DataType]


def _to_schema(value: object) -> pa.Schema:
    return value if isinstance(value, pa.Schema) else pa.ipc.read_schema(pa.py_buffer(base64.b64decode(str(value))))


def _from_schema(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


ArrowSchema = Annotated[pa.Schema, PlainValidator(_to_schema), PlainSerializer(_from_schema, return_type=str)]


class Shard(Frozen):
    """One Parquet file.

    Attributes:
        url: where it lies.
        size: bytes.
        stamp: the store's ETag, or the time of change; empty when the store gives neither.
        row_groups: rows of each.
        partition: values of the `name=value/` directories on its path.
    """

    url: str
    size: int
    stamp: str
    row_groups: tuple[int, ...]
    partition: dict[str, str | None]


class Manifest(Frozen):
    """The shards of a data set, in the order of its log, and the columns they share.

    Attributes:
        shards: patterns in the order given, the files of one pattern by path.
        columns: names and canonical types: integers are int64 (uint64 stays), mixed floats float64, strings
            large_string, lists list; dictionaries are decoded, times stay as they are.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    shards: tuple[Shard, ...]
    columns: ArrowSchema

    @classmethod
    def build(
        cls,
        urls: str | Sequence[str],
        columns: Sequence[str] | None = None,
        storage_options: Options | None = None,
        key: str = "data.train",
    ) -> Self:
        """Read every footer.

        Args:
            urls: fsspec URLs, globs or directories.
            columns: needed from every shard; left out: those of the first.
            storage_options: of the file system, as fsspec takes them.
            key: config key to name in errors.

        Raises:
            InputError: nothing found, no rows, not Parquet, a column missing or of types that do not go together.
        """
        options = storage_options or {}
        found: dict[str, dict[str, Any]] = {}
        for pattern in [urls] if isinstance(urls, str) else urls:
            files = find(pattern, options)
            if not files:
                raise InputError(f"{key}: got {pattern!r}, which matches no file; expected Parquet files")
            found.update(files)
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
            footers = list(pool.map(_footer, found, found.values(), repeat(options)))
        shards = [shard for shard, _ in footers]
        if not any(sum(shard.row_groups) for shard in shards):
            raise InputError(f"{key}: got {len(shards)} files without a row, first {shards[0].url}; expected rows")
        schemas = _distinct(footers)
        names = list(schemas[0][1]) if columns is None else columns
        return cls(shards=tuple(shards), columns=pa.schema([(name, _common(name, schemas)) for name in names]))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the shards' names below their common directory, sizes and row counts; a copy has the same."""
        places = [_PARTITION.split(shard.url, maxsplit=1)[0].rpartition("/")[0].split("/") for shard in self.shards]
        common = 0
        while all(common < len(place) and place[common] == places[0][common] for place in places):
            common += 1
        names = ("/".join(shard.url.split("/")[common:]) for shard in self.shards)
        lines = (f"{name}\t{s.size}\t{s.row_groups}\n" for name, s in zip(names, self.shards, strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @cached_property
    def row_groups(self) -> Int64:
        """`[G]` rows of every row group, in order; a row's number counts the rows before it."""
        return np.array([rows for shard in self.shards for rows in shard.row_groups], np.int64)

    @property
    def rows(self) -> int:
        """Number of rows of the whole data set."""
        return int(self.row_groups.sum())

    @cached_property
    def _starts(self) -> Int64:
        counts = np.array([len(shard.row_groups) for shard in self.shards], np.int64)
        return np.cumsum(counts) - counts

    def locate(self, row_group: int) -> tuple[int, int]:
        """(shard, row group within it) of a row group of the manifest."""
        shard = int(np.searchsorted(self._starts, row_group, side="right")) - 1
        return shard, row_group - int(self._starts[shard])


def _footer(url: str, info: dict[str, Any], options: Options) -> tuple[Shard, pa.Schema]:
    with open_parquet(url, options) as file:
        metadata, schema = file.metadata, file.schema_arrow
    groups = tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    values = {name: None if value == _NO_VALUE else unquote(value) for name, value in _PARTITION.findall(url)}
    stamp = next((str(info[name]) for name in ("ETag", "etag", "mtime", "LastModified", "created") if name in info), "")
    return Shard(url=url, size=int(info["size"] or 0), stamp=stamp, row_groups=groups, partition=values), schema


def _distinct(footers: Sequence[tuple[Shard, pa.Schema]]) -> list[tuple[str, Types]]:
    """The different sets of column types, partition columns included, each with the first file that has it.

    A column of the file itself goes before a partition column of the same name.
    """
    shards = [shard for shard, _ in footers]
    partition = {name: _partition_type(name, shards) for name in {name for shard in shards for name in shard.partition}}
    first: dict[tuple[pa.Schema, tuple[str, ...]], str] = {}
    for shard, schema in footers:
        first.setdefault((schema.remove_metadata(), tuple(shard.partition)), shard.url)
    return [
        (url, {name: partition[name] for name in names} | {field.name: field.type for field in schema})
        for (schema, names), url in first.items()
    ]


def _partition_type(name: str, shards: Iterable[Shard]) -> pa.DataType:
    """Integers when all values are."""
    values = {shard.partition.get(name) for shard in shards} - {None}
    return pa.int64() if all(re.fullmatch(r"-?\d{1,18}", str(value)) for value in values) else pa.large_string()


def _common(name: str, schemas: Sequence[tuple[str, Types]]) -> pa.DataType:
    common, origin = pa.null(), ""
    for url, types in schemas:
        if name not in types:
            raise InputError(f"{url}: column {name!r}: missing; got columns {sorted(types)}")
        kind = _canonical(types[name])
        if kind is None:
            raise InputError(
                f"{url}: column {name!r}: got {types[name]}; expected numbers, strings, times or their lists"
            )
        merged = _merge(common, kind)
        if merged is None:
            raise InputError(f"{url}: column {name!r}: got {types[name]}; expected {common} as in {origin}")
        common, origin = merged, origin or url
    return common


def _canonical(kind: pa.DataType) -> pa.DataType | None:
    types = pa.types
    if types.is_dictionary(kind):
        return _canonical(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = _canonical(kind.value_type)
        return None if inner is None else pa.list_(inner)
    if types.is_uint64(kind) or types.is_boolean(kind) or types.is_null(kind) or types.is_temporal(kind):
        return kind
    if types.is_integer(kind):
        return pa.int64()
    if types.is_floating(kind):
        return pa.float64() if types.is_float64(kind) else pa.float32()
    if types.is_decimal(kind):
        return pa.float64()
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return pa.large_string()
    return None


def _merge(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if pa.types.is_floating(one) and pa.types.is_floating(other):
        return pa.float64()
    if pa.types.is_list(one) and pa.types.is_list(other):
        inner = _merge(one.value_type, other.value_type)
        return None if inner is None else pa.list_(inner)
    return None
