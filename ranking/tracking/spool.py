"""A journal on local disk between training and the tracking server, so that an outage loses nothing.

What survives what: an event is in the kernel's page cache when `append` returns, so a killed process loses none. The
shipping thread, never the caller, calls fsync about once every `flush_seconds`: a machine that loses power loses at
most the events of about that long.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import threading
import time
from collections.abc import Sequence
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, Protocol

from ranking.errors import described
from ranking.files import write_atomically
from ranking.redact import redact_text

logger = logging.getLogger(__name__)

Event = dict[str, Any]

_READ_LINES = 500
_CLOSING_PAUSE = 0.5  # s between attempts while a deadline runs


class Sink(Protocol):
    """Where events go."""

    def __call__(self, events: Sequence[Event]) -> int:
        """Deliver a non-empty prefix of `events` and return its length; raise to be called again later.

        Events may come twice (a crash between delivery and acknowledgement): delivery must be idempotent.
        """
        ...

    def close(self) -> None:
        """Release connections."""
        ...


class Journal:
    """Append-only JSON lines, one event each, and how far they were acknowledged.

    A line torn by a crash or a full disk is ended before the next one is written, and skipped by the reader.
    """

    def __init__(self, directory: Path) -> None:
        """Open or create `spool.jsonl` and `spool.offset` in `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / "spool.jsonl"
        self._offset_path = directory / "spool.offset"
        self._lock = threading.Lock()
        self._file = self._path.open("ab", buffering=0)
        self._size = self._synced = self._path.stat().st_size
        self._torn = self._size > 0 and self._last_byte() != b"\n"
        self._acknowledged = self._stored_offset()

    def append(self, event: Event) -> None:
        """Write one event in one system call.

        Raises:
            OSError: The disk took none or a part of the line.
        """
        line = json.dumps(event, separators=(",", ":"), default=str).encode() + b"\n"
        with self._lock:
            if self._torn:
                line = b"\n" + line
            written = self._file.write(line) or 0
            self._size += written
            self._torn = 0 < written < len(line)
        if written < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def read(self, limit: int = _READ_LINES) -> list[tuple[Event | None, int]]:
        """Up to `limit` unacknowledged events, each with its end offset; None stands for a torn line."""
        if self._acknowledged >= self._size:
            return []
        events, end = [], self._acknowledged
        with self._path.open("rb") as file:
            file.seek(end)
            for line in takewhile(lambda line: line.endswith(b"\n"), islice(file, limit)):
                end += len(line)
                events.append((_parse(line), end))
        return events

    def acknowledge(self, offset: int) -> None:
        """Remember that everything before `offset` was delivered."""
        self._acknowledged = offset
        write_atomically(self._offset_path, json.dumps({"offset": offset}).encode())

    def sync(self) -> None:
        """Force what was appended onto the disk."""
        size = self._size
        if size > self._synced:
            os.fsync(self._file.fileno())
            self._synced = size

    def pending(self) -> int:
        """Number of events not acknowledged yet."""
        return sum(event is not None for event, _ in self.read(limit=1 << 62))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _last_byte(self) -> bytes:
        with self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read()

    def _stored_offset(self) -> int:
        """The acknowledged offset; 0, which delivers everything again, when it is missing or makes no sense."""
        try:
            offset = int(json.loads(self._offset_path.read_bytes())["offset"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return offset if 0 <= offset <= self._size else 0


class Spool:
    """Takes events at once and ships them in the background.

    The shipping thread retries for as long as the run lives, with exponential and jittered pauses. What is left at the
    end stays on disk: the next `Spool` on the directory, or `replay`, delivers it.
    """

    def __init__(self, directory: Path, sink: Sink, flush_seconds: float = 1.0, max_backoff: float = 30.0) -> None:
        """Open the journal and start shipping.

        Args:
            directory: Local directory of the journal; one process at a time.
            sink: Called from the shipping thread only.
            flush_seconds: Seconds between two looks at the journal.
            max_backoff: Longest pause between two attempts, in seconds.
        """
        self.directory = directory
        self._sink, self._flush_seconds, self._max_backoff = sink, flush_seconds, max_backoff
        self._journal = Journal(directory)
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._lost = 0
        self._thread = threading.Thread(target=self._ship, name="tracking-spool", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing.is_set()

    def append(self, event: Event) -> None:
        """Keep an event for delivery; a full disk costs the event and a warning, never the training."""
        try:
            self._journal.append(event)
        except (OSError, ValueError) as error:  # ValueError: the spool was closed
            self._lost += 1
            if self._lost.bit_count() == 1:
                logger.warning("tracking: %d events lost: %s: %s", self._lost, self.directory, error)

    def attach(self, path: str, content: bytes) -> None:
        """Keep an artifact file for delivery; a later one of the same path replaces it."""
        try:
            write_atomically(self.directory / "artifacts" / path, content)
        except OSError as error:
            logger.warning("tracking: artifact %s lost: %s", path, error)
            return
        self.append({"kind": "artifact", "path": path})

    def close(self, deadline: float, grace: float = 15.0) -> int:
        """Ship what is left, and stop.

        Args:
            deadline: Seconds after which nothing more is tried.
            grace: Seconds that an attempt under way at the deadline may still take.

        Returns:
            Number of events that stay on disk.
        """
        self._deadline = time.monotonic() + deadline
        self._closing.set()
        self._thread.join(deadline + grace)
        left = self._journal.pending()
        self._journal.close()
        if left:
            logger.warning(
                "tracking: %d events stay in %s; the same training or night delivers them", left, self.directory
            )
        return left

    @classmethod
    def replay(cls, directory: Path, sink: Sink, deadline: float) -> int:
        """Deliver what an earlier process left in `directory`; returns the number of events that stay."""
        return cls(directory, sink).close(deadline)

    def _ship(self) -> None:
        failures = 0
        while not self._closing.is_set() or time.monotonic() < self._deadline:
            closing = self._closing.is_set()  # read before the journal: nothing is appended after closing
            try:
                idle, failures = not self._deliver(), 0
            except Exception as error:
                idle, failures = False, failures + 1
                if failures.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ...
                    self._report(error, failures)
            if closing and idle:
                break
            self._pause(failures, idle)
        self._sink.close()

    def _deliver(self) -> bool:
        """Ship one batch; False when there was none."""
        self._journal.sync()
        batch = self._journal.read()
        if not batch:
            return False
        if batch[0][0] is None:
            logger.warning("tracking: skipped a torn line before byte %d of %s", batch[0][1], self.directory)
            handled = 1
        else:
            handled = self._sink([event for event, _ in takewhile(lambda item: item[0] is not None, batch) if event])
        self._journal.acknowledge(batch[handled - 1][1])
        return True

    def _pause(self, failures: int, idle: bool) -> None:
        if self._closing.is_set():
            time.sleep(_CLOSING_PAUSE if failures else 0)
        elif failures:
            self._closing.wait(min(self._max_backoff, 0.5 * 2.0 ** min(failures, 32)) * random.uniform(0.5, 1))
        elif idle:
            self._closing.wait(self._flush_seconds)

    def _report(self, error: Exception, failures: int) -> None:
        logger.warning("tracking: attempt %d failed, events wait in %s: %s", failures, self.directory, _brief(error))


def _brief(error: Exception) -> str:
    return redact_text(described(error))[:300]


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and event else None
