"""One launch at a time on a run directory, on any file system that all hosts share.

The lease is a directory of `<20-digit token>.json` files, each created put-if-absent; the highest token holds. Its
file's modification time is the heartbeat: others only ask whether it changes while they look, so that no two clocks are
compared, and a full disk stops no heart. A token is never used twice, so that a holder that was stopped and wakes up
finds a higher one and cannot commit (Kleppmann 2016, "How to do distributed locking": fencing).
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from ranking.distributed.collectives import on_rank_zero
from ranking.distributed.process import Process
from ranking.distributed.world import World
from ranking.errors import InputError, ServiceError
from ranking.files import make_directory
from ranking.schema import Frozen

log = logging.getLogger(__name__)

_BEAT = 2.0
_EXPIRY = 30.0
_HELD, _RELEASED = ".json", ".released"


class Holder(Frozen):
    """Content of a token's file; never changes.

    Attributes:
        process: rank 0 of the launch.
        since: when it took the lease, UTC.
        nonce: drawn by the launch, because a token may exist again in a directory that was emptied.
    """

    process: Process
    since: str
    nonce: str


class Lease:
    """A held lease; `Lease.take` makes one.

    Args:
        folder: the lease's directory.
        token: what is held.
        holder: who holds it.
        beat: seconds between heartbeats.
        expiry: seconds without one after which another launch may take over.
        lost: called once, from the heartbeat's thread, with a line, when another launch took over.
    """

    def __init__(
        self, folder: Path, token: int, holder: Holder, beat: float, expiry: float, lost: Callable[[str], None]
    ) -> None:
        """Begin to beat."""
        self.folder, self.token, self.holder = folder, token, holder
        self._beat, self._expiry, self._lost = beat, expiry, lost
        self._beaten, self._settled = time.monotonic(), 0.0
        self._released = threading.Event()
        threading.Thread(target=self._keep, name="lease", daemon=True).start()

    @classmethod
    def take(
        cls,
        folder: Path,
        beat: float = _BEAT,
        expiry: float = _EXPIRY,
        lost: Callable[[str], None] = lambda line: None,
    ) -> Lease:
        """Take the lease, at once where it is free, released, or its holder's process is gone from this host.

        Where neither is known the holder's heart is watched: a beat refuses, `expiry` seconds without one free it.

        Raises:
            InputError: another launch holds it; one line names it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        own = Holder(
            process=Process.own(), since=datetime.now(UTC).isoformat(timespec="seconds"), nonce=uuid.uuid4().hex
        )
        while True:
            file = _newest(folder)
            if file is not None and file.suffix == _HELD:
                _outlive(file, beat, expiry)
            token = 1 + (int(file.stem) if file is not None else 0)
            if _create(_held(folder, token), own):
                break
        _clear(folder, token)
        return cls(folder, token, own, beat, expiry, lost)

    def fence(self) -> None:
        """To be called right before a commit.

        After a pause longer than half the expiry (the process was stopped, the file system away) another launch may be
        about to take over, so that the lease is renewed first and a beat's length is given to whoever was faster.

        Raises:
            ServiceError: the lease was released, or another launch took over.
        """
        self._renew()
        time.sleep(max(0.0, self._settled - time.monotonic()))
        _look_anew(self.folder, self.holder.nonce)
        self._require()

    def release(self) -> None:
        """Give it back; the next launch takes it at once."""
        self._released.set()
        held = _held(self.folder, self.token)
        with suppress(OSError):
            if _read(held) == self.holder:
                held.rename(held.with_suffix(_RELEASED))

    def _keep(self) -> None:
        failures = 0
        while not self._released.wait(self._beat):
            try:
                self._renew()
                failures = 0
            except InputError as error:
                if not self._released.is_set():
                    self._lost(str(error))
                return
            except OSError as error:
                failures += 1
                if failures.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ...
                    log.warning("%s: heartbeat failed %d times: %s", self.folder, failures, error)

    def _renew(self) -> None:
        self._require()
        began = time.monotonic()
        os.utime(_held(self.folder, self.token))
        if time.monotonic() - self._beaten > self._expiry / 2:
            self._settled = time.monotonic() + self._beat
        self._beaten = began

    def _require(self) -> None:
        newest = _newest(self.folder)
        if newest == _held(self.folder, self.token) and _read(newest) == self.holder:
            return
        other = None if newest is None else _read(newest)
        whose = (
            f"{other.process} holds it since {other.since}" if other and other != self.holder else "the lease is gone"
        )
        raise ServiceError(
            f"{self.folder.parent}: this launch (token {self.token}) lost the run directory: {whose}; nothing more is "
            "committed here"
        )


