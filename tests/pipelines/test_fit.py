"""One training as a value: what it leaves in its run directory, and what it refuses to go on with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.fit import Fit, trained
from pipelines.run_directory import pinned
from ranking.config import load
from ranking.data.manifest import read_manifest
from ranking.distributed.world import World
from ranking.errors import InputError
from ranking.tracking.runs import NullRun
from tests.launch import launch, run

CANARY = "canary-4711"


def refusal(work: Callable[[], object]) -> str:
    """What an InputError says; "" where there is none."""
    try:
        work()
    except InputError as error:
        return str(error)
    return ""


def scored(world: World, files: list[Path], folder: Path) -> dict[str, str]:
    """A run that was evaluated once is to go on while what it is scored by changes; what it says, by change."""
    settings = [f"--output={folder / 'run'}", f"--data.validation={folder}/*.parquet", "--evaluation.every=2"]

    def fit(*more: str, steps: int = 4) -> Fit:
        return Fit(load(files, [*settings, f"--training.steps={steps}", *more]), world)

    def said(*more: str) -> str:
        return refusal(lambda: fit(*more))

    assert fit(steps=2).train(NullRun())
    found = {key: said(f"--evaluation.{key}") for key in ("best=gauc", 'tasks=["click"]', "min_positives=3")}
    found["model"] = said("--model.experts=4", "--model.tower=[8]")
    found["schema"] = said("--schema.embedding_dim=12", "--model.bottom=[9]", "--model.experts=5", "--model.tower=[8]")
    found["confidence"] = said("--evaluation.confidence=0.9")
    shutil.copy(folder / "part-0.parquet", folder / "part-1.parquet")
    found["grown"], found["finished"] = said(), refusal(lambda: fit(steps=2))
    pin = pinned(fit(steps=2).parts.config, "validation")
    pin.unlink()
    found["unpinned"], found["pinned since"] = said(), str(len(read_manifest(pin).shards))
    shutil.rmtree(folder / "run" / "checkpoints")
    (folder / "part-1.parquet").unlink()
    found["not begun"], found["pinned then"] = said(), str(len(read_manifest(pin).shards))
    return found


@pytest.fixture(scope="module")
def goes_on(workspace, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("scored")
    shutil.copy(workspace.files("validation")[0], folder / "part-0.parquet")
    (found,) = launch(scored, 1, [workspace.yaml], folder)
    return folder, found


@pytest.mark.parametrize(
    ("change", "got", "expected"), [("best=gauc", "gauc", "auc"), ('tasks=["click"]', '["click"]', "[]")]
)
def test_a_run_does_not_go_on_with_scores_of_another_kind(goes_on, change, got, expected) -> None:
    folder, found = goes_on
    key = change.partition("=")[0]
    rest = f"as the run in {folder / 'run'} was started, or another `output`"
    assert found[change] == f"evaluation.{key}: got {got}; expected {expected}, {rest}"
    assert found["min_positives=3"].startswith("evaluation.min_positives: got 3; expected 10, ")
    assert found["confidence"] == ""


def test_a_run_does_not_go_on_with_another_model_and_names_the_settings_not_the_tensors(goes_on) -> None:
    folder, found = goes_on
    rest = f"as the run in {folder / 'run'} was started, or another `output`"
    assert found["model"] == f"model.tower: got [8]; expected [4]; model.experts: got 4; expected 3, {rest}"
    assert found["schema"].startswith("schema.embedding_dim: got 12; expected 8; model.")
    assert found["schema"].endswith(f" (and 1 more), {rest}")


def test_a_run_does_not_go_on_with_scores_of_other_rows(goes_on) -> None:
    folder, found = goes_on
    assert found["grown"] == f"file://{folder}/part-1.parquet: new; expected only the files that were pinned"


def test_a_run_that_has_nothing_left_to_score_may_see_other_rows(goes_on) -> None:
    assert goes_on[1]["finished"] == ""


def test_a_run_without_pinned_validation_rows_pins_those_it_goes_on_with(goes_on) -> None:
    assert (goes_on[1]["unpinned"], goes_on[1]["pinned since"]) == ("", "2")


def test_a_run_that_has_no_score_yet_is_scored_on_what_there_is(goes_on) -> None:
    assert (goes_on[1]["not begun"], goes_on[1]["pinned then"]) == ("", "1")


def test_no_secret_of_the_configuration_is_written_down(workspace, tmp_path) -> None:
    output = tmp_path / "run"
    options = [
        f"--tracking.uri=http://me:{CANARY}@127.0.0.1:9",
        "--tracking.drain_seconds=0",
        "--tracking.request_timeout=1",
        f"--data.storage_options={{'secret': '{CANARY}'}}".replace("'", '"'),
        "--training.steps=2",
        f"--output={output}",
    ]
    ended = run(tmp_path, "pipelines.train", workspace.arguments(*options), size=1)
    files = [path for path in output.rglob("*") if path.is_file()]
    assert any(path.name == "progress.json" for path in files), ended
    assert [str(path) for path in files if CANARY.encode() in path.read_bytes()] == []


def readers(world: World, files: list[Path], folder: Path) -> list[str]:
    """What a reader is told of a run whose pins are gone, of one of other settings, and of one that is damaged."""
    settings = [f"--output={folder / 'run'}", "--training.steps=2"]
    assert Fit(load(files, settings), world).train(NullRun())
    shutil.rmtree(folder / "run" / "manifests")
    shutil.rmtree(folder / "run" / "transforms")
    before = sorted(folder.rglob("*"))

    def said(*more: str) -> str:
        told = refusal(lambda: trained(load(files, [*settings, *more]), world))
        assert sorted(folder.rglob("*")) == before
        return told

    found = [said(), said("--seed=9")]
    shard = next(folder.rglob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-1])
    return [*found, said()]


def test_a_reader_writes_nothing_into_the_directory_of_a_run(workspace, tmp_path) -> None:
    (found,) = launch(readers, 1, [workspace.yaml], tmp_path)
    assert found[0] == ""
    assert found[1].startswith(f"{tmp_path / 'run'}: the run was started on plan ")
    assert ".distcp" in found[2]
