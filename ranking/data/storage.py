"""Files behind fsspec URLs: finding, reading and opening them, trying again, and what goes wrong, said in one line."""

from __future__ import annotations

import errno
import logging
import random
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from itertools import count
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from pydantic import Field

from ranking.errors import InputError, ServiceError
from ranking.schema import Frozen

Options = Mapping[str, Any]
Info = Mapping[str, Any]
Leaves = Callable[[pq.ParquetSchema], list[str]]
T = TypeVar("T")

log = logging.getLogger(__name__)

_FIRST_WAIT, _LONGEST_WAIT = 0.2, 10.0  # seconds
_DOUBTFUL_TRIES = 5  # a store behind a load balancer can say 404 of a file that is there, and bits flip on the way
_REFUSALS = (PermissionError, FileNotFoundError, IsADirectoryError, NotADirectoryError)
_REFUSED = (errno.EINVAL, errno.ENAMETOOLONG, errno.ENOSYS)  # how s3fs numbers what S3 says of a bad request
_BUSY = ("429", "500", "502", "503", "504")
_STAMPS = ("ETag", "etag", "mtime", "LastModified", "created")
_jitter = random.Random()  # of its own: the global state belongs to the run


class RetryConfig(Frozen):
    """How a remote store that is throttled, stalls or drops a connection is asked again: exponentially, with jitter."""

    deadline_s: float = Field(
        120.0, ge=0, description="Seconds from the first attempt at one read to giving up; 0: no second attempt."
    )


class DamageError(InputError):
    """The bytes of a file are not what its writer wrote."""


@dataclass(frozen=True)
class Store:
    """Any file system that fsspec knows.

    Attributes:
        options: of the file system, as fsspec takes them; time-outs of a single request are among them.
        retry: what to do about transient faults.
    """

    options: Options = field(default_factory=dict)
    retry: RetryConfig = field(default_factory=RetryConfig)

    def find(self, pattern: str) -> list[tuple[str, Info]]:
        """Files behind a URL, a glob, or a directory (every `*.parquet` below it), sorted by path.

        Returns:
            (URL, what the file system knows of the file); hidden files and directories (`_*`, `.*`) below what is named
            are left out.

        Raises:
            InputError: the store is unknown, or refuses.
            ServiceError: it is out of reach, or failed until the deadline.
        """
        return self.attempt(pattern, pattern, lambda: _find(*self._system(pattern)))

    def info(self, url: str) -> Info:
        """What the file system knows of a file now.

        Raises:
            InputError: missing, or as `find`, and ServiceError.
        """

        def look() -> Info:
            system, path = self._system(url)
            system.invalidate_cache(system._parent(path))
            found: Info = system.info(path)
            return found

        return self.attempt(url, url, look)

    def read(self, url: str, start: int, stop: int) -> bytes:
        """Bytes start .. stop-1 of a file.

        Raises:
            InputError: as `info`.
        """

        def fetch() -> bytes:
            system, path = self._system(url)
            return bytes(system.cat_file(path, start=start, end=stop))

        return self.attempt(url, url, fetch)

    def open(self, url: str, as_dictionaries: Leaves | None = None, **settings: Any) -> pq.ParquetFile:
        """Open a file and read its footer.

        Args:
            url: fsspec URL or local path.
            as_dictionaries: which of its leaf columns to read as dictionaries; none when left out.
            **settings: of `pyarrow.parquet.ParquetFile`.

        Raises:
            DamageError: truncated or no Parquet file.
            InputError: as `info`.
        """

        def opened() -> pq.ParquetFile:
            """The file; known as a whole before some of its columns are asked for as dictionaries."""
            system, path = self._system(url)
            local = isinstance(system, LocalFileSystem)
            # Arrow merges the ranges it needs (pre_buffer); a cache below it would fetch bytes nobody reads.
            source = path if local else system.open(path, "rb", cache_type="none")
            file = pq.ParquetFile(source, pre_buffer=not local, **settings)
            leaves = as_dictionaries(file.schema) if as_dictionaries else []
            if not leaves:
                return file
            known = {"metadata": file.metadata, "read_dictionary": leaves}
            return pq.ParquetFile(source, pre_buffer=not local, **known, **settings)

        return self.attempt(url, url, opened)

    def pins(self, url: str) -> bool:
        """Whether an open file goes on giving the bytes it was opened on, or fails (S3: If-Match on the ETag)."""
        return "s3" in self._system(url)[0].protocol

    def attempt(self, url: str, what: str, work: Callable[[], T]) -> T:
        """What `work` returns, tried again while the store of `url` has a transient fault and the deadline allows.

        Raises:
            DamageError: Arrow cannot read what came.
            ServiceError: the fault stayed until the deadline.
            InputError: anything else went wrong with the file; the message begins with `what`.
        """
        began, doubts = time.monotonic(), 0
        for tries in count(1):
            try:
                return work()
            except InputError:
                raise
            except Exception as error:
                wait = _jitter.uniform(0, min(_LONGEST_WAIT, _FIRST_WAIT * 2**tries))
                spent = time.monotonic() - began
                doubts += _doubtful(error)
                if not self._again(url, error, doubts) or spent + wait > self.retry.deadline_s:
                    raise _named(what, error, tries, spent) from error
                log.warning("%s: %s; trying again", what, _reason(error))
                time.sleep(wait)
        raise AssertionError  # the loop above has no end

    def _again(self, url: str, error: Exception, doubts: int) -> bool:
        if isinstance(self._system(url)[0], LocalFileSystem | MemoryFileSystem):
            return False
        return doubts < _DOUBTFUL_TRIES if _doubtful(error) else _transient(error)

    def _system(self, url: str) -> tuple[fsspec.AbstractFileSystem, str]:
        """The file system and the path in it. S3's own retries are off: they know of no deadline."""
        options = dict(self.options)
        if url.startswith(("s3://", "s3a://")):
            options["config_kwargs"] = {"retries": {"total_max_attempts": 1}} | options.get("config_kwargs", {})
        system, path = file_system(url, options)
        if "s3" in system.protocol:
            system.retries = 1
        return system, path


