"""What a person may do with the checkpoints of a run directory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner, Result

from pipelines.checkpoints import main
from pipelines.fit import Fit
from ranking.config import load
from ranking.distributed.world import World
from ranking.errors import EXIT_INPUT, EXIT_OK
from ranking.schema import Schema
from ranking.tracking.runs import NullRun
from ranking.training.checkpoint import read_model
from ranking.training.commits import attempt_path, read_commits
from ranking.training.lease import Lease
from tests.launch import launch
from tests.workspace import Workspace


def trained(world: World, files: list[Path], overrides: list[str]) -> bool:
    return Fit(load(files, overrides), world, lambda: None).train(NullRun())


@pytest.fixture(scope="module")
def made(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 16 steps by two ranks, with a checkpoint at every fourth."""
    output = tmp_path_factory.mktemp("made") / "run"
    settings = [f"--output={output}", "--evaluation.every=4", "--checkpoints.keep_last=4"]
    assert launch(trained, 2, [workspace.yaml], settings) == [True, True]
    return output


@pytest.fixture
def output(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def checkpoints(workspace: Workspace, output: Path):
    def call(word: str, *more: str) -> Result:
        return CliRunner().invoke(main, [word, *workspace.arguments(f"--output={output}", *more)])

    return call


def leave(output: Path) -> Path:
    """What a killed save leaves."""
    attempt = output / "checkpoints" / "attempts" / f"{99:020d}-deadbeef"
    attempt.mkdir()
    (attempt / "__0_0.distcp").write_bytes(b"half")
    return attempt


def best(output: Path) -> int:
    commits = read_commits(output / "checkpoints")
    return max(commits, key=lambda commit: (commit.score, -commit.step)).step


def test_list_tells_what_there_is_and_why_it_stays(checkpoints, output) -> None:
    leave(output)
    result = checkpoints("list", "--checkpoints.keep_last=2")
    assert result.exit_code == EXIT_OK, result.output
    head, *lines, last = result.stdout.splitlines()
    assert head.split() == ["step", "score", "MiB", "age", "ranks", "kept"]
    rows = [line.split(None, 5) for line in lines]
    commits = read_commits(output / "checkpoints")
    assert [row[:2] for row in rows] == [[str(commit.step), f"{commit.score:.5f}"] for commit in commits]
    assert {row[4] for row in rows} == {"2"}
    why = {int(row[0]): row[5] for row in rows}
    for step, reasons in why.items():
        assert ("last" in reasons, "best" in reasons) == (step >= 12, step == best(output))
    assert "until the next save" in why.values()
    assert last == "1 leftovers of killed saves and damaged checkpoints: prune removes them"


def test_verify_reads_every_byte_and_names_the_damaged_file(checkpoints, output) -> None:
    result = checkpoints("verify")
    assert (result.exit_code, result.stdout.count("intact")) == (EXIT_OK, 4)
    commit = read_commits(output / "checkpoints")[1]
    file = attempt_path(output / "checkpoints", commit) / "__1_0.distcp"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    result = checkpoints("verify")
    assert (result.exit_code, result.stdout.count("intact")) == (EXIT_INPUT, 3)
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: 1 of 4 checkpoints are damaged, the first at step 8: {file}: expected ")


def test_prune_shows_first_and_removes_when_told(checkpoints, output) -> None:
    orphan = leave(output)
    before = {commit.step: commit.attempt for commit in read_commits(output / "checkpoints")}
    stay = {12, 16, best(output)}
    settings = ("--checkpoints.keep_last=2", "--checkpoints.keep_best=1")
    shown = checkpoints("prune", *settings)
    assert shown.exit_code == EXIT_OK, shown.output
    assert shown.stdout.endswith("nothing was removed; --yes removes them\n")
    for name in (orphan.name, *(attempt for step, attempt in before.items() if step not in stay)):
        assert f"would remove {output}/checkpoints/attempts/{name}\n" in shown.stdout
    assert len(read_commits(output / "checkpoints")) == 4
    assert orphan.exists()

    result = checkpoints("prune", "--yes", *settings)
    assert result.stdout == shown.stdout.replace("would remove", "removed").rsplit("nothing", 1)[0]
    assert {commit.step for commit in read_commits(output / "checkpoints")} == stay
    left = {path.name for path in (output / "checkpoints" / "attempts").iterdir()}
    assert left == {before[step] for step in stay}
    assert checkpoints("verify").exit_code == EXIT_OK


@pytest.mark.parametrize("more", [(), ("--yes",)])
def test_prune_says_that_there_is_nothing_to_remove(checkpoints, more) -> None:
    result = checkpoints("prune", *more, "--checkpoints.keep_last=4")
    assert (result.exit_code, result.stdout) == (EXIT_OK, "nothing to remove\n")


def test_prune_keeps_off_a_directory_that_a_training_uses(checkpoints, output) -> None:
    orphan = leave(output)
    lease = Lease.take(output / "lease", beat=0.05)
    try:
        result = checkpoints("prune", "--yes")
    finally:
        lease.release()
    assert result.exit_code == EXIT_INPUT
    assert "another launch" in result.stderr
    assert orphan.exists()


def test_export_writes_the_best_model_whole_with_its_schema(checkpoints, output, workspace, tmp_path) -> None:
    target = tmp_path / "out" / "model.safetensors"
    result = checkpoints("export", f"--to={target}")
    assert result.exit_code == EXIT_OK, result.output
    commits = {commit.step: commit for commit in read_commits(output / "checkpoints")}
    commit = commits[best(output)]
    expected = read_model(output / "checkpoints", commit)
    with safe_open(target, "pt") as file:
        assert set(file.keys()) == set(expected)
        assert all(torch.equal(file.get_tensor(name), value) for name, value in expected.items())
        metadata = file.metadata()
    assert Schema.model_validate(json.loads(metadata["schema"])) == workspace.config().schema
    assert (metadata["step"], metadata["checkpoint"]) == (str(commit.step), commit.attempt)
    assert float(metadata["score"]) == commit.score
    assert [path.name for path in target.parent.iterdir()] == ["model.safetensors"]

    again = checkpoints("export", f"--to={target}", "--step=4")
    assert (again.exit_code, "exists; expected a free name" in again.stderr) == (EXIT_INPUT, True)
    odd = checkpoints("export", f"--to={target}2", "--step=5")
    assert (odd.exit_code, "--step: got 5; expected one of [4, 8, 12, 16]" in odd.stderr) == (EXIT_INPUT, True)


@pytest.mark.parametrize("word", ["list", "verify", "prune"])
def test_a_directory_without_checkpoints_is_refused(workspace, tmp_path, word) -> None:
    result = CliRunner().invoke(main, [word, *workspace.arguments(f"--output={tmp_path}")])
    assert result.exit_code == EXIT_INPUT
    assert (
        result.stderr
        == f"error: {tmp_path}/checkpoints: no committed checkpoint; expected the `output` of a training\n"
    )
