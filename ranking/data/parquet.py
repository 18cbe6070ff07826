"""Decoding: pieces of row groups become one Arrow table of canonical types."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from functools import _lru_cache_wrapper, lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ranking.data.columns import Bool
from ranking.data.manifest import Manifest
from ranking.data.plan import Int64, ranges
from ranking.data.shard import read_footer
from ranking.data.storage import DamageError, Store, stamp
from ranking.errors import InputError, first_line

log = logging.getLogger(__name__)

_OPEN_FILES = 16
_LOCKS = 64
_FEW = 1_000  # distinct strings of a row group that tell nothing of whether others repeat
_DICTIONARY = pa.dictionary(pa.int32(), pa.string())


class Decoder:
    """Reads pieces of a manifest's row groups; safe to share between threads.

    Args:
        manifest: the shards, and in `manifest.columns` which columns to read and as which types.
        store: where the shards lie; any public place when left out.
        verify_checksums: check the CRC of every page read, where the writer stored them (`write_page_checksum`).
        dictionaries: leave strings as dictionaries where the files' own are worth it: a table may then have columns of
            `dictionary<int32, string>`, in lists too, for the manifest's large_string.
        keep: how many row groups to hold on to of those that were read in part, for the reader of the other part.
    """

    def __init__(
        self,
        manifest: Manifest,
        store: Store | None = None,
        *,
        verify_checksums: bool = True,
        dictionaries: bool = False,
        keep: int = 0,
    ) -> None:
        """Remember; nothing is opened yet."""
        self._rows, self._columns = manifest.row_groups, manifest.columns
        self._groups = _RowGroups(manifest, store or Store(), verify_checksums, dictionaries)
        self._kept = lru_cache(keep)(self._groups.read)
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def read(self, pieces: Int64) -> pa.Table:
        """The rows of `pieces` `[P, 3]` (row group, start, stop), one piece after another.

        A row group is decoded whole, once for all neighbouring pieces of it.

        Raises:
            DamageError: a page is not what its writer wrote; names the file and the row group.
            InputError: the file is another one than the manifest saw, or out of reach.
        """
        return self.salvage(pieces, _refuse)[0]

    def salvage(self, pieces: Int64, damaged: Callable[[int, DamageError], None]) -> tuple[pa.Table, Bool]:
        """As `read`, but without the pieces of damaged row groups where `damaged` does not raise.

        Returns:
            rows of the other pieces; which pieces they are, `[P]`.
        """
        changes = np.flatnonzero(np.diff(pieces[:, 0])) + 1
        tables, kept = [], []
        for part in np.split(pieces, changes):
            try:
                tables.append(self._cut(int(part[0, 0]), part[:, 1:]))
                kept.append(np.ones(len(part), np.bool_))
            except DamageError as error:
                damaged(int(part[0, 0]), error)
                kept.append(np.zeros(len(part), np.bool_))
        if any(table.schema != tables[0].schema for table in tables):  # some files' strings came as dictionaries
            tables = [table.cast(self._columns) for table in tables]
        return pa.concat_tables(tables) if tables else self._columns.empty_table(), np.concatenate(kept)

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

    def __init__(self, manifest: Manifest, store: Store, verify: bool, dictionaries: bool) -> None:
        self._manifest, self._store, self._verify = manifest, store, verify
        texts = (field.name for field in manifest.columns if _is_text(field.type))
        self._texts = frozenset(texts if dictionaries else ())  # the columns to read as dictionaries
        self._local = threading.local()
        self._copies: set[int] = set()

    def read(self, row_group: int) -> pa.Table:
        """The columns of the manifest, those that directories give among them.

        What looks damaged is read once more, from a new connection: a bit can flip on the way, too. And without
        dictionaries from here on: Arrow makes none of delta-encoded pages.
        """
        number, group = self._manifest.locate(row_group)
        try:
            return self._decode(number, group, self._texts)
        except InputError as error:
            self._files().cache_clear()
            self._require_same(number)  # has a better reason if there is one
            if not isinstance(error, DamageError):
                raise
        table = self._decode(number, group, frozenset())
        self._texts = frozenset()
        return table

    def _decode(self, number: int, group: int, texts: frozenset[str]) -> pa.Table:
        shard, schema = self._manifest.shards[number], self._manifest.columns
        what = f"{shard.url}: row group {group}"
        file, seen = self._files()(number, texts)
        present = set(file.schema_arrow.names)  # asked for once: the file builds it anew every time
        stored = [name for name in schema.names if name in present]

        def read() -> pa.Table:
            found = file.read_row_group(group, columns=stored, use_threads=False)
            for name in texts.intersection(stored):
                _require_entries(found.column(name))
            return found

        table = self._store.attempt(shard.url, what, read)
        if table.num_rows != shard.row_groups[group]:
            raise DamageError(f"{what}: got {table.num_rows} rows; expected {shard.row_groups[group]}")
        if not self._store.pins(shard.url) and stamp(self._store.info(shard.url)) != seen:
            raise self._changed(number, "it was replaced while it was read")
        for name in schema.names:
            if name not in stored:
                value = pa.scalar(shard.partition[name], pa.large_string()).cast(schema.field(name).type)
                table = table.append_column(name, pa.repeat(value, shard.row_groups[group]))
        self._texts -= {name for name in texts if not _repeats(table.column(name))}
        return _cast(table, schema, what, self._texts)

    def _files(self) -> _lru_cache_wrapper[tuple[pq.ParquetFile, str]]:
        if not hasattr(self._local, "open"):
            self._local.open = lru_cache(_OPEN_FILES)(self._open)
        return self._local.open  # type: ignore[no-any-return]

    def _open(self, number: int, texts: frozenset[str]) -> tuple[pq.ParquetFile, str]:
        """The file, and its stamp."""

        def leaves(schema: pq.ParquetSchema) -> list[str]:
            paths = (schema.column(leaf).path for leaf in range(len(schema)))  # of a list: tags.list.element
            return [path for path in paths if path in texts or path.partition(".")[0] in texts]

        found = self._require_same(number)
        url = self._manifest.shards[number].url
        return self._store.open(url, leaves, page_checksum_verification=self._verify), found

    def _require_same(self, number: int) -> str:
        """The stamp of a file that is still the one in the manifest.

        Another time of change with the same footer is a copy, as nodes with disks of their own have them. An ETag
        tells the content, and admits no other.

        Raises:
            InputError: it is another file, or gone.
        """
        shard, info = self._manifest.shards[number], self._store.info(self._manifest.shards[number].url)
        size, found = int(info["size"] or 0), stamp(info)
        if size != shard.size:
            raise self._changed(number, f"got {size} bytes; expected {shard.size}")
        if found != shard.stamp and number not in self._copies:
            if self._store.pins(shard.url) or read_footer(shard.url, info, self._store)[0].footer != shard.footer:
                raise self._changed(number, f"got stamp {found!r}; expected {shard.stamp!r}")
            self._copies.add(number)
            log.info("%s: another copy than the manifest saw, with the same footer", shard.url)
        return found

    def _changed(self, number: int, how: str) -> InputError:
        return InputError(f"{self._manifest.shards[number].url}: changed since the manifest was read: {how}")


def _refuse(_row_group: int, error: DamageError) -> None:
    raise error


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_large_string(kind.value_type if pa.types.is_list(kind) else kind))


def _is_dictionary(kind: pa.DataType) -> bool:
    return bool((kind.value_type if pa.types.is_list(kind) else kind) == _DICTIONARY)


def _dictionaries(column: pa.ChunkedArray) -> list[pa.DictionaryArray]:
    """The chunks, those of lists without their lists."""
    values = (chunk.flatten() if pa.types.is_nested(chunk.type) else chunk for chunk in column.chunks)
    return [part for part in values if pa.types.is_dictionary(part.type)]


def _require_entries(column: pa.ChunkedArray) -> None:
    """Raise ArrowInvalid where a damaged page names an entry that its dictionary has not: Arrow does not look."""
    for part in _dictionaries(column):
        ends = pc.min_max(part.indices)
        low, high = ends["min"].as_py(), ends["max"].as_py()
        if high is not None and not 0 <= low <= high < len(part.dictionary):
            raise pa.ArrowInvalid(f"entries {low} to {high} of a dictionary of {len(part.dictionary)}")


def _repeats(column: pa.ChunkedArray) -> bool:
    """Whether a dictionary is worth it: where values hardly repeat, Arrow made it of plain pages, slowly."""
    parts = _dictionaries(column)
    distinct = sum(len(part.dictionary) for part in parts)
    return distinct < _FEW or 2 * distinct <= sum(map(len, parts))


def _cast(table: pa.Table, schema: pa.Schema, what: str, texts: Collection[str]) -> pa.Table:
    """The columns of `schema` in its types, dictionaries of `texts` as they are; no cast loses anything."""
    columns = []
    for field in schema:
        column = table.column(field.name)
        try:
            kept = column.type == field.type or (field.name in texts and _is_dictionary(column.type))
            columns.append(column if kept else column.cast(field.type))
        except pa.ArrowException as error:
            reason = first_line(error)
            raise InputError(
                f"{what}: column {field.name!r}: got {column.type}; expected values that {field.type} holds ({reason})"
            ) from None
    return pa.table(columns, names=schema.names)
