"""One type for every column over all files of a data set, such that no cast loses anything."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import pyarrow as pa

from ranking.data.shard import Shard
from ranking.errors import InputError, listed

_INT64_DIGITS = 19
_Types = dict[str, pa.DataType]


def unify(footers: Sequence[tuple[Shard, pa.Schema]], columns: Sequence[str] | None) -> pa.Schema:
    """The canonical types of columns.

    Args:
        footers: of all files.
        columns: needed from every file; None: those of the first.

    Raises:
        InputError: a column is missing or there twice, or its types do not go together; names file and column.
    """
    schemas = _distinct(footers, columns)
    names = list(schemas[0][1]) if columns is None else columns
    return pa.schema([(name, _common(name, schemas)) for name in names])


def _distinct(footers: Sequence[tuple[Shard, pa.Schema]], columns: Sequence[str] | None) -> list[tuple[str, _Types]]:
    """The different sets of column types, partition columns included, each with the first file that has it.

    A column of the file itself goes before a partition column of the same name.
    """
    shards = [shard for shard, _ in footers]
    partition = {name: _partition_type(name, shards) for name in {name for shard in shards for name in shard.partition}}
    first: dict[tuple[pa.Schema, tuple[str, ...]], str] = {}
    for shard, schema in footers:
        twice = [name for name, times in Counter(schema.names).items() if times > 1]
        for name in twice if columns is None else sorted(set(twice) & set(columns)):
            raise InputError(
                f"{shard.url}: column {name!r}: stands there {schema.names.count(name)} times; expected once"
            )
        first.setdefault((schema.remove_metadata(), tuple(shard.partition)), shard.url)
    return [
        (url, {name: partition[name] for name in names} | {field.name: field.type for field in schema})
        for (schema, names), url in first.items()
    ]


def _partition_type(name: str, shards: Iterable[Shard]) -> pa.DataType:
    """Integers when all values are."""
    values = {shard.partition.get(name) for shard in shards} - {None}
    return pa.int64() if all(re.fullmatch(r"-?\d{1,18}", str(value)) for value in values) else pa.large_string()


def _common(name: str, schemas: Sequence[tuple[str, _Types]]) -> pa.DataType:
    common, origin = pa.null(), ""
    for url, types in schemas:
        if name not in types:
            raise InputError(f"{url}: column {name!r}: missing; got columns {listed(sorted(types))}")
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
        return pa.int64() if kind.scale == 0 and kind.precision < _INT64_DIGITS else pa.float64()
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
