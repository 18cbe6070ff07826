"""A checkpoint directory may come from a stranger: what is in it is read, never run."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from ranking.distributed.world import World
from ranking.errors import InputError
from ranking.training.checkpoint import Checkpoints, read_tensors
from ranking.training.commits import CheckpointConfig, Commit, attempt_path, read_commits
from ranking.training.state import Progress
from tests.launch import launch
from tests.ranked import assembly
from tests.workspace import Workspace


def saved(world: World, files: list[Path], folder: Path) -> None:
    state = assembly(world, files).state(10)
    state.progress = Progress(step=1)
    Checkpoints(folder, CheckpointConfig(), world).save(state, None)


@pytest.fixture(scope="module")
def made(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "checkpoints"
    launch(saved, 2, [workspace.yaml], folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "checkpoints"))


class Poison:
    """Writes a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.victim}",)


def the_commit(folder: Path) -> Commit:
    (commit,) = read_commits(folder)
    return commit


def forge(folder: Path, name: str, content: bytes) -> Commit:
    """A commit that vouches for other bytes."""
    commit = the_commit(folder)
    (attempt_path(folder, commit) / name).write_bytes(content)
    return vouched(folder, commit, name)


def vouched(folder: Path, commit: Commit, name: str) -> Commit:
    content = (folder / "attempts" / commit.attempt / name).read_bytes()
    entry = len(content), hashlib.sha256(content).hexdigest()
    return commit.model_copy(update={"files": commit.files | {name: entry}})


def test_a_poisoned_pickle_is_refused_by_its_hash(folder, tmp_path) -> None:
    commit, victim = the_commit(folder), tmp_path / "victim"
    (attempt_path(folder, commit) / ".metadata").write_bytes(pickle.dumps(Poison(victim)))
    with pytest.raises(InputError, match=r"\.metadata: expected .* bytes with SHA-256"):
        read_tensors(folder, commit)
    assert not victim.exists()


def test_a_poisoned_pickle_that_a_forged_commit_vouches_for_is_refused_by_what_it_names(folder, tmp_path) -> None:
    victim = tmp_path / "victim"
    commit = forge(folder, ".metadata", pickle.dumps(Poison(victim)))
    with pytest.raises(InputError, match=r"\.metadata: names posix\.system; expected DCP's metadata"):
        read_tensors(folder, commit)
    assert not victim.exists()


def test_a_poisoned_tensor_is_refused(folder, tmp_path) -> None:
    """DCP's data files are pickles too; torch reads them with weights only."""
    victim, commit = tmp_path / "victim", the_commit(folder)
    metadata = pickle.loads((attempt_path(folder, commit) / ".metadata").read_bytes())  # our own
    (info, *_) = (info for info in metadata.storage_data.values() if info.relative_path == "__0_0.distcp")
    torch.save(Poison(victim), tmp_path / "poison")
    poison = (tmp_path / "poison").read_bytes()
    for entry in metadata.storage_data.values():
        entry.relative_path, entry.offset, entry.length = info.relative_path, 0, len(poison)
    commit = forge(folder, "__0_0.distcp", poison)
    (attempt_path(folder, commit) / ".metadata").write_bytes(pickle.dumps(metadata))
    commit = vouched(folder, commit, ".metadata")
    with pytest.raises(InputError, match="cannot be read"):
        read_tensors(folder, commit)
    assert not victim.exists()


def test_metadata_may_not_lead_outside_the_commit(folder) -> None:
    commit = the_commit(folder)
    metadata = pickle.loads((attempt_path(folder, commit) / ".metadata").read_bytes())  # our own
    next(iter(metadata.storage_data.values())).relative_path = "../../elsewhere"
    commit = forge(folder, ".metadata", pickle.dumps(metadata))
    with pytest.raises(InputError, match=r"names '\.\./\.\./elsewhere'; expected files of the commit of step 1"):
        read_tensors(folder, commit)


@pytest.mark.parametrize("name", ["../progress.json", "/etc/passwd", "a/b", "..", ""])
def test_a_commit_may_not_name_files_elsewhere(folder, name) -> None:
    commit = the_commit(folder)
    for odd in (
        commit.model_copy(update={"files": commit.files | {name: (0, "")}}),
        commit.model_copy(update={"attempt": name}),
    ):
        with pytest.raises(InputError, match="expected a plain name"):
            read_tensors(folder, odd)


def test_links_are_refused_whatever_they_lead_to(folder, tmp_path) -> None:
    commit = the_commit(folder)
    path = attempt_path(folder, commit)
    moved = (path / "progress.json").rename(tmp_path / "progress.json")
    (path / "progress.json").symlink_to(moved)
    with pytest.raises(InputError, match=r"progress\.json: a symbolic link"):
        read_tensors(folder, commit)
    (path / "progress.json").unlink()
    moved.rename(path / "progress.json")
    read_tensors(folder, commit)
    path.rename(tmp_path / "attempt")
    path.symlink_to(tmp_path / "attempt")
    with pytest.raises(InputError, match="a symbolic link"):
        read_tensors(folder, commit)
