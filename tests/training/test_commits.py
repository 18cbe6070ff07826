"""The files that make a checkpoint exist."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ranking.errors import InputError
from ranking.training.commits import (
    CheckpointConfig,
    Commit,
    attempt_path,
    collect,
    damaged,
    hashes,
    kept,
    mark,
    orphans,
    read_commits,
    set_aside,
    supersede,
    sweep,
    verify,
)


def commit(folder: Path, step: int, score: float | None = None) -> Commit:
    """A checkpoint of two files."""
    path = folder / "attempts" / f"{step:020d}-{'ab' * 4}"
    path.mkdir(parents=True)
    (folder / "commits").mkdir(exist_ok=True)
    for name, size in (("small", 10), ("large", 1000)):
        (path / name).write_bytes(os.urandom(size))
    made = Commit(step=step, attempt=path.name, score=score, files=hashes(path, ["small", "large"]))
    mark(folder, made)
    return made


def steps(folder: Path) -> list[int]:
    return [made.step for made in read_commits(folder)]


def test_commits_are_read_in_order_of_steps(tmp_path: Path) -> None:
    for number in (12, 3, 7):
        commit(tmp_path, number)
    assert steps(tmp_path) == [3, 7, 12]


def test_a_commit_of_another_format_is_named_with_what_is_wrong(tmp_path: Path) -> None:
    commit(tmp_path, 3)
    file = tmp_path / "commits" / f"{3:020d}.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 1}))
    with pytest.raises(InputError, match=r"03\.json: damaged \(format: Input should be 2\); expected a commit"):
        read_commits(tmp_path)


@pytest.mark.parametrize(("before", "after"), [('"score":0.5', '"score":0.9'), ('"world_size":1', '"world_size":3')])
def test_a_commit_with_another_digit_is_no_commit(tmp_path: Path, before: str, after: str) -> None:
    commit(tmp_path, 3, 0.5)
    file = tmp_path / "commits" / f"{3:020d}.json"
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, after))
    with pytest.raises(InputError, match=r"03\.json: damaged \(not what was committed\); expected a commit; remove it"):
        read_commits(tmp_path)


def test_every_file_is_in_one_share_of_the_verification(tmp_path: Path) -> None:
    made = commit(tmp_path, 1)
    (attempt_path(tmp_path, made) / "small").write_bytes(b"0123456789")
    assert verify(tmp_path, made) is not None
    found = [verify(tmp_path, made, turn, 3) for turn in range(3)]
    assert [text is None for text in found] == [True, False, True]
    assert "small: expected 10 bytes with SHA-256" in str(found[1])
    (attempt_path(tmp_path, made) / "large").unlink()
    assert "large: expected 1000 bytes" in str(verify(tmp_path, made, 0, 3))
    assert str(verify(tmp_path, made, 0, 3)).endswith("found nothing")


def test_a_step_is_committed_once_and_drafts_do_not_stay(tmp_path: Path) -> None:
    made = commit(tmp_path, 1)
    with pytest.raises(InputError, match="step 1 is already committed by another process"):
        mark(tmp_path, made)
    assert [file.name for file in (tmp_path / "commits").iterdir()] == [f"{1:020d}.json"]


def test_a_checkpoint_may_take_the_place_of_the_one_it_was_resumed_from(tmp_path: Path) -> None:
    before = commit(tmp_path, 1)
    path = tmp_path / "attempts" / f"{1:020d}-evaluated"
    attempt_path(tmp_path, before).rename(path)
    attempt_path(tmp_path, before).mkdir()
    after = before.model_copy(update={"attempt": path.name, "score": 0.5})
    supersede(tmp_path, before, after)
    assert read_commits(tmp_path) == [after]
    assert verify(tmp_path, after) is None
    assert orphans(tmp_path) == []
    assert [left.name for left in (tmp_path / "attempts").iterdir()] == [path.name]


def test_only_the_checkpoint_that_was_resumed_from_gives_way(tmp_path: Path) -> None:
    before = commit(tmp_path, 1)
    other = before.model_copy(update={"score": 0.5})
    with pytest.raises(InputError, match="step 1 is already committed by another process"):
        supersede(tmp_path, other, other)
    assert read_commits(tmp_path) == [before]
    assert verify(tmp_path, before) is None


def test_the_last_and_the_best_stay(tmp_path: Path) -> None:
    for step, score in enumerate([0.5, 0.9, None, 0.7, 0.9, 0.6], start=1):
        commit(tmp_path, step, score)
    config = CheckpointConfig(keep_last=2, keep_best=1)
    assert kept(tmp_path, config) == {1: [], 2: ["best"], 3: [], 4: [], 5: ["last"], 6: ["last"]}
    assert [gone.step for gone in collect(tmp_path, config)] == [1, 3, 4]
    assert steps(tmp_path) == [2, 5, 6]
    assert len(list((tmp_path / "attempts").iterdir())) == 3


def test_a_torn_checkpoint_pushes_no_whole_one_out(tmp_path: Path) -> None:
    made = [commit(tmp_path, step, score) for step, score in ((1, 0.1), (2, 0.2), (3, 0.3), (4, 0.9), (5, None))]
    for torn in made[3:]:
        (attempt_path(tmp_path, torn) / "large").write_bytes(b"torn")
    config = CheckpointConfig(keep_last=2, keep_best=1)
    assert [gone.step for gone in collect(tmp_path, config)] == [1]
    assert steps(tmp_path) == [2, 3, 4, 5]
    assert kept(tmp_path, config)[3] == ["last", "best"]


def test_fewer_than_the_last_two_all_stay(tmp_path: Path) -> None:
    commit(tmp_path, 1)
    assert collect(tmp_path, CheckpointConfig()) == []


def test_a_sweep_removes_what_no_commit_names(tmp_path: Path) -> None:
    assert sweep(tmp_path) == 0
    whole, odd = commit(tmp_path, 1), commit(tmp_path, 2)
    set_aside(tmp_path, odd)
    (tmp_path / "attempts" / f"{3:020d}-torn").mkdir()
    (tmp_path / "attempts" / f"{3:020d}-torn" / "large").write_bytes(b"half")
    (tmp_path / "commits" / f"{3:020d}.1234.draft").write_text("{")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "attempts" / "link").symlink_to(elsewhere)
    assert len(orphans(tmp_path)) == 3
    assert sweep(tmp_path) == 3
    assert orphans(tmp_path) == []
    assert elsewhere.exists()
    assert {path.name for path in (tmp_path / "attempts").iterdir()} == {whole.attempt, odd.attempt}
    assert verify(tmp_path, whole) is None


def test_what_was_set_aside_stays_to_be_looked_at_and_its_step_is_free(tmp_path: Path) -> None:
    odd = commit(tmp_path, 2)
    set_aside(tmp_path, odd)
    assert steps(tmp_path) == []
    assert [path.name for path in damaged(tmp_path)] == [f"{2:020d}.damaged", odd.attempt]
    mark(tmp_path, odd)
    assert steps(tmp_path) == [2]
