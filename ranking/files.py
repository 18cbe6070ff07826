"""Local files that appear, change or go as a whole."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ranking.errors import InputError

_FULL_OR_BROKEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def make_directory(path: Path, key: str) -> None:
    """Make a directory that the user has chosen, where it is not there yet.

    Raises:
        InputError: it is a file, or nothing can be made there; the line names the key that chose it.
        OSError: the disk is full or broken.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _FULL_OR_BROKEN:
            raise
        reason = "a file is in its place" if isinstance(error, FileExistsError) else error.strerror
        raise InputError(f"{key}: cannot make {path}: {reason}; expected a directory to write to") from None


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file as a whole: a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def write_durably(path: Path, text: str) -> None:
    """Write a file down to the disk; its name lasts once its directory is synchronised."""
    with path.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def fsync_directory(directory: Path) -> None:
    """Make new names in a directory last."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a directory or file as far as it can be; a link, not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def replacing(directory: Path, overwrite: bool = False) -> Iterator[Path]:
    """A new directory beside `directory` that takes its name when the block ends, and vanishes when it raises.

    Readers never see a half-written directory. A killed process leaves only a hidden sibling `.<name>.<hex>` behind.

    Args:
        directory: local path; its parents are made.
        overwrite: replace what is there; else `directory` must be missing or empty.

    Raises:
        InputError: `directory` is a file, cannot be made, or holds something and `overwrite` is false.
    """
    _refuse_occupied(directory, overwrite)
    make_directory(directory.parent, str(directory))
    new = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}")
    new.mkdir()
    try:
        yield new
        _refuse_occupied(directory, overwrite)  # another job may have finished first
        _swap(new, directory)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _refuse_occupied(directory: Path, overwrite: bool) -> None:
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory}: got a file; expected a directory to write to")
    if not overwrite and directory.exists() and any(directory.iterdir()):
        raise InputError(f"{directory}: not empty; expected a new directory, or `overwrite: true` to replace it")


def _swap(new: Path, directory: Path) -> None:
    if not directory.exists():
        new.rename(directory)
        return
    old = directory.with_name(f"{new.name}.old")
    directory.rename(old)  # a directory cannot be renamed over one that holds files
    try:
        new.rename(directory)
    except OSError:
        old.rename(directory)
        raise
    shutil.rmtree(old)
