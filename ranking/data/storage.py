"""Parquet files behind fsspec URLs: finding them, opening them, and what goes wrong, said in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from ranking.errors import InputError

Options = Mapping[str, Any]


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn what Arrow says of damaged or missing files into an InputError that begins with `what`.

    A retry of transient faults of a remote store belongs here; today they pass as the OSError they are.
    """
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{what}: got no such file; expected a Parquet file") from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{what}: got {reason!r}; expected an undamaged Parquet file") from error


def open_parquet(url: str, options: Options, **settings: Any) -> pq.ParquetFile:
    """Open a file and read its footer.

    Args:
        url: fsspec URL or local path.
        options: of the file system, as fsspec takes them.
        **settings: of `pyarrow.parquet.ParquetFile`.

    Raises:
        InputError: missing, truncated or no Parquet file.
    """
    with readable(url):
        system, path = fsspec.core.url_to_fs(url, **options)
        if isinstance(system, LocalFileSystem):
            return pq.ParquetFile(path, **settings)
        # Arrow merges the ranges it needs (pre_buffer); a read-ahead cache below it would fetch bytes nobody reads.
        return pq.ParquetFile(system.open(path, "rb", cache_type="none"), pre_buffer=True, **settings)


def find(pattern: str, options: Options) -> list[tuple[str, dict[str, Any]]]:
    """Files behind a URL, a glob, or a directory (every `*.parquet` below it), sorted by path.

    Returns:
        (URL, what the file system knows of the file), hidden files (`_*`, `.*`) left out of globs and directories.
    """
    system, path = fsspec.core.url_to_fs(pattern, **options)
    system.invalidate_cache()  # a listing from before would hide new files
    if "*" in path or "?" in path or "[" in path:
        found = system.glob(path, detail=True)
    elif system.isdir(path):
        found = {name: info for name, info in system.find(path, detail=True).items() if name.endswith(".parquet")}
    else:
        return [(str(system.unstrip_protocol(path)), system.info(path))] if system.exists(path) else []
    files = {name: info for name, info in found.items() if info["type"] == "file" and not _hidden(name)}
    return [(str(system.unstrip_protocol(name)), files[name]) for name in sorted(files)]


def _hidden(path: str) -> bool:
    return path.rsplit("/", 1)[-1].startswith(("_", "."))
