"""Commits: the files that make a checkpoint exist.

attempts/<step>-<nonce>/    what a save wrote; nothing of it counts by itself
commits/<step>.json         names an attempt with the size and SHA-256 of its files; created put-if-absent
commits/<step>.damaged      a commit whose bytes were found to be others, set aside
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from ranking.errors import InputError
from ranking.files import fsync_directory, remove, write_durably
from ranking.schema import Frozen

log = logging.getLogger(__name__)

Files = dict[str, tuple[int, str]]
"""Size in bytes and SHA-256 by name."""


class CheckpointConfig(Frozen):
    """How checkpoints are written, and which stay."""

    mode: Literal["async", "sync"] = Field(
        "async",
        description="async: training goes on while a copy in host memory (kept for the next) is saved; sync: it waits.",
    )
    on_failure: Literal["continue", "stop"] = Field(
        "continue", description="A save that fails, as on a full disk; the last save of a run must succeed."
    )
    keep_last: int = Field(2, ge=2, description="Newest checkpoints kept; the last two are never collected.")
    keep_best: int = Field(1, ge=1, description="Best checkpoints kept, by `evaluation.best`.")


class Commit(Frozen):
    """The marker that makes a checkpoint exist.

    Attributes:
        step: updates done when it was taken.
        attempt: name of its directory.
        score: validation score it is ranked by, None before the first evaluation.
        files: size in bytes and SHA-256 of every file.
        world_size: ranks that saved.
        created: when, in seconds since the epoch.
    """

    step: int
    attempt: str
    score: float | None = None
    files: Files
    world_size: int = 1
    created: float = Field(default_factory=time.time)
    format: Literal[2] = 2

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(size for size, _ in self.files.values())

    @property
    def text(self) -> str:
        """Content of its file, sealed: a flipped digit must not pass for another score or world size."""
        return _Sealed(**dict(self), sha256=self._sha256).model_dump_json()

    @property
    def _sha256(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class _Sealed(Commit):
    sha256: str

    @property
    def opened(self) -> Commit | None:
        """The commit; None where it is not the one that was sealed."""
        commit = Commit(**{name: getattr(self, name) for name in Commit.model_fields})
        return commit if commit._sha256 == self.sha256 else None


def read_commits(directory: Path) -> list[Commit]:
    """Every commit under a checkpoint directory, oldest first.

    Raises:
        InputError: a file there is not a commit.
    """
    return [_read(file) for file in sorted((directory / "commits").glob("*.json"))]


def attempt_path(directory: Path, commit: Commit) -> Path:
    """Directory a commit points to; a name that leaves the checkpoint directory is refused."""
    for name in (commit.attempt, *commit.files):
        if not _plain(name):
            raise InputError(f"{directory}: commit of step {commit.step} points to {name!r}; expected a plain name")
    path = directory / "attempts" / commit.attempt
    link = next((file for file in (path, *(path / name for name in commit.files)) if file.is_symlink()), None)
    if link is not None:
        raise InputError(f"{link}: a symbolic link; expected what the save of step {commit.step} wrote itself")
    return path


def verify(directory: Path, commit: Commit, turn: int = 0, turns: int = 1) -> str | None:
    """None where every byte of a checkpoint is the one that was committed, else what is wrong.

    Args:
        directory: of the checkpoints.
        commit: what to verify.
        turn: which share of the files to look at, of `turns` of about the same size.
        turns: number of shares.
    """
    path = attempt_path(directory, commit)
    by_size = sorted(commit.files, key=lambda name: (-commit.files[name][0], name))
    for name in by_size[turn::turns]:
        expected, found = commit.files[name], _fingerprint(path / name)
        if found != expected:
            return (
                f"{path / name}: expected {expected[0]} bytes with SHA-256 {expected[1][:12]}, "
                f"found {'nothing' if found is None else f'{found[0]} with {found[1][:12]}'}"
            )
    return None


def hashes(path: Path, names: Iterable[str]) -> Files:
    """Size and SHA-256 of files that were just written, read back.

    Raises:
        OSError: one of them is not there.
    """
    return {name: ((path / name).stat().st_size, _sha256(path / name)) for name in sorted(names)}


def mark(directory: Path, commit: Commit) -> None:
    """Make a checkpoint exist, if its step has none.

    Raises:
        InputError: another process already committed this step.
    """
    target = _marker(directory, commit)
    draft = target.with_suffix(f".{uuid.uuid4().hex[:8]}.draft")
    try:
        write_durably(draft, commit.text)
        os.link(draft, target)  # put-if-absent: fails where a commit of this step stands
    except FileExistsError:
        raise InputError(f"{target}: step {commit.step} is already committed by another process") from None
    finally:
        draft.unlink(missing_ok=True)
    try:
        fsync_directory(target.parent)
    except OSError:
        target.unlink(missing_ok=True)  # it may not last, so that nobody shall rely on it
        raise


def supersede(directory: Path, before: Commit, commit: Commit) -> None:
    """Let a checkpoint take the place of one of the same step, whose files go.

    Raises:
        InputError: it is not `before` that stands there.
    """
    target = _marker(directory, commit)
    if not target.exists() or _read(target) != before:
        raise InputError(f"{target}: step {commit.step} is already committed by another process")
    draft = target.with_suffix(f".{uuid.uuid4().hex[:8]}.draft")
    try:
        write_durably(draft, commit.text)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    with suppress(OSError):  # both are whole: where it is not sure which one lasts, the files of both stay
        fsync_directory(target.parent)
        remove(attempt_path(directory, before))


def set_aside(directory: Path, commit: Commit) -> None:
    """Let a damaged checkpoint exist no more, so that its step can be committed again; its files stay."""
    marker = _marker(directory, commit)
    marker.replace(marker.with_suffix(".damaged"))


def kept(directory: Path, config: CheckpointConfig) -> dict[int, list[str]]:
    """Why a checkpoint stays, by step: `last`, `best`, or nothing.

    Only checkpoints whose files have their sizes count, so that a torn one never pushes a whole one out.
    """
    commits = read_commits(directory)
    whole = [commit for commit in commits if _whole(directory, commit)]
    first = whole[-config.keep_last].step if len(whole) >= config.keep_last else 0
    best = {commit.step for commit in ranked(whole)[: config.keep_best]}
    return {commit.step: ["last"] * (commit.step >= first) + ["best"] * (commit.step in best) for commit in commits}


def ranked(commits: Iterable[Commit]) -> list[Commit]:
    """Those with a score, best first; the earlier one of equals."""
    return sorted((c for c in commits if c.score is not None), key=lambda c: (-(c.score or 0.0), c.step))


def collect(directory: Path, config: CheckpointConfig) -> list[Commit]:
    """Remove checkpoints that no rule keeps; returns them.

    Raises:
        InputError: a file there is not a commit, so that nothing is known to be superfluous.
    """
    stays = kept(directory, config)
    gone = [commit for commit in read_commits(directory) if not stays[commit.step]]
    for commit in gone:
        _marker(directory, commit).unlink()
        shutil.rmtree(attempt_path(directory, commit), ignore_errors=True)
    return gone


def orphans(directory: Path) -> list[Path]:
    """What killed saves left: attempts that no commit names, set aside or not, and drafts of commits."""
    markers = list((directory / "commits").glob("*"))
    drafts = [file for file in markers if file.suffix == ".draft"]
    named = {_read(file).attempt for file in markers if file.suffix in (".json", ".damaged")}
    return drafts + sorted(path for path in (directory / "attempts").glob("*") if path.name not in named)


def damaged(directory: Path) -> list[Path]:
    """Checkpoints that were set aside: their commits and attempts."""
    markers = sorted((directory / "commits").glob("*.damaged"))
    return markers + [path for marker in markers if (path := attempt_path(directory, _read(marker))).exists()]


def sweep(directory: Path) -> int:
    """Remove the orphans, and say so; only for whoever knows that nobody else writes here."""
    found = orphans(directory)
    for path in found:
        remove(path)
    if found:
        log.info("%s: removed %d leftovers of saves that were killed", directory, len(found))
    return len(found)


def _marker(directory: Path, commit: Commit) -> Path:
    return directory / "commits" / f"{commit.step:020d}.json"


def _read(file: Path) -> Commit:
    try:
        commit = _Sealed.model_validate_json(file.read_text()).opened
        if commit is not None and file.stem == f"{commit.step:020d}":
            return commit
        reason = "not what was committed"
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "content"
        reason = f"{where}: {first['msg']}"
    except ValueError:
        reason = "not text"
    raise InputError(f"{file}: damaged ({reason}); expected a commit; remove it to go on from the one before")


def _plain(name: str) -> bool:
    return Path(name).name == name and name not in ("", ".", "..") and "\\" not in name and "\0" not in name


def _whole(directory: Path, commit: Commit) -> bool:
    """Whether every file has its size; what a look at names can tell."""
    path = attempt_path(directory, commit)
    try:
        return all((path / name).stat().st_size == size for name, (size, _) in commit.files.items())
    except OSError:
        return False


def _fingerprint(file: Path) -> tuple[int, str] | None:
    try:
        return file.stat().st_size, _sha256(file)
    except OSError:
        return None


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
