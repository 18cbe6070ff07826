"""`study synthetic`, from the command line to its report, in a size of seconds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import mlflow
import pytest
from typer.testing import CliRunner, Result

from pipelines.study import main

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore")  # of MLflow and SQLAlchemy, about their own code

TINY = [
    "--labels.points=400",
    "--labels.repeats=4",
    "--relatedness.steps=20",
    "--models.steps=20",
    "--relatedness.runs=8",
    "--law.dimensions=20",
]


def study(*arguments: str) -> Result:
    files = [part for name in ("study", "fast") for part in ("-c", str(ROOT / f"configs/synthetic/{name}.yaml"))]
    return CliRunner().invoke(main, ["synthetic", *files, *arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Report directory of one tracked run."""
    base: Path = tmp_path_factory.mktemp("study")
    settings = [f"--report={base}", f"--output={base / 'run'}", f"--tracking.uri=sqlite:///{base / 'mlflow.db'}"]
    result = study(*TINY, *settings, f"--tracking.artifact_location={base / 'artifacts'}")
    assert result.exit_code == 0, result.output
    return base


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict]:
    return json.loads((folder / "synthetic.json").read_text())["rows"]


def test_every_model_is_measured_at_every_p(rows) -> None:
    cells = [row for row in rows if row["part"] == "models"]
    assert [(row["model"], row["p"]) for row in cells] == [
        (model, p) for p in (0.5, 0.9, 1) for model in ("shared_bottom", "omoe", "mmoe")
    ]
    for row in cells:
        runs = row["loss_runs"][str(row["learning_rate"])]
        assert len(runs) == row["runs"] == 8
        assert row["loss_best"] == pytest.approx(min(runs), rel=1e-4)
        assert row["loss_mean"] == pytest.approx(sum(runs) / 8, rel=1e-4)
        assert row["loss_std"] > 0
        assert row["loss_mean"] == pytest.approx(min(sum(values) / 8 for values in row["loss_runs"].values()), rel=1e-4)


def test_training_lowers_the_loss(rows) -> None:
    for row in rows:
        if row["part"] == "models":
            assert row["curve_step"][-1] == 20
            assert row["curve_loss_mean"][-1] < row["curve_loss_mean"][0]


def test_linear_labels_correlate_as_p(rows) -> None:
    found = {row["p"]: row["pearson_mean"] for row in rows if row["part"] == "labels" and "linear" in row["model"]}
    assert found == pytest.approx({p: p for p in found}, abs=0.1)


def test_every_finding_is_judged(rows) -> None:
    judged = {row["finding"] for row in rows if row["part"] == "findings"}
    assert judged == {"labels", "relatedness", "a", "b", "c", "d", "e", "f"}


def test_the_report_shows_the_numbers_of_the_json_and_figures_that_exist(folder, rows) -> None:
    text = (folder / "synthetic.md").read_text()
    for row in rows:
        if row["part"] == "models":
            assert f"{row['loss_mean']:.4f} ± " in text
    figures = re.findall(r"\]\((\w+\.png)\)", text)
    assert len(figures) == 4
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in figures)


def test_the_report_can_be_written_again_without_training(folder) -> None:
    before = (folder / "synthetic.json").read_text(), (folder / "synthetic.md").read_text()
    (folder / "synthetic.md").unlink()
    result = study(*TINY, f"--report={folder}", "--render", "--no-track")
    assert result.exit_code == 0, result.output
    assert ((folder / "synthetic.json").read_text(), (folder / "synthetic.md").read_text()) == before


def test_it_is_tracked(folder, rows) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("studies")
    (run,) = client.search_runs([experiment.experiment_id])
    cell = next(row for row in rows if row["model"] == "mmoe" and row["p"] == 0.5)
    assert run.data.metrics["models/mmoe/p0.5/loss_mean"] == pytest.approx(cell["loss_mean"])
    assert len(client.get_metric_history(run.info.run_id, "models/mmoe/p0.5/loss")) == 10
    assert run.data.params["models.steps"] == "20"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--models.stepz=3", "models.stepz"),
        ("--models.runs=1", "models.runs: got '1'; expected a number greater than or equal to 8"),
        ("--models.points=7", "models: points: got 7; expected a divisor of steps, 200"),
        ("--law.beta=[0]", "law: beta: got 1 phases; expected one for each of 3 alpha"),
        ("--models.p=[1]", "models: expected at least shared_bottom, omoe, mmoe at two values of p"),
    ],
)
def test_a_wrong_setting_ends_in_one_line(override, message) -> None:
    result = study(override)
    assert result.exit_code == 2
    assert re.fullmatch(f"error: .*{message}.*\n", result.stderr), result.stderr


def test_without_a_file_it_is_the_full_study(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(main, ["synthetic", "--models.runs=1"])
    assert result.stderr.startswith("error: configs/synthetic/study.yaml: models.runs: got '1'")


def test_an_unknown_study_is_refused() -> None:
    assert CliRunner().invoke(main, ["nothing"]).exit_code == 2
