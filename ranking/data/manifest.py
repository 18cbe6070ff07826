"""What a data set consists of: its Parquet files, their row groups and columns, read from the footers alone."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, PlainSerializer, PlainValidator

from ranking.data.column_types import unify
from ranking.data.columns import RowError
from ranking.data.plan import Int64
from ranking.data.shard import PARTITION, Shard, read_footer
from ranking.data.storage import Info, Store
from ranking.errors import InputError
from ranking.schema import Frozen

log = logging.getLogger(__name__)

_FOOTERS_AT_ONCE = 16


def _to_schema(value: object) -> pa.Schema:
    return value if isinstance(value, pa.Schema) else pa.ipc.read_schema(pa.py_buffer(base64.b64decode(str(value))))


def _from_schema(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


ArrowSchema = Annotated[pa.Schema, PlainValidator(_to_schema), PlainSerializer(_from_schema, return_type=str)]


class Manifest(Frozen):
    """The shards of a data set, in the order of its log, and the columns they share.

    Attributes:
        shards: patterns in the order given, the files of one pattern by path.
        columns: names and canonical types: integers, and decimals without a fraction, int64 (uint64 stays); other
            decimals and mixed floats float64; strings large_string; lists list; dictionaries are decoded, times stay.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    shards: tuple[Shard, ...]
    columns: ArrowSchema

    @classmethod
    def build(
        cls,
        urls: str | Sequence[str],
        columns: Sequence[str] | None = None,
        store: Store | None = None,
        key: str = "data.train",
        require_checksums: bool = False,
    ) -> Self:
        """Read every footer.

        Args:
            urls: fsspec URLs, globs or directories.
            columns: needed from every shard; left out: those of the first.
            store: where the URLs lie; any public place when left out.
            key: config key to name in errors.
            require_checksums: refuse files whose pages carry no CRC; else they are warned of.

        Raises:
            InputError: nothing found, no rows, not Parquet, a column missing or of types that do not go together.
        """
        store = store or Store()
        found: dict[str, Info] = {}
        for pattern in [urls] if isinstance(urls, str) else urls:
            files = store.find(pattern)
            if not files:
                raise InputError(
                    f"{key}: got {pattern!r}, which matches no file{_from(pattern)}; expected Parquet files"
                )
            found.update(files)
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
            footers = list(pool.map(read_footer, found, found.values(), repeat(store)))
        shards = [shard for shard, _ in footers]
        if not any(sum(shard.row_groups) for shard in shards):
            raise InputError(f"{key}: got {len(shards)} files without a row, first {shards[0].url}; expected rows")
        shared = unify(footers, columns)
        _require_checksums(shards, key, require_checksums)
        return cls(shards=tuple(shards), columns=shared)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the shards' names below their common directory, sizes and row counts; a copy has the same."""
        lines = (f"{name}\t{s.size}\t{s.row_groups}\n" for name, s in zip(self._names, self.shards, strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """The shards' names below their common directory."""
        places = [PARTITION.split(shard.url, maxsplit=1)[0].rpartition("/")[0].split("/") for shard in self.shards]
        common = 0
        while all(common < len(place) and place[common] == places[0][common] for place in places):
            common += 1
        return tuple("/".join(shard.url.split("/")[common:]) for shard in self.shards)

    def require(self, pinned: Manifest) -> None:
        """Refuse data that is not what an earlier look at it, or at a copy of it, found.

        A file rewritten in place with the same footer is warned of: its statistics are the same, its order may not be.

        Raises:
            InputError: naming the first file that differs, and in what.
        """
        now = dict(zip(self._names, self.shards, strict=True))
        for name, before in zip(pinned._names, pinned.shards, strict=True):
            if name not in now:
                raise InputError(f"{before.url}: missing now; expected the file that was pinned")
            found = now.pop(name)
            for what in ("size", "row_groups", "footer"):
                got, expected = getattr(found, what), getattr(before, what)
                if got != expected:
                    raise InputError(f"{found.url}: changed since it was pinned: got {what} {got}; expected {expected}")
            if (found.url, found.stamp) == (before.url, before.stamp) or found.url != before.url:
                continue
            if "://" in found.url and not found.url.startswith("file://"):
                raise InputError(
                    f"{found.url}: changed since it was pinned: got stamp {found.stamp}; expected {before.stamp}"
                )
            log.warning("%s: written anew since it was pinned, with the same footer", found.url)
        if now:
            raise InputError(f"{next(iter(now.values())).url}: new; expected only the files that were pinned")

    @cached_property
    def row_groups(self) -> Int64:
        """`[G]` rows of every row group, in order; a row's number counts the rows before it."""
        return np.array([rows for shard in self.shards for rows in shard.row_groups], np.int64)

    @property
    def rows(self) -> int:
        """Number of rows of the whole data set."""
        return int(self.row_groups.sum())

    def place(self, row: int) -> str:
        """File and row group of a row, for messages."""
        shard, group = self._group_of(row)
        return f"{self.shards[shard].url}: row group {group}"

    def located(self, error: RowError) -> str:
        """What an error over a row of the data set says, with the row's file and its number there."""
        shard, _ = self._group_of(error.row)
        before = int(self.row_groups[: self._starts[shard]].sum())
        return f"{self.place(error.row)}: {error.at(error.row - before)}"

    def _group_of(self, row: int) -> tuple[int, int]:
        """(shard, row group within it) of a row."""
        return self.locate(int(np.searchsorted(np.cumsum(self.row_groups), row, side="right")))

    @cached_property
    def _starts(self) -> Int64:
        counts = np.array([len(shard.row_groups) for shard in self.shards], np.int64)
        return np.cumsum(counts) - counts

    def locate(self, row_group: int) -> tuple[int, int]:
        """(shard, row group within it) of a row group of the manifest."""
        shard = int(np.searchsorted(self._starts, row_group, side="right")) - 1
        return shard, row_group - int(self._starts[shard])


def read_manifest(path: Path) -> Manifest:
    """The manifest that a job pinned.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return Manifest.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no pinned manifest; expected the one that `train` writes") from None
    except (ValueError, pa.ArrowException, OSError):
        raise InputError(f"{path}: not a manifest; expected the one that `train` writes") from None


def _from(pattern: str) -> str:
    """Where a path that does not say it begins."""
    return "" if "://" in pattern or pattern.startswith(("/", "~")) else f" in {Path.cwd()}"


def _require_checksums(shards: Sequence[Shard], key: str, required: bool) -> None:
    """Say once of a data set that flipped bits in it cannot be told from data."""
    bare = [shard.url for shard in shards if not shard.checksums]
    if not bare:
        return
    found = f"{key}: {len(bare)} of {len(shards)} files carry no page checksums, first {bare[0]}"
    advice = "write files with page checksums (pyarrow: write_page_checksum=True)"
    if required:
        raise InputError(f"{found}; expected them, as data.require_checksums says: {advice}")
    log.warning("%s: a flipped bit in them can pass for data; %s", found, advice)
