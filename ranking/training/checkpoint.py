"""Checkpoints that are either committed and verified, or not there at all.

Protocol: write into a fresh attempt directory, fsync, hash every file, then create `commits/<step>.json` if it does
not exist. Only that file makes a checkpoint discoverable; it holds the hashes, so nothing is opened (DCP's metadata
is a pickle) before its bytes are known to be the ones written.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import uuid
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed.checkpoint as dcp
from pydantic import Field
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter

from ranking.distributed.collectives import gather, lead, share, told
from ranking.distributed.world import World
from ranking.errors import InputError
from ranking.schema import Frozen
from ranking.training.state import Progress, TrainState

log = logging.getLogger(__name__)


class CheckpointConfig(Frozen):
    """Which checkpoints stay."""

    keep_last: int = Field(2, ge=2, description="Newest checkpoints kept; the last two are never collected.")
    keep_best: int = Field(1, ge=1, description="Best checkpoints kept, by `evaluation.best`.")


class Commit(Frozen):
    """The marker that makes a checkpoint exist.

    Attributes:
        step: updates done when it was taken.
        attempt: name of its directory.
        score: validation score it is ranked by, None before the first evaluation.
        files: size in bytes and SHA-256 of every file.
    """

    step: int
    attempt: str
    score: float | None = None
    files: dict[str, tuple[int, str]]
    format: Literal[1] = 1


class Checkpoints:
    """The committed checkpoints of one run directory.

    Args:
        directory: where they live; a file system all ranks share.
        config: the `checkpoints` section.
        world: the ranks that save together.
    """

    def __init__(self, directory: Path, config: CheckpointConfig, world: World) -> None:
        """Open the directory; nothing is written until `save`."""
        self.directory, self.config, self.world = directory, config, world

    def commits(self) -> list[Commit]:
        """Every committed checkpoint, oldest first."""
        return read_commits(self.directory)

    def path(self, commit: Commit) -> Path:
        """Directory of a committed checkpoint."""
        return attempt_path(self.directory, commit)

    def save(self, state: TrainState, score: float | None) -> Commit:
        """Write, verify and commit the state of all ranks.

        Args:
            state: what to save.
            score: validation score of this step, if it was evaluated.

        Returns:
            The commit.

        Raises:
            InputError: another process already committed this step.
        """
        attempt = share(f"{state.progress.step:020d}-{uuid.uuid4().hex[:8]}", self.world)
        path = self.directory / "attempts" / attempt
        path.mkdir(parents=True, exist_ok=True)
        tensors = state.tensors() | state.rng()
        dcp.save(tensors, storage_writer=FileSystemWriter(path, sync_files=True), process_group=self.world.control)
        return lead(lambda: self._publish(path, state.progress, score), self.world)

    def restore(self, state: TrainState) -> Progress | None:
        """Load the newest checkpoint whose bytes are intact; damaged ones are set aside, to be written again.

        Args:
            state: live modules and optimizers, filled in place.

        Returns:
            Its progress, or None where there is no checkpoint.
        """
        commit = lead(self._newest_intact, self.world)
        return None if commit is None else self._fill(state, commit)

    def load(self, state: TrainState, commit: Commit) -> Progress:
        """Verify a checkpoint and fill `state` from it, at any world size.

        Raises:
            InputError: its bytes are not those committed, or it holds another model or optimizer.
        """
        lead(lambda: _require_intact(self.directory, commit), self.world)
        return self._fill(state, commit)

    def best(self) -> Commit | None:
        """The committed checkpoint with the highest score; the earlier one of equals."""
        return max((c for c in self.commits() if c.score is not None), key=lambda c: (c.score, -c.step), default=None)

    def _fill(self, state: TrainState, commit: Commit) -> Progress:
        path = self.path(commit)
        reader = FileSystemReader(path)
        saved = reader.read_metadata().state_dict_metadata
        tensors = state.tensors()
        self._require_same(commit, tensors, saved)
        rng = (
            state.rng()
            if all(name in saved for names in gather(list(state.rng()), self.world) for name in names)
            else {}
        )
        dcp.load(tensors | rng, storage_reader=reader, process_group=self.world.control)
        if rng:
            state.restore_rng(rng)
        plain = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
        state.model.load_state_dict(plain)
        return Progress.model_validate_json((path / "progress.json").read_text())

    def _newest_intact(self) -> Commit | None:
        for commit in reversed(self.commits()):
            damage = verify(self.directory, commit)
            if damage is None:
                return commit
            log.warning("checkpoint of step %d is set aside: %s", commit.step, damage)
            marker = self._marker(commit.step)
            marker.rename(marker.with_suffix(".damaged"))
        return None

    def _require_same(self, commit: Commit, tensors: dict[str, Any], saved: dict[str, Any]) -> None:
        own = {name: tuple(value.size()) for name, value in tensors.items()}
        live = {name: size for sizes in gather(own, self.world) for name, size in sizes.items()}  # own tables' only
        kept = {name: tuple(entry.size) for name, entry in saved.items() if not name.startswith("rng/")}
        odd = next((name for name in sorted(live.keys() | kept) if live.get(name) != kept.get(name)), None)
        if odd is not None:
            found, wanted = kept.get(odd, "missing"), live.get(odd, "none")
            message = (
                f"checkpoint of step {commit.step}: {odd}: got shape {found}; expected {wanted}, as configured now"
            )
            raise told(message, self.world)

    def _marker(self, step: int) -> Path:
        return self.directory / "commits" / f"{step:020d}.json"

    def _publish(self, path: Path, progress: Progress, score: float | None) -> Commit:
        _write(path / "progress.json", progress.model_dump_json())
        _sync(path)
        commit = Commit(step=progress.step, attempt=path.name, score=score, files=_hashes(path))
        self._mark(commit)
        self._collect()
        return commit

    def _mark(self, commit: Commit) -> None:
        target = self._marker(commit.step)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_suffix(f".{uuid.uuid4().hex[:8]}.draft")
        _write(draft, commit.model_dump_json())
        try:
            os.link(draft, target)  # put-if-absent: fails where a commit of this step stands
        except FileExistsError:
            raise InputError(f"{target}: step {commit.step} is already committed by another process") from None
        finally:
            draft.unlink()
        _sync(target.parent)

    def _collect(self) -> None:
        commits = self.commits()
        scored = sorted((c for c in commits if c.score is not None), key=lambda c: (-(c.score or 0.0), c.step))
        kept = {c.step for c in commits[-self.config.keep_last :] + scored[: self.config.keep_best]}
        for commit in commits:
            if commit.step not in kept:
                self._marker(commit.step).unlink()
                shutil.rmtree(self.path(commit), ignore_errors=True)


def read_commits(directory: Path) -> list[Commit]:
    """Every commit under a checkpoint directory, oldest first.

    Raises:
        InputError: a file there is not a commit.
    """
    return [_read(file) for file in sorted((directory / "commits").glob("*.json"))]


def attempt_path(directory: Path, commit: Commit) -> Path:
    """Directory a commit points to; a name that leaves the checkpoint directory is refused."""
    if Path(commit.attempt).name != commit.attempt or commit.attempt in ("", ".", ".."):
        raise InputError(
            f"{directory}: commit of step {commit.step} points to {commit.attempt!r}; expected a plain name"
        )
    return directory / "attempts" / commit.attempt


def verify(directory: Path, commit: Commit) -> str | None:
    """None where every byte of a checkpoint is the one that was committed, else what is wrong."""
    path = attempt_path(directory, commit)
    found = _hashes(path) if path.is_dir() else {}
    for name, expected in commit.files.items():
        if found.get(name) != expected:
            return (
                f"{path / name}: expected {expected[0]} bytes with SHA-256 {expected[1][:12]}, found {found.get(name)}"
            )
    return None


def read_model(directory: Path, commit: Commit) -> dict[str, torch.Tensor]:
    """A committed checkpoint's model in one process: every table whole, whatever plan saved it.

    Raises:
        InputError: the bytes are not those committed.
    """
    _require_intact(directory, commit)
    reader = FileSystemReader(attempt_path(directory, commit))
    saved: dict[str, Any] = reader.read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in saved.items()
        if name.startswith("model/")
    }
    dcp.load(tensors, storage_reader=reader, no_dist=True)
    return {name.removeprefix("model/"): tensor for name, tensor in tensors.items()}


def _read(file: Path) -> Commit:
    try:
        return Commit.model_validate_json(file.read_text())
    except ValueError:
        raise InputError(f"{file}: damaged; expected a commit; remove it to go on from the one before") from None


def _require_intact(directory: Path, commit: Commit) -> None:
    damage = verify(directory, commit)
    if damage is not None:
        raise InputError(damage)


def _hashes(path: Path) -> dict[str, tuple[int, str]]:
    files = sorted(file for file in path.iterdir() if file.is_file())
    return {file.name: (file.stat().st_size, _sha256(file)) for file in files}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write(file: Path, text: str) -> None:
    with file.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
