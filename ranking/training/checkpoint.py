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

from ranking.distributed.collectives import gather, share, told
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
        commit = None
        if self.world.leads:
            _write(path / "progress.json", state.progress.model_dump_json())
            commit = Commit(step=state.progress.step, attempt=attempt, score=score, files=_hashes(path))
            self._publish(commit)
            self._collect()
        return share(commit, self.world)  # type: ignore[return-value]  # rank 0's is set

    def restore(self, state: TrainState) -> Progress | None:
        """Load the newest checkpoint whose bytes are intact.

        Args:
            state: live modules and optimizers, filled in place.

        Returns:
            Its progress, or None where there is no checkpoint.
        """
        commit = share(self._newest_intact() if self.world.leads else None, self.world)
        if commit is None:
            return None
        return self.load(state, commit)

    def load(self, state: TrainState, commit: Commit) -> Progress:
        """Fill `state` from a verified checkpoint, at any world size.

        Raises:
            InputError: it holds another model or optimizer.
        """
        path = self.path(commit)
        reader = FileSystemReader(path)
        saved = reader.read_metadata().state_dict_metadata
        tensors = state.tensors()
        live = {name for names in gather(list(tensors), self.world) for name in names}  # a rank knows its own tables'
        self._require_same_names(commit, live, {name for name in saved if not name.startswith("rng/")})
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

    def best(self) -> Commit | None:
        """The committed checkpoint with the highest score; the earlier one of equals."""
        return max((c for c in self.commits() if c.score is not None), key=lambda c: (c.score, -c.step), default=None)

    def _newest_intact(self) -> Commit | None:
        for commit in reversed(self.commits()):
            damage = verify(self.directory, commit)
            if damage is None:
                return commit
            log.warning("checkpoint of step %d is not used: %s", commit.step, damage)
        return None

    def _require_same_names(self, commit: Commit, live: set[str], saved: set[str]) -> None:
        if live != saved:
            odd = sorted(live ^ saved)[0]
            where = "is not in the checkpoint" if odd in live else "is only in the checkpoint"
            message = f"checkpoint of step {commit.step}: {odd} {where}; expected the same model and optimizer"
            raise told(message, self.world)

    def _publish(self, commit: Commit) -> None:
        target = self.directory / "commits" / f"{commit.step:020d}.json"
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
                (self.directory / "commits" / f"{commit.step:020d}.json").unlink()
                shutil.rmtree(self.path(commit), ignore_errors=True)


def read_commits(directory: Path) -> list[Commit]:
    """Every commit under a checkpoint directory, oldest first."""
    files = sorted((directory / "commits").glob("*.json"))
    return [Commit.model_validate_json(file.read_text()) for file in files]


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
    damage = verify(directory, commit)
    if damage is not None:
        raise InputError(damage)
    reader = FileSystemReader(attempt_path(directory, commit))
    saved: dict[str, Any] = reader.read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in saved.items()
        if name.startswith("model/")
    }
    dcp.load(tensors, storage_reader=reader, no_dist=True)
    return {name.removeprefix("model/"): tensor for name, tensor in tensors.items()}


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
