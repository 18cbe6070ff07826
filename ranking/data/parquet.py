"""Decoding: pieces of row groups become one Arrow table of canonical types."""

from __future__ import annotations

import threading
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ranking.data.manifest import Manifest
from ranking.data.plan import Int64, ranges
from ranking.data.storage import Options, open_parquet, readable
from ranking.errors import InputError

_OPEN_FILES = 16
_LOCKS = 64


class Decoder:
    """Reads pieces of a manifest's row groups; safe to share between threads.

    Args:
        manifest: the shards, and in `manifest.columns` which columns to read and as which types.
        storage_options: of the file system, as fsspec takes them.
        verify_checksums: check the CRC of every page read, where the writer stored them (`write_page_checksum`).
        keep: how many row groups to hold on to of those that were read in part, for the reader of the other part.
    """

    def __init__(
        self,
        manifest: Manifest,
        storage_options: Options | None = None,
        *,
        verify_checksums: bool = True,
        keep: int = 0,
    ) -> None:
        """Remember; nothing is opened yet."""
        self._rows = manifest.row_groups
        self._groups = _RowGroups(manifest, storage_options or {}, verify_checksums)
        self._kept = lru_cache(keep)(self._groups.read)
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def read(self, pieces: Int64) -> pa.Table:
        """The rows of `pieces` `[P, 3]` (row group, start, stop), one piece after another.

        A row group is decoded whole, once for all neighbouring pieces of it.

        Raises:
            InputError: a damaged page or another file than the manifest saw; names the file and the row group.
        """
        changes = np.flatnonzero(np.diff(pieces[:, 0])) + 1
        return pa.concat_tables([self._cut(int(part[0, 0]), part[:, 1:]) for part in np.split(pieces, changes)])

    def _cut(self, row_group: int, cuts: Int64) -> pa.Table:
        if cuts.tolist() == [[0, self._rows[row_group]]]:
            return self._groups.read(row_group)
        with self._locks[row_group % _LOCKS]:  # whoever wants the same row group meanwhile finds it decoded
            table = self._kept(row_group)
        if len(cuts) == 1:
            start, stop = map(int, cuts[0])
            return table.slice(start, stop - start)
        return table.take(pa.array(ranges(cuts[:, 0], cuts[:, 1])))


class _RowGroups:
    """Whole row groups of a manifest; every thread keeps a few files open of its own."""

    def __init__(self, manifest: Manifest, options: Options, verify: bool) -> None:
        self._manifest, self._options, self._verify = manifest, options, verify
        self._local = threading.local()

    def read(self, row_group: int) -> pa.Table:
        """The columns of the manifest, those that directories give among them."""
        number, group = self._manifest.locate(row_group)
        shard, schema = self._manifest.shards[number], self._manifest.columns
        file = self._file(number)
        present = set(file.schema_arrow.names)  # asked for once: the file builds it anew every time
        stored = [name for name in schema.names if name in present]
        with readable(f"{shard.url}: row group {group}"):
            table = file.read_row_group(group, columns=stored, use_threads=False)
            for name in schema.names:
                if name not in stored:
                    value = pa.scalar(shard.partition[name], pa.large_string()).cast(schema.field(name).type)
                    table = table.append_column(name, pa.repeat(value, shard.row_groups[group]))
            table = table.select(schema.names)
            return table if table.schema.equals(schema) else table.cast(schema)

    def _file(self, shard: int) -> pq.ParquetFile:
        if not hasattr(self._local, "open"):
            self._local.open = lru_cache(_OPEN_FILES)(self._open)
        return self._local.open(shard)

    def _open(self, number: int) -> pq.ParquetFile:
        shard = self._manifest.shards[number]
        file = open_parquet(shard.url, self._options, page_checksum_verification=self._verify)
        rows = tuple(file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups))
        if rows != shard.row_groups:
            raise InputError(
                f"{shard.url}: got {len(rows)} row groups of {sum(rows)} rows; expected {len(shard.row_groups)} of "
                f"{sum(shard.row_groups)}, as when the manifest was read"
            )
        return file
