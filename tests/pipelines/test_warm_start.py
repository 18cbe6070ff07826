"""Day after day: grown transforms, a run that goes on from the last one, and one that goes on from the registry."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ranking.data.transforms import Transforms
from tests.launch import Ended, run
from tests.workspace import Workspace, build, impressions


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, dict[str, Ended]]:
    """The first day's run, the second day's transforms, and two runs on the second day."""
    workspace = build(tmp_path_factory.mktemp("days"))
    folder = workspace.folder
    second = impressions(300, 77)
    second = second.set_column(0, "user_id", pc.add(second["user_id"], 10))
    (folder / "second").mkdir()
    pq.write_table(second, folder / "second/part-0.parquet", row_group_size=100, write_page_checksum=True)
    data = [f"--data.train={folder}/second/*.parquet", f"--data.transforms={folder}/grown", "--training.epochs=1"]
    extends, name = f"--data.extends={folder}/transforms", "models:/ranker@challenger"

    def job(module: str, *options: str) -> Ended:
        (ended,) = run(folder, f"pipelines.{module}", workspace.arguments(*options))
        assert ended.code == 0, ended.err
        return ended

    told = {
        "first": job("train", "--training.epochs=1"),
        "prepare": job("prepare", *data, extends),
        "registered": job("train", *data, f"--output={folder}/third", f"--warm_start.run={name}"),
        "run": job("train", *data, f"--output={folder}/second-run", f"--warm_start.run={folder}/run"),
    }
    return workspace, told


def test_prepare_extends_what_was_fitted_and_tells_what_grew_and_moved(days) -> None:
    workspace, told = days
    before, after = (Transforms.load(str(workspace.folder / name)) for name in ("transforms", "grown"))
    assert after.vocabularies["users"][: len(before.vocabularies["users"])].equals(before.vocabularies["users"])
    assert f"extends {workspace.folder}/transforms: new keys users +10; scaling kept, farthest" in told["prepare"].out
    assert after.statistics == before.statistics


def test_a_run_goes_on_from_an_earlier_one_and_its_tags_say_so(days) -> None:
    workspace, told = days
    assert "warm start from" in told["run"].err
    assert "optimizer state too" in told["run"].err
    found = tags(workspace, "second-run")
    assert found["warm_start.run"] == str(workspace.folder / "run")
    assert found["warm_start.step"] == "8"
    assert Path(workspace.folder / "run/checkpoints/attempts" / found["warm_start.checkpoint"]).is_dir()


def test_a_run_goes_on_from_the_weights_of_a_registered_model(days) -> None:
    workspace, told = days
    assert "warm start from models:/ranker@challenger, step 8" in told["registered"].err
    assert "optimizer state fresh" in told["registered"].err
    assert tags(workspace, "third")["warm_start.run"] == "models:/ranker@challenger"


def tags(workspace: Workspace, output: str) -> dict[str, str]:
    client = mlflow.MlflowClient(workspace.config().tracking.uri)
    runs = client.search_runs([client.get_experiment_by_name("ranking").experiment_id])
    wanted = str(workspace.folder / output)
    return dict(next(run.data.tags for run in runs if run.data.params.get("output") == wanted))
