"""`compare`: real trainings of a model that shares and of every task alone, from the command line to the ledger."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
import yaml

from pipelines.compare import alone
from ranking.config import revise
from ranking.errors import EXIT_STOPPED
from ranking.training.checkpoint import read_model
from ranking.training.commits import read_commits
from tests.launch import Ended, Job, run
from tests.pipelines.test_train import OFFLINE, statuses
from tests.workspace import Workspace, build

pytestmark = pytest.mark.filterwarnings("ignore")  # of MLflow and SQLAlchemy, about their own code
TASKS = ("click", "like", "watch")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return build(tmp_path_factory.mktemp("compare"))


@pytest.fixture(scope="module")
def compared(home: Workspace) -> tuple[Path, Ended]:
    options = ("--training.epochs=1", "--compare.resamples=100", "--compare.gradient_batches=3")
    (ended,) = run(home.folder, "pipelines.compare", home.arguments(*options))
    assert ended.code == 0, ended.err
    return home.folder / "run", ended


def ledger(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "compare/ledger.json").read_text())
    return found


def test_every_task_has_its_gain_with_an_interval(compared) -> None:
    found = ledger(compared[0])
    assert [line["task"] for line in found["entries"]] == list(TASKS)
    assert [line["metric"] for line in found["entries"]] == ["auc", "auc", "r2"]
    for line in found["entries"]:
        assert line["gain"] == pytest.approx(line["shared"] - line["alone"])
        assert line["interval"][0] <= line["gain"] <= line["interval"][1]
        assert f"| {line['task']} | {line['metric']} |" in compared[1].out


def test_gradients_of_all_pairs_of_tasks_are_compared(compared) -> None:
    matrix = torch.tensor(ledger(compared[0])["cosines"])
    torch.testing.assert_close(matrix, matrix.t())
    torch.testing.assert_close(matrix.diagonal(), torch.ones(3))


def test_a_baseline_trains_its_own_task_and_nothing_else(home, compared) -> None:
    config = alone(home.config(), home.config().schema.task("like"), Path("x"))
    assert [task.weight for task in config.schema.tasks] == [0, 1, 0]
    assert (config.model.type, config.model.bottom, config.model.tower) == ("shared_bottom", (16, 8), (4,))
    towers = {}
    for task in TASKS:
        directory = compared[0] / "compare" / task / "checkpoints"
        towers[task] = read_model(directory, read_commits(directory)[-1])["model.architecture.towers.weight"]
    for place, task in enumerate(TASKS):
        others = [towers[other][place] for other in TASKS if other != task]
        assert torch.equal(*others)  # as it was drawn
        assert not torch.equal(towers[task][place], others[0])


def test_a_baseline_has_all_that_every_architecture_has(home) -> None:
    common = {"cross_layers": 3, "cross_rank": 5, "dropout": 0.1, "embedding_dropout": 0.2}
    config = revise(home.config(), {f"model.{key}": value for key, value in common.items()})
    own = alone(config, config.schema.task("like"), Path("x")).model
    assert own.model_dump() == {"type": "shared_bottom", "bottom": (16, 8), "tower": (4,), **common}


def test_a_regression_chooses_its_checkpoint_by_its_own_r2(home) -> None:
    config = home.config()
    own = alone(config, config.schema.task("watch"), Path("x")).evaluation
    assert (own.best, own.tasks) == ("r2", ("watch",))


def test_the_report_and_its_figures_are_written_and_tracked(home, compared) -> None:
    folder = compared[0] / "compare"
    text = (folder / "ledger.md").read_text()
    for name in ("gains", "gradients"):
        assert f"({name}.png)" in text
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    client = mlflow.MlflowClient(f"sqlite:///{home.folder / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("ranking").experiment_id])
    (parent,) = [each for each in runs if each.info.run_name == "tiny-compare"]
    below = {each.info.run_name for each in runs if each.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert below == {"tiny", *(f"tiny-{task}-alone" for task in TASKS)}
    line = ledger(compared[0])["entries"][0]
    assert parent.data.metrics["gain/click"] == pytest.approx(line["gain"])


def test_models_that_are_there_already_are_taken(home, compared, tmp_path) -> None:
    output, before = compared[0], ledger(compared[0])
    over = tmp_path / "over.yaml"
    taken = {task: str(output / "compare" / task) for task in TASKS[1:]}
    over.write_text(yaml.safe_dump({"compare": {"baselines": taken, "resamples": 100, "gradient_batches": 3}}))
    options = home.arguments("-c", str(over), "--training.epochs=1", *OFFLINE)
    (ended,) = run(home.folder, "pipelines.compare", options)
    assert ended.code == 0, ended.err
    assert "rows/s" not in ended.err  # nothing was trained
    assert ledger(output) == before


def test_sigterm_leaves_no_run_behind_that_seems_to_go_on(home, tmp_path) -> None:
    job = Job(tmp_path, "pipelines.compare", home.arguments(*OFFLINE, "--training.epochs=99", f"--output={tmp_path}"))
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("checkpoints/commits/*.json")):
        assert time.monotonic() < deadline, job.err(0)
        time.sleep(0.02)
    job.signal(signal.SIGTERM)
    (ended,) = job.wait()
    assert ended.code == EXIT_STOPPED, ended.err
    assert statuses(tmp_path)[-1] == statuses(tmp_path / "compare")[-1] == "KILLED"


def refused(home: Workspace, folder: Path, baseline: Path) -> str:
    """What `compare` says of the baseline of `click`, before it trains anything."""
    over = folder / "over.yaml"
    over.write_text(yaml.safe_dump({"compare": {"baselines": {"click": str(baseline)}}}))
    options = home.arguments("-c", str(over), f"--output={folder / 'shared'}", *OFFLINE)
    (ended,) = run(home.folder, "pipelines.compare", options)
    assert ended.code == 2
    assert "rows/s" not in ended.err
    (line,) = ended.errors
    return line


def test_a_directory_without_a_run_is_named(home, tmp_path) -> None:
    where = tmp_path / "nothing"
    assert refused(home, tmp_path, where).startswith(f"error: compare.baselines: {where}: no committed checkpoint;")


def test_a_baseline_without_the_task_is_named_before_anything_is_trained(home, tmp_path) -> None:
    content = yaml.safe_load(home.yaml.read_text())
    content["schema"]["tasks"] = [content["schema"]["tasks"][0] | {"name": "tap"}]
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(content))
    baseline = tmp_path / "other"
    options = ["-c", str(tmp_path / "other.yaml"), f"--output={baseline}", "--training.steps=2", *OFFLINE]
    (ended,) = run(home.folder, "pipelines.train", options)
    assert ended.code == 0, ended.err
    wanted = f"error: compare.baselines: {baseline}: no task 'click'; expected a run of it, not of ['tap']"
    assert refused(home, tmp_path, baseline) == wanted