@contextmanager
def hold(directory: Path, world: World) -> Iterator[Callable[[], None]]:
    """Hold the lease of a run directory, on rank 0, as long as the block lasts.

    A directory that did not exist before and into which nothing was written is removed again.

    Yields:
        The fence to call before every commit.

    Raises:
        InputError: on all ranks, when another launch holds it, or it cannot be made.
    """
    kept: list[Lease] = []

    def take() -> bool:
        fresh = not directory.exists()
        make_directory(directory, "output")
        kept.append(Lease.take(directory / "lease", lost=lambda line: setattr(world.heartbeat, "trouble", line)))
        return fresh

    fresh = on_rank_zero(take, world)
    try:
        yield kept[0].fence if kept else lambda: None
    finally:
        for lease in kept:
            lease.release()
            with suppress(OSError):
                if fresh and list(directory.iterdir()) == [lease.folder]:
                    _remove(lease.folder)


def _outlive(file: Path, beat: float, expiry: float) -> None:
    """Return when the holder is gone, released or silent; a number of looks, so that a stall of ours counts once."""
    holder, seen = _read(file), _beaten_at(file)
    for _ in range(max(2, round(expiry / beat))):
        if holder is None or holder.process.gone:
            return
        time.sleep(beat)
        now = _beaten_at(file)
        if now is None:
            return
        if now != seen:
            raise InputError(
                f"{file.parents[1]}: another launch ({holder.process}) trains here since {holder.since}; expected to "
                "be the only one: wait for it, stop it, or take another `output`"
            )


def _newest(folder: Path) -> Path | None:
    try:
        return max((f for f in folder.iterdir() if f.suffix in (_HELD, _RELEASED)), default=None)
    except FileNotFoundError:
        return None


def _held(folder: Path, token: int) -> Path:
    return folder / f"{token:020d}{_HELD}"


def _read(file: Path) -> Holder | None:
    try:
        return Holder.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _beaten_at(file: Path) -> int | None:
    """Modification time; the file is opened, because NFS answers a plain `stat` from its cache."""
    try:
        with file.open("rb") as stream:
            return os.fstat(stream.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _create(file: Path, holder: Holder) -> bool:
    """Put-if-absent; whether the newest token is the holder's afterwards."""
    draft = file.with_suffix(f".{holder.nonce}.draft")
    draft.write_text(holder.model_dump_json())
    try:
        os.link(draft, file)
    except FileExistsError:
        pass  # somebody else's, or, where NFS repeated the call, ours: the content tells
    except FileNotFoundError:
        return False  # a later holder cleared the draft
    finally:
        draft.unlink(missing_ok=True)
    if _newest(file.parent) == file:
        return _read(file) == holder
    if _read(file) == holder:
        file.unlink(missing_ok=True)  # a token from before that was cleared in between
    return False


def _look_anew(folder: Path, nonce: str) -> None:
    """Change the directory, so that NFS does not list it from its cache."""
    probe = folder / f"{nonce}.probe"
    probe.touch()
    probe.unlink(missing_ok=True)


def _clear(folder: Path, token: int) -> None:
    """Remove what earlier holders left; the newest token is enough to count on."""
    for file in folder.iterdir():
        if file.stem.split(".")[0] < f"{token:020d}":
            file.unlink(missing_ok=True)


def _remove(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink(missing_ok=True)
    folder.rmdir()
    folder.parent.rmdir()