def file_system(url: str, options: Mapping[str, Any] | None = None) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URL or a local path, and the path in it.

    Raises:
        InputError: fsspec knows no such protocol, or its options are wrong.
    """
    try:
        system, path = fsspec.core.url_to_fs(url, **(options or {}))
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise InputError(f"{url}: {_reason(error)}; expected a URL and options that fsspec knows") from error
    if isinstance(system, LocalFileSystem) and path.startswith("//"):  # as fsspec joins / and a relative path
        path = path[1:]
    return system, str(path)


def blame(error: Exception) -> type[InputError]:
    """What to raise in place of an error of a file system: a ServiceError where it may pass, else an InputError."""
    return ServiceError if _transient(error) else InputError


def stamp(info: Info) -> str:
    """What changes when a file does: the store's ETag, or time of change and inode; empty when it tells neither."""
    found = next((str(info[name]) for name in _STAMPS if info.get(name)), "")
    return f"{found} {info['ino']}" if "ino" in info else found


def _find(system: fsspec.AbstractFileSystem, path: str) -> list[tuple[str, Info]]:
    system.invalidate_cache()  # a listing from before would hide new files
    fixed = re.split(r"[*?\[]", path, maxsplit=1)[0]
    if fixed != path:
        found = system.glob(path, detail=True)
    elif system.isdir(path):
        found = {name: info for name, info in system.find(path, detail=True).items() if name.endswith(".parquet")}
    else:
        return [(str(system.unstrip_protocol(path)), system.info(path))] if system.exists(path) else []
    base = len(fixed.rpartition("/")[0]) if fixed != path else len(path)
    asked = path[base:].split("/")
    files = {name: info for name, info in found.items() if info["type"] == "file" and not _hidden(name[base:], asked)}
    return [(str(system.unstrip_protocol(name)), files[name]) for name in sorted(files)]


def _hidden(path: str, asked: Sequence[str]) -> bool:
    """Whether a file, or a directory above it, is one that writers work in, and that no part of the pattern names.

    A directory `_column=value` is a partition.
    """
    *folders, file = path.split("/")
    parts = [file, *(part for part in folders if "=" not in part or part.startswith("."))]
    named = [part for part in asked if part.startswith(("_", "."))]
    return any(part.startswith(("_", ".")) and not any(fnmatch(part, name) for name in named) for part in parts)


def _transient(error: Exception) -> bool:
    """Throttled, stalled, cut off, not connected; not refused, replaced, or read well and found damaged."""
    if isinstance(error, _REFUSALS) or type(error).__name__ == "FileExpired":
        return False
    if isinstance(error, (TimeoutError, *_passing())) or _http_status(error) in _BUSY:
        return True
    return isinstance(error, OSError) and error.errno is not None and error.errno not in _REFUSED


def _http_status(error: Exception) -> str:
    """What a server said, where the file system hands that on as it is: gs, az and http do."""
    found = (getattr(error, name, None) for name in ("status", "status_code", "code"))
    return next((str(status) for status in found if status), "")


def _passing() -> tuple[type[Exception], ...]:
    """What else passes where S3 is in use: a connection that botocore cannot make is no OSError with a number."""
    s3fs, botocore = sys.modules.get("s3fs.core"), sys.modules.get("botocore.exceptions")
    return (*s3fs.S3_RETRYABLE_ERRORS, botocore.ConnectionError) if s3fs and botocore else ()


def _doubtful(error: Exception) -> bool:
    """What another look may tell apart from a loss or from damage, within few looks."""
    return isinstance(error, FileNotFoundError) or (_damaging(error) and not _transient(error))


def _damaging(error: Exception) -> bool:
    """Read, and found to be other bytes than were written."""
    unnumbered = isinstance(error, OSError) and not isinstance(error, PermissionError) and error.errno is None
    arrow = isinstance(error, pa.ArrowException) or unnumbered
    return arrow or type(error).__name__ == "FlexibleChecksumError"  # botocore compared S3's checksum of the object


def _named(what: str, error: Exception, tries: int, spent: float) -> InputError:
    reason = _reason(error)
    if isinstance(error, FileNotFoundError):
        return InputError(f"{what}: got no such file; expected a Parquet file")
    if _transient(error) and tries > 1:
        return ServiceError(
            f"{what}: got {reason!r} after {tries} attempts in {spent:.0f} s; expected an answer within "
            "data.retry.deadline_s"
        )
    if _doubtful(error):
        return DamageError(f"{what}: got {reason!r}; expected an undamaged Parquet file")
    return blame(error)(f"{what}: got {reason!r}; expected a readable file")


def _reason(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return lines[0].strip() or type(error).__name__
