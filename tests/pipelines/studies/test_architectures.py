"""The studies of architectures, end to end in a small size: a log, two models, users; and what their numbers mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from pipelines.studies.architectures.grid import conditional
from pipelines.studies.architectures.summary import over_seeds
from pipelines.study import main
from ranking.metrics import EvaluationReport, Predictions, evaluate_predictions

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.filterwarnings("ignore")  # of MLflow and SQLAlchemy, about their own code

MODELS = ("single_task", "shared_bottom", "mmoe", "esmm")


def study(name: str, folder: Path) -> Result:
    return CliRunner().invoke(main, [name, "-c", str(folder / "study.yaml")])


def tiny(folder: Path) -> dict[str, Any]:
    """The shipped study, smaller: some of its models, twenty steps each."""
    content = yaml.safe_load((ROOT / "configs/synthetic/architectures.yaml").read_text())
    days = folder / "run/log/days"
    content |= {
        "report": str(folder),
        "output": str(folder / "run"),
        "tracking": {
            "uri": f"sqlite:///{folder / 'mlflow.db'}",
            "artifact_location": str(folder / "artifacts"),
            "experiment": "studies",
        },
        "log": {"rows": 28000, "population": {"users": 300, "items": 200, "click_rate": 0.2, "like_rate": 0.2}},
        "traffic": {"users": 40, "candidates": 50},
    }
    content["grid"]["base"] = [str(ROOT / "configs/synthetic/impressions.yaml")]
    content["grid"]["models"] = {name: content["grid"]["models"][name] for name in MODELS}
    content["grid"]["settings"] |= {
        "data": {
            "train": str(days / "day=2024-01-0*/*.parquet"),
            "validation": str(days / "day=2024-01-13/*.parquet"),
            "test": str(days / "day=2024-01-14/*.parquet"),
            "transforms": str(folder / "run/log/transforms"),
            "batch_size": 512,
        },
        "training": {"steps": 20},
        "evaluation": {"every": 10},
    }
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Report directory of both studies; the second finds the first one's models."""
    base: Path = tmp_path_factory.mktemp("architectures")
    (base / "study.yaml").write_text(yaml.safe_dump(tiny(base), sort_keys=False))
    for name in ("impressions", "live"):
        result = study(name, base)
        assert result.exit_code == 0, result.output
    return base


def rows(folder: Path, name: str) -> list[dict]:
    return json.loads((folder / f"{name}.json").read_text())["rows"]


def test_every_model_has_a_row_at_every_n_and_on_the_test_day(folder) -> None:
    found = [(row["model"], row["step"]) for row in rows(folder, "impressions")]
    assert found == [
        *((model, step) for model in MODELS for step in (10, 20)),
        *((model, "test") for model in (*MODELS, "truth")),
    ]


def test_intervals_surround_their_values_and_no_model_passes_the_truth(folder) -> None:
    table = rows(folder, "impressions")
    for row in table:
        assert row["click_auc_low"] < row["click_auc"] < row["click_auc_high"]
    tested = {row["model"]: row["click_auc"] for row in table if row["step"] == "test"}
    assert max(tested, key=tested.__getitem__) == "truth"


def test_the_reference_is_not_compared_with_itself(folder) -> None:
    tested = {row["model"]: row for row in rows(folder, "impressions") if row["step"] == "test"}
    assert "click_gain" not in tested["shared_bottom"]
    difference = tested["mmoe"]["click_auc"] - tested["shared_bottom"]["click_auc"]
    assert tested["mmoe"]["click_gain"] == pytest.approx(difference)


def test_a_finished_run_is_not_trained_again(folder) -> None:
    before = (folder / "run/mmoe-7/report.json").stat().st_mtime_ns
    assert study("live", folder).exit_code == 0
    assert (folder / "run/mmoe-7/report.json").stat().st_mtime_ns == before


def test_ranking_by_the_truth_serves_users_better_than_chance(folder) -> None:
    served = {row["model"]: row for row in rows(folder, "live")}
    assert set(served) == {*MODELS, "truth", "random"}
    assert served["truth"]["engagement_mean"] > served["random"]["engagement_mean"]
    assert served["truth"]["engagement_over_shared_bottom_low0.95"] > 0


def test_reports_show_the_numbers_of_their_json(folder) -> None:
    for name, key in (("impressions", "click_auc"), ("live", "engagement_mean")):
        text = (folder / f"{name}.md").read_text()
        for row in rows(folder, name):
            assert f"{row[key]:.4f}" in text


def predictions(scores: list[list[float]], labels: list[list[int]]) -> Predictions:
    shape = np.ones(np.shape(labels), bool)
    return Predictions(
        names=("click", "like"),
        kinds=("binary", "binary"),
        scores=np.array(scores),
        labels=np.array(labels),
        in_space=shape,
        observed=shape,
        rows=np.arange(len(labels)),
    )


def test_a_conversion_learned_over_all_exposures_is_judged_among_clicks_by_its_conditional_probability() -> None:
    found = conditional(predictions([[0.5, 0.1], [0.8, 0.4], [0.2, 0.2]], [[1, 0], [1, 1], [0, 0]]), ["like"])
    np.testing.assert_allclose(found.scores, [[0.5, 0.2], [0.8, 0.5], [0.2, 1.0]])
    assert found.in_space.tolist() == [[True, True], [True, True], [True, False]]


def report(seed: int, lift: float) -> EvaluationReport:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, (200, 2))
    return evaluate_predictions(
        predictions((labels * lift + draw.random((200, 2))).clip(0, 1).tolist(), labels.tolist()), 1
    )


def test_gains_are_differences_seed_by_seed() -> None:
    reports = {name: {seed: report(seed, lift) for seed in (1, 2, 3)} for name, lift in (("a", 0.1), ("b", 0.4))}
    first, second = over_seeds(reports, "a")
    assert first["click_auc_gain"] == 0
    auc = {name: [found.tasks["click"].sample_space.auc for found in own.values()] for name, own in reports.items()}
    each = np.subtract(auc["b"], auc["a"])
    assert second["click_auc_gain"] == pytest.approx(np.mean(each))
    assert second["click_auc_gain_low"] < min(each) < max(each) < second["click_auc_gain_high"]
    assert second["click_auc_best"] >= second["click_auc_mean"] > first["click_auc_mean"]
