"""Checkpoints that are either committed and verified, or not there at all.

Protocol: write into a fresh attempt directory, fsync, hash every file, then create `commits/<step>.json` if it does
not exist. Only that file makes a checkpoint discoverable; it holds the hashes, so nothing is opened (DCP's metadata
is a pickle) before its bytes are known to be the ones written.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.api import CheckpointException

from ranking.distributed.collectives import all_gather, broadcast, collective_error, on_rank_zero
from ranking.distributed.world import World
from ranking.errors import InputError
from ranking.files import fsync_directory, remove, write_durably
from ranking.training.commits import (
    CheckpointConfig,
    Commit,
    attempt_path,
    collect,
    hashes,
    mark,
    ranked,
    read_commits,
    set_aside,
    supersede,
    sweep,
    verify,
)
from ranking.training.layout import LayoutLoadPlanner, LayoutSavePlanner, TensorLayout, layout_of, outlines
from ranking.training.state import Progress, TrainState
from ranking.training.stored import Stored, brief, reason

log = logging.getLogger(__name__)

T = TypeVar("T")


class SaveError(Exception):
    """A save that failed on some rank, as on a full disk; nothing was committed, on all ranks alike."""


class Checkpoints:
    """The committed checkpoints of one run directory; all ranks make it together, in their main threads.

    Args:
        directory: where they live; a file system all ranks share.
        config: the `checkpoints` section.
        world: the ranks that save together.
        fence: called on rank 0, in whatever thread saves, right before a commit; raises InputError when this process
            no longer owns the directory.
    """

    def __init__(
        self, directory: Path, config: CheckpointConfig, world: World, fence: Callable[[], None] = lambda: None
    ) -> None:
        """Open the directory; nothing is written until `save`."""
        self.directory, self.config, self.world, self.fence = directory, config, world, fence
        self._background = world.in_background
        self._restored: Commit | None = None

    def commits(self) -> list[Commit]:
        """Every committed checkpoint, oldest first."""
        return read_commits(self.directory)

    def path(self, commit: Commit) -> Path:
        """Directory of a committed checkpoint."""
        return attempt_path(self.directory, commit)

    def best(self) -> Commit | None:
        """The committed checkpoint with the highest score; the earlier one of equals."""
        return next(iter(ranked(self.commits())), None)

    def sweep(self) -> None:
        """Remove what killed saves left; all ranks call it, once they know that no other job writes here."""
        on_rank_zero(lambda: sweep(self.directory), self.world)

    def save(self, state: TrainState, score: float | None) -> Commit:
        """Write, verify and commit the state of all ranks.

        Args:
            state: what to save.
            score: validation score of this step, if it was evaluated.

        Returns:
            The commit.

        Raises:
            InputError: another process already committed this step, or owns the directory now.
            SaveError: a rank could not write.
        """
        return self.publish(state.checkpoint_tensors(), state.progress, score)

    def publish(self, tensors: Mapping[str, TensorLayout], progress: Progress, score: float | None) -> Commit:
        """`save`, of tensors copied before; from any thread, one at a time."""
        world = self._background
        path = self.directory / "attempts" / broadcast(f"{progress.step:020d}-{uuid.uuid4().hex[:8]}", world)
        try:
            _agree(lambda: self._begin(path) if world.is_rank_zero else None, world)
            _write(tensors, path, world)
            parts = _agree(lambda: self._finish(path, progress), world)
            files = {name: entry for part in parts for name, entry in part.items()}
            commit = Commit(step=progress.step, attempt=path.name, score=score, files=files, world_size=self.world.size)
            _agree(lambda: self._commit(commit) if world.is_rank_zero else None, world)
        except (SaveError, InputError):
            if world.is_rank_zero:
                remove(path)
            broadcast(None, world)  # nobody goes on, or tries again, before it is gone
            raise
        return broadcast(commit, world)

    def restore(self, state: TrainState, accept: Callable[[Progress], None] = lambda _: None) -> Progress | None:
        """Load the newest checkpoint whose bytes are intact; damaged ones are set aside, to be written again.

        Args:
            state: live modules and optimizers, filled in place.
            accept: shown its progress before anything is filled, on every rank; may raise what says more than shapes.

        Returns:
            Its progress, or None where there is no checkpoint.

        Raises:
            InputError: it holds another model or optimizer.
        """
        for commit in reversed(on_rank_zero(self.commits, self.world)):
            damage = self._damage(commit)
            if damage is None:
                self._restored = commit
                return self._fill(state, commit, accept)
            if self.world.is_rank_zero:
                log.warning("checkpoint of step %d is set aside: %s", commit.step, damage)
                set_aside(self.directory, commit)
        return None

    def load(self, state: TrainState, commit: Commit, accept: Callable[[Progress], None] = lambda _: None) -> Progress:
        """Verify a checkpoint and fill `state` from it, at any world size and under any sharding plan; as `restore`.

        Raises:
            InputError: its bytes are not those committed, or it holds another model or optimizer.
        """
        damage = self._damage(commit)
        if damage is not None:
            raise collective_error(damage, self.world)
        return self._fill(state, commit, accept)

    def _begin(self, path: Path) -> None:
        (self.directory / "commits").mkdir(parents=True, exist_ok=True)
        path.mkdir(parents=True)

    def _finish(self, path: Path, progress: Progress) -> dict[str, tuple[int, str]]:
        """This rank's files, read back."""
        names = [file.name for file in path.glob(f"__{self.world.rank}_*")]
        if self.world.is_rank_zero:
            write_durably(path / "progress.json", progress.model_dump_json())
            names += [".metadata", "progress.json"]
        return hashes(path, names)

    def _commit(self, commit: Commit) -> None:
        path = self.path(commit)
        for folder in (path, path.parent, self.directory):
            fsync_directory(folder)
        self.fence()
        if self._restored is not None and self._restored.step == commit.step:
            supersede(self.directory, self._restored, commit)  # the same state, evaluated since
        else:
            mark(self.directory, commit)
        try:
            collect(self.directory, self.config)
        except (InputError, OSError) as error:  # the commit stands whatever becomes of the earlier ones
            log.warning("%s: nothing is collected: %s", self.directory, error)

    def _damage(self, commit: Commit) -> str | None:
        """What is wrong with a commit's bytes; every rank looks at a share of them."""
        found = _agree(lambda: verify(self.directory, commit, self.world.rank, self.world.size), self._background)
        return next((text for text in found if text), None)

    def _fill(self, state: TrainState, commit: Commit, accept: Callable[[Progress], None]) -> Progress:
        progress = Progress.model_validate_json((self.path(commit) / "progress.json").read_text())
        accept(progress)
        stored, views = self._opened(commit), state.model.state_dict()
        shapes, tensors = stored.shapes, state.tensors()
        self._require_same(commit, outlines(tensors, self.world), shapes)
        rng = state.rng()
        if commit.world_size != self.world.size or not rng.keys() <= shapes.keys():
            rng = {}  # of other ranks, or of another device
        layout = tensors | {name: layout_of(value) for name, value in rng.items()}
        targets = {name: value.target(shapes[name]) for name, value in layout.items()}
        self._read(stored, {name: target for name, (target, _) in targets.items()})
        for _, carry in targets.values():
            carry()
        if rng:
            state.restore_rng(rng)
        state.optimizers.loaded()
        state.model.load_state_dict(views)  # in place already: TorchRec drops what it has cached
        return progress

    def _opened(self, commit: Commit) -> Stored:
        """Every rank's reader; a commit that rank 0 cannot open is nobody's."""
        on_rank_zero(lambda: bool(Stored(self.directory, commit).shapes), self.world)
        return Stored(self.directory, commit)

    def _read(self, stored: Stored, targets: dict[str, TensorLayout]) -> None:
        try:
            dcp.load(targets, storage_reader=stored, planner=LayoutLoadPlanner(), **_ranks(self._background))
        except CheckpointException as error:
            raise collective_error(f"{stored.path}: cannot be read: {reason(error)}", self.world) from None

    def _require_same(
        self, commit: Commit, live: Mapping[str, TensorLayout], kept: Mapping[str, tuple[int, ...]]
    ) -> None:
        for name in sorted(name for name in live.keys() | kept if not name.startswith("rng/")):
            if name not in live or name not in kept or not live[name].fits(kept[name]):
                found, wanted = kept.get(name, "missing"), live[name].shape if name in live else "none"
                where = f"checkpoint of step {commit.step}: {name}"
                raise collective_error(f"{where}: got shape {found}; expected {wanted}, as configured now", self.world)


