"""From a finished run to a champion: every job once, against a real registry."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from ranking.errors import EXIT_INPUT, EXIT_NOT_PROMOTED
from ranking.tracking.textfile import GAUGES
from tests.launch import Ended, run
from tests.workspace import Workspace


def one(workspace: Workspace, job: str, *options: str) -> Ended:
    (ended,) = run(workspace.folder, f"pipelines.{job}", workspace.arguments(*options))
    return ended


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, dict[str, Ended]]:
    """Jobs in an order in which a careless person might type them."""
    from tests.workspace import build

    workspace = build(tmp_path_factory.mktemp("release"))
    told = {"promote nothing": one(workspace, "promote"), "train": one(workspace, "train", *watched(workspace))}
    told["train again"] = one(workspace, "train")
    report = workspace.folder / "evaluated.json"
    told["evaluate"] = one(workspace, "evaluate", "--model", "challenger", "--output", str(report))
    told["promote"] = one(workspace, "promote")
    told["rollback"] = one(workspace, "rollback")
    return workspace, told


def watched(workspace: Workspace) -> list[str]:
    return [f"--metrics.textfile={workspace.folder / 'ranking.prom'}", "--logging.format=json"]


def test_every_log_line_says_run_step_and_rank(story) -> None:
    lines = [json.loads(line) for line in story[1]["train"].err.splitlines()]
    assert all({"time", "level", "run", "step", "rank", "message"} <= line.keys() for line in lines)
    steps = [line for line in lines if line["message"].startswith("step ")]
    assert [line["step"] for line in steps] == list(range(3, 17, 3))
    assert {line["rank"] for line in steps} == {0}
    assert re.search(r"rows/s, waiting for input \d+%, \d:\d\d:\d\d left$", steps[0]["message"])
    identity = json.loads((story[0].folder / "run" / "tracking" / "run.json").read_text())
    assert {line["run"] for line in steps} == {identity["id"]}


def test_the_metrics_of_a_run_are_those_that_alerts_and_readers_rely_on(story) -> None:
    families = text_string_to_metric_families((story[0].folder / "ranking.prom").read_text())
    found = {sample.name: sample for family in families for sample in family.samples}
    assert set(found) == set(GAUGES) - {"ranking_quarantined_rows"}
    assert found["ranking_job_exit_code"].value == 0
    assert found["ranking_job_exit_code"].labels == {"model": "ranker", "pipeline": "train"}
    assert found["ranking_step"].value <= found["ranking_step_target"].value == 16
    assert 0 <= found["ranking_input_wait_ratio"].value <= 1
    rules = yaml.safe_load((Path(__file__).parents[2] / "docker/prometheus/alerts.yaml").read_text())
    used = re.findall(r"\branking_\w+", " ".join(r["expr"] for group in rules["groups"] for r in group["rules"]))
    assert set(used) <= set(found)


def test_promoting_nothing_is_an_error(story) -> None:
    ended = story[1]["promote nothing"]
    assert ended.code == EXIT_INPUT
    database = f"sqlite:///{story[0].folder / 'mlflow.db'}"
    assert ended.errors == [f"error: tracking.uri: {database}: no such database; expected one that `train` wrote"]


def test_training_registers_a_challenger_once(story) -> None:
    told = story[1]
    assert (told["train"].code, told["train again"].code) == (0, 0), told["train"].err
    assert "registered ranker version 1 as challenger" in told["train"].out
    assert "ranker version 1 holds it already" in told["train again"].out


def test_the_packaged_model_scores_as_the_trainer_did(story) -> None:
    workspace, told = story
    assert told["evaluate"].code == 0, told["evaluate"].err
    trained = json.loads((workspace.folder / "run" / "report.json").read_text())
    served = json.loads((workspace.folder / "evaluated.json").read_text())
    assert served["step"] == trained["step"]
    for task, spaces in trained["tasks"].items():
        for space in ("sample_space", "entire_space"):
            for name, value in spaces[space].items():
                found = served["tasks"][task][space][name]
                number = isinstance(value, float | list)  # a list is an interval
                assert found == pytest.approx(value, abs=1e-5) if number else found == value, name


def test_the_gate_answers_and_its_exit_code_says_so(story) -> None:
    ended = story[1]["promote"]
    assert ended.code in (0, EXIT_NOT_PROMOTED), ended.err
    said = "version 1 is champion" if ended.code == 0 else "version 1 is not promoted"
    assert said in ended.out
    assert ended.errors == []


def test_there_is_nothing_to_roll_back_to_yet(story) -> None:
    ended = story[1]["rollback"]
    assert ended.code == EXIT_INPUT
    assert len(ended.errors) == 1


def test_the_run_directory_holds_what_a_reader_needs(story) -> None:
    folder: Path = story[0].folder / "run"
    assert {path.name for path in folder.iterdir()} >= {
        "checkpoints",
        "figures",
        "manifests",
        "report.json",
        "tracking",
    }
    assert sorted(path.name for path in (folder / "figures").glob("*.png"))[:2] == [
        "auc_at_n_steps.png",
        "calibration.png",
    ]
    assert not list(folder.rglob("*.draft"))
