"""One Parquet file of a data set: what its footer and its path tell."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from ranking.data.storage import DamageError, Info, Store, stamp
from ranking.schema import Frozen

_TAIL = 65_536  # bytes read at once from the end of a file; nearly every footer is shorter
_MAGIC = 8  # bytes: the footer's length, and PAR1
_START = 4  # bytes: PAR1, which a file begins with
PARTITION = re.compile(r"(?<![^/])([A-Za-z_]\w*)=([^/]*)/")
"""A `name=value/` directory on a path."""
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_HEADER = 32  # bytes that hold what the next line looks at
_CRC_HEADER = re.compile(rb"(?:\x15[\x80-\xff]*[\x00-\x7f]){4}", re.DOTALL)  # type, two sizes, CRC: an i32 each


class Shard(Frozen):
    """One Parquet file.

    Attributes:
        url: where it lies.
        size: bytes.
        stamp: the store's ETag, or the time of change and inode; empty when the store gives neither.
        row_groups: rows of each.
        partition: values of the `name=value/` directories on its path.
        footer: SHA-256 of the footer: types, sizes and statistics of every column.
        checksums: whether its pages carry a CRC, without which a flipped bit can pass for data.
    """

    url: str
    size: int
    stamp: str
    row_groups: tuple[int, ...]
    partition: dict[str, str | None]
    footer: str = ""
    checksums: bool = True


def read_footer(url: str, info: Info, store: Store) -> tuple[Shard, pa.Schema]:
    """A shard and its own columns.

    Args:
        url: of the file.
        info: what the file system knows of it.
        store: where it lies.

    Raises:
        InputError: missing, truncated or no Parquet file.
    """
    size = int(info["size"] or 0)
    tail = store.read(url, max(size - _TAIL, 0), size)
    length = int.from_bytes(tail[-_MAGIC:-4], "little") + _MAGIC
    if len(tail) < length <= size:
        tail = store.read(url, size - length, size)
    metadata, schema = store.attempt(url, url, lambda: _parsed(tail))
    groups = tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    if min(groups, default=0) < 0 or sum(groups) != metadata.num_rows:
        raise DamageError(f"{url}: got row groups of {groups} rows; expected {metadata.num_rows} in all")
    values = {name: None if value == _NO_VALUE else unquote(value) for name, value in PARTITION.findall(url)}
    digest = hashlib.sha256(tail[-length:]).hexdigest()
    checksums = _has_checksums(url, size, metadata, tail, store)
    return Shard(
        url=url,
        size=size,
        stamp=stamp(info),
        row_groups=groups,
        partition=values,
        footer=digest,
        checksums=checksums,
    ), schema


def _parsed(tail: bytes) -> tuple[pq.FileMetaData, pa.Schema]:
    metadata = pq.read_metadata(pa.BufferReader(tail))
    return metadata, metadata.schema.to_arrow_schema()


def _has_checksums(url: str, size: int, metadata: pq.FileMetaData, tail: bytes, store: Store) -> bool:
    """Whether the first page's header has a CRC: its fourth field, after three integers, in Thrift's compact protocol.

    The first page follows the magic bytes. Where the footer says it lies is not asked: pyarrow aborts the process over
    a column whose statistics contradict each other.

    Returns:
        True for a file without pages, too.
    """
    if not metadata.num_row_groups or not metadata.num_columns:
        return True
    place = _START - (size - len(tail))
    header = tail[place : place + _HEADER] if place >= 0 else store.read(url, _START, _START + _HEADER)
    return _CRC_HEADER.match(header) is not None