def _agree(work: Callable[[], T], world: World) -> list[T]:
    """What `work` returns on every rank, on all of them; a rank's failure is all ranks' failure."""
    value, refusal, failure = None, None, None
    try:
        value = work()
    except InputError as error:
        refusal = str(error), error.code
    except Exception as error:
        failure = f"rank {world.rank}: {brief(error)}"
    found = all_gather((value, refusal, failure), world)
    for _, refused, failed in found:
        if refused or failed:
            raise collective_error(refused[0], world, refused[1]) if refused else SaveError(failed)
    return [value for value, _, _ in found]  # type: ignore[misc]  # no rank failed


def _write(tensors: Mapping[str, TensorLayout], path: Path, world: World) -> None:
    writer = FileSystemWriter(path, sync_files=True)
    try:
        dcp.save(dict(tensors), storage_writer=writer, planner=LayoutSavePlanner(), **_ranks(world))
    except CheckpointException as error:  # no Exception: it would pass whoever handles those
        raise SaveError(reason(error)) from None


def _ranks(world: World) -> dict[str, Any]:
    """Who saves or loads together, as DCP takes it."""
    return {"process_group": world.control, "no_dist": world.control is None}


def read_tensors(directory: Path, commit: Commit) -> dict[str, Tensor]:
    """All of a commit's model and optimizer tensors in one process, whole, whatever plan saved them.

    Returns:
        Tensors as saved: `model/...` and `optimizer/...`; a table's parameter is `[R, D]`, for its optimizer's state
        see `ranking.training.layout`.

    Raises:
        InputError: the bytes are not those committed.
    """
    return _read_whole(directory, commit, ("model/", "optimizer/"))


def read_model(directory: Path, commit: Commit) -> dict[str, Tensor]:
    """The model's tensors of `read_tensors` by their own names; the optimizer's are not read."""
    found = _read_whole(directory, commit, ("model/",))
    return {name.removeprefix("model/"): tensor for name, tensor in found.items()}


def _read_whole(directory: Path, commit: Commit, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    damage = verify(directory, commit)
    if damage is not None:
        raise InputError(damage)
    stored = Stored(directory, commit)
    return stored.read(name for name in stored.shapes if name.startswith(prefixes))
