"""The quickstart on the real slice, shortened: every job as a user runs it, from prepare to rollback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.assembly import Assembly
from pipelines.offline import predict
from ranking.config import RunConfig, load
from ranking.data.manifest import Manifest
from ranking.distributed.world import World
from ranking.metrics import Predictions
from ranking.serving.ranker import Ranker
from ranking.training.checkpoint import Checkpoints
from tests.launch import launch

ROOT = Path(__file__).parents[1]
DAYS = "data/days/day=2022-05-0"


class Quickstart:
    """A folder in which the shortened quickstart has run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.options = [
            f"--prepare.source={ROOT / 'tests/data/kuairand'}",
            f"--prepare.output={folder}/data/days",
            f'--data.train=["{folder}/{DAYS}[45]/*.parquet"]',
            f'--data.validation=["{folder}/{DAYS}6/*.parquet"]',
            f'--data.test=["{folder}/{DAYS}[78]/*.parquet"]',
            f"--data.transforms={folder}/transforms",
            f"--output={folder}/run",
            f"--tracking.uri=sqlite:///{folder}/mlflow.db",
            f"--tracking.artifact_location={folder}/artifacts",
            "--training.epochs=2",
            "--training.log_every=20",
            "--evaluation.every=40",
            "--gate.calibration=[0.2, 5]",  # two days and two epochs do not calibrate a rare task
        ]
        self.said: dict[str, str] = {}

    def config(self) -> RunConfig:
        return load([ROOT / "configs/quickstart.yaml"], self.options)

    def run(self, job: str, *more: str, ranks: int = 1, code: int = 0) -> str:
        """Run a job to its end and remember what it said."""
        launcher = [sys.executable, "-m"]
        if ranks > 1:
            launcher += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
        command = [*launcher, f"pipelines.{job}", "-c", str(ROOT / "configs/quickstart.yaml"), *self.options, *more]
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ended.returncode == code, ended.stderr
        self.said[job] = ended.stdout
        return ended.stdout or ended.stderr


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Quickstart:
    done = Quickstart(tmp_path_factory.mktemp("quickstart"))
    for job, ranks in {"prepare": 1, "doctor": 1, "train": 2, "promote": 1, "report": 1}.items():
        done.run(job, ranks=ranks)
    return done


def test_each_job_tells_what_it_did(quickstart: Quickstart) -> None:
    assert "fitted the transforms" in quickstart.said["prepare"]
    assert "no error" in quickstart.said["doctor"]
    assert "AUC@N-steps" in quickstart.said["train"]
    assert "ranker version 1 is champion" in quickstart.said["promote"]
    assert "mlflow ui --backend-store-uri" in quickstart.said["report"]


def test_the_report_holds_both_spaces_and_the_history(quickstart: Quickstart) -> None:
    report = json.loads((quickstart.folder / "run/report.json").read_text())
    like = report["tasks"]["like"]
    assert like["sample_space"]["rows"] < like["entire_space"]["rows"] == 29_434
    assert like["sample_space"]["positives"] == 415
    low, high = report["tasks"]["click"]["sample_space"]["auc_interval"]
    assert 0.65 < low < report["tasks"]["click"]["sample_space"]["auc"] < high
    assert [entry["step"] for entry in report["history"]][:1] == [40]
    assert set(report["history"][0]["tasks"]) == set(report["tasks"])


def trained_predictions(world: World, options: list[str]) -> Predictions | None:
    """What the sharded training model of the best checkpoint says about the test split."""
    config = load([ROOT / "configs/quickstart.yaml"], options)
    parts = Assembly(config, world)
    test, state = parts.manifest("test"), parts.state(1)
    checkpoints = Checkpoints(config.output / "checkpoints", config.checkpoints, world)
    best = checkpoints.best()
    assert best is not None
    checkpoints.load(state, best)
    return parts.evaluate(test, state, best.step).predictions


def test_the_artefact_says_what_the_trainer_says(quickstart: Quickstart) -> None:
    """Contract 10 on the whole test split: sharded training model against the plain-torch artefact, to 1e-5."""
    config = quickstart.config()
    test = Manifest.build(config.data.test, config.schema.columns())
    served = predict(Ranker.load(config.output / "artefact"), test, config)
    for ranks in (1, 2):
        trained = launch(trained_predictions, ranks, quickstart.options)[0]
        order = np.argsort(trained.rows)
        np.testing.assert_array_equal(trained.rows[order], served.rows)
        np.testing.assert_allclose(trained.scores[order], served.scores, atol=1e-5)
        np.testing.assert_array_equal(trained.in_space[order], served.in_space)


def test_batch_scores_are_the_artefacts(quickstart: Quickstart) -> None:
    output = quickstart.folder / "scores"
    test = f"{quickstart.folder}/{DAYS}8/*.parquet"
    quickstart.run("score", "--input", test, "--output", str(output), "--keep", "user_id")
    scored = pq.read_table(output)
    config = quickstart.config()
    rows = Manifest.build([test], config.schema.columns())
    expected = predict(Ranker.load(config.output / "artefact"), rows, config)
    np.testing.assert_allclose(scored["click"].to_numpy(), expected.scores[:, 0], atol=1e-12)
    fused = np.prod(expected.scores[:, [0, 1, 3]] ** [1.0, 1.0, 0.5], axis=1)
    np.testing.assert_allclose(scored["score"].to_numpy(), fused, rtol=1e-9)


def test_evaluation_of_the_registered_model_repeats_the_report(quickstart: Quickstart) -> None:
    output = quickstart.folder / "evaluation.json"
    quickstart.run("evaluate", "--output", str(output))
    report = json.loads((quickstart.folder / "run/report.json").read_text())
    again = json.loads(output.read_text())
    for task in report["tasks"]:
        pairs: Sequence[str] = ("auc", "gauc", "r2", "log_loss", "ece")
        for metric in pairs:
            first, second = (r["tasks"][task]["sample_space"][metric] for r in (report, again))
            assert first == pytest.approx(second, abs=1e-6), (task, metric)


def test_a_finished_run_is_not_run_again(quickstart: Quickstart) -> None:
    assert "ranker version 1 holds it already" in quickstart.run("train")
    assert "stays champion" in quickstart.run("promote")


def test_there_is_nothing_to_roll_back_to_after_one_promotion(quickstart: Quickstart) -> None:
    assert "error: registry ranker: no previous champion to roll back to" in quickstart.run("rollback", code=2)
