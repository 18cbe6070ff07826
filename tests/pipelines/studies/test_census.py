"""`study census`, from the publisher's rows to its report, in a size of seconds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from pipelines.studies.census.config import CensusStudyConfig
from pipelines.studies.census.findings import FINDINGS, Verdict, difference, mean
from pipelines.study import main
from ranking.config import read
from ranking.errors import InputError
from tests.data.recipes.test_census import people

ROOT = Path(__file__).parents[3]
MODELS = [
    "mmoe",
    "mmoe_rates",
    "mmoe_trees",
    "omoe",
    "shared_bottom",
    "single_task",
    "l2_constrained",
    "cross_stitch",
    "tensor_factorization",
]
TINY = {"common": {"batch_size": 64, "average": 0.9}, "runs": 4, "together": 2}
pytestmark = pytest.mark.filterwarnings("ignore")  # of optuna's experimental sampler


def source(directory: Path) -> Path:
    """Rows whose labels follow from age and sex, with noise."""
    draw = np.random.default_rng(0)
    for name, rows in (("train", 640), ("test", 400)):
        table = people(rows)
        table["age"], table["sex"] = draw.integers(0, 90, rows), draw.choice(["Female", "Male"], rows)
        older = table["age"] + 20 * (table["sex"] == "Male") + draw.normal(0, 10, rows) > 50
        table["income_50k"] = np.where(older, "50000+.", "- 50000.")
        table["marital_stat"] = np.where(table["age"] + draw.normal(0, 10, rows) < 30, "Never married", "Widowed")
        table["education"] = np.where(older ^ (draw.random(rows) < 0.1), "Doctorate degree(PhD EdD)", "Children")
        table.to_parquet(directory / f"{name}.parquet")
    return directory


def study(base: Path, *arguments: str) -> Result:
    files = [part for name in ("study", "fast") for part in ("-c", str(ROOT / f"configs/census/{name}.yaml"))]
    (base / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    files += ["-c", str(base / "tiny.yaml")]
    places = [f"--source={base}", f"--report={base / 'report'}", f"--output={base / 'output'}", "--no-track"]
    return CliRunner().invoke(main, ["census", *files, *places, *arguments])


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Directory of a study of the mixtures that stopped after one group, and of one that then did the rest."""
    directory = source(tmp_path_factory.mktemp("census"))
    first = study(directory, "--group", "education", "--model", "mmoe")
    assert first.exit_code == 0, first.output
    (directory / "early.md").write_text((directory / "report/census.md").read_text())
    (directory / "early.json").write_text((directory / "output/cells/education-mmoe.json").read_text())
    whole = study(directory)
    assert whole.exit_code == 0, whole.output
    return directory


@pytest.fixture(scope="module")
def rows(base: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((base / "report/census.json").read_text())["rows"]
    return found


def test_every_model_runs_in_both_groups(rows) -> None:
    cells = [row for row in rows if row["part"] == "runs"]
    assert [(row["group"], row["model"]) for row in cells] == [(group, model) for group in (1, 2) for model in MODELS]
    for row in cells:
        main = {1: "income", 2: "education"}[row["group"]]
        values = row[f"{main}_runs"]
        both = set(zip(values, row["marital_runs"], strict=True))
        assert len(both) == row["runs"] == 4  # each from weights of its own; one AUC of so few rows can be another's
        assert row[f"{main}_best"] == pytest.approx(max(values), abs=1e-5)
        assert row[f"{main}_mean"] == pytest.approx(np.mean(values), abs=1e-5)
        assert row[f"{main}_std"] == pytest.approx(np.std(values, ddof=1), abs=1e-5)
        assert row["marital_with_best"] == pytest.approx(row["marital_runs"][int(np.argmax(values))], abs=1e-5)
        assert (row["pool"], len(row[f"{main}_pooled_runs"])) == (2, 2)
        assert row["trials"] == 2


def test_what_was_learned_beats_chance(rows) -> None:
    for row in rows:
        if row["part"] == "runs":
            assert row["income_mean" if row["group"] == 1 else "education_mean"] > 0.6, row["model"]


def test_finished_runs_are_kept_and_an_unfinished_report_says_so(base) -> None:
    early, text = (base / "early.json").read_text(), (base / "early.md").read_text()
    assert (base / "output/cells/education-mmoe.json").read_text() == early
    assert "Unfinished: 17 of 18 cells" in text
    assert "not run yet" in text
    assert "Unfinished" not in (base / "report/census.md").read_text()


def test_cells_of_an_earlier_report_stay_in_it_under_their_revision(base) -> None:
    report = base / "elsewhere/report"
    report.mkdir(parents=True)
    (report / "census.json").write_text(
        (base / "report/census.json").read_text().replace('"revision": "', '"revision": "old')
    )
    result = study(base, "--group", "income", "--model", "omoe", f"--report={report}", f"--output={report.parent}")
    assert result.exit_code == 0, result.output
    found = json.loads((report / "census.json").read_text())
    revisions = {(row["group"], row["model"]): row["revision"] for row in found["rows"] if row["part"] == "runs"}
    assert len(revisions) == 18
    assert [cell for cell, revision in revisions.items() if not revision.startswith("old")] == [(1, "omoe")]
    assert "Unfinished" not in (report / "census.md").read_text()
    more = study(base, "--runs=5", "--group=income", "--model=omoe", f"--report={report}", f"--output={report.parent}")
    assert more.exit_code == 0, more.output
    assert "Unfinished: 17 of 18 cells" in (report / "census.md").read_text()


def test_more_runs_are_added_to_those_there(base) -> None:
    before = json.loads((base / "output/cells/income-omoe.json").read_text())
    copy = base / "more"
    result = study(base, "--runs=5", "--group", "income", "--model", "omoe", f"--report={copy}")
    assert result.exit_code == 0, result.output
    after = json.loads((base / "output/cells/income-omoe.json").read_text())
    assert after["test"][:4] == before["test"]
    assert len(after["test"]) == 5


def test_the_report_shows_the_numbers_of_the_json_and_figures_that_exist(base, rows) -> None:
    text = (base / "report/census.md").read_text()
    for row in rows:
        if row["part"] == "runs":
            main = {1: "income", 2: "education"}[row["group"]]
            assert f"{row[f'{main}_mean']:.4f} ± {row[f'{main}_std']:.4f}" in text
    figures = re.findall(r"\]\((\w+\.png)\)", text)
    assert figures == ["census_income.png", "census_education.png"]
    assert all((base / "report" / name).read_bytes().startswith(b"\x89PNG") for name in figures)


def test_every_finding_is_judged(rows) -> None:
    judged = {(row["finding"], row["group"]) for row in rows if row["part"] == "findings"}
    assert judged == {(finding, group) for finding in FINDINGS for group in (1, 2)}


def test_models_read_what_the_recipe_makes_of_their_main_label_as_the_configuration_says() -> None:
    config = read(CensusStudyConfig, [ROOT / "configs/census/study.yaml"])
    assert {model for model in config.models if config.made(model)} == {"mmoe_rates", "mmoe_trees"}
    for group, label in (("income", "income_50k"), ("education", "college")):
        plain, rates, trees = (config.schema_of(group, config.made(f"mmoe{name}")) for name in ("", "_rates", "_trees"))
        added = [{number.name for number in more.dense[len(plain.dense) :]} for more in (rates, trees)]
        assert added[0] == set(config.recipe.rates.columns(label))
        assert added[1] == added[0] | set(config.recipe.trees.columns(label))
        assert rates.categorical == trees.categorical == plain.categorical


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("recipe: {trees: {labels: [college]}}", r"recipe.trees.labels: got \['college'\]; expected 'income_50k'"),
        ("recipe: {rates: null}", r"recipe.rates.labels: got None; expected 'income_50k'"),
        ("reads: {mmoe_rates: []}", r"reads.mmoe_rates"),
        ("reads: {mmoe_rates: [rates, rates]}", r"reads.mmoe_rates: got \['rates', 'rates'\]; expected each once"),
        ("reads: {mmoe_all: [rates]}", r"reads: got \['mmoe_all'\]; expected some of"),
    ],
)
def test_what_a_model_cannot_read_is_refused(overlay: str, message: str, tmp_path) -> None:
    (tmp_path / "other.yaml").write_text(overlay)
    with pytest.raises(InputError, match=message):
        read(CensusStudyConfig, [ROOT / "configs/census/study.yaml", tmp_path / "other.yaml"])


def test_the_report_says_which_models_read_more_and_what_the_trees_say_alone(base, rows) -> None:
    text = (base / "report/census.md").read_text()
    assert "- MMoE with rates, MMoE with rates and trees: for 68 columns" in text
    assert "- MMoE with rates and trees: the main label's log-odds" in text
    for row in (row for row in rows if row["part"] == "runs"):
        main = {1: "income", 2: "education"}[row["group"]]
        assert (f"{main}_trees_test" in row) == (row["model"] == "mmoe_trees")
        if row["model"] == "mmoe_trees":
            assert row[f"{main}_trees_test"] > 0.6
            assert f"{row[f'{main}_trees_validation']:.4f} on validation and {row[f'{main}_trees_test']:.4f}" in text


def test_runs_on_rows_of_another_recipe_are_made_anew(base, tmp_path) -> None:
    arguments = ["--group=income", "--model=mmoe_trees", "--runs=2", f"--output={tmp_path}", f"--report={tmp_path}"]
    cells = []
    for trees in ("{iterations: 50}", "{iterations: 50}", "{iterations: 2}"):
        (base / "trees.yaml").write_text(f"recipe: {{trees: {trees}}}")
        result = study(base, "-c", str(base / "trees.yaml"), *arguments)
        assert result.exit_code == 0, result.output
        cells.append(json.loads((tmp_path / "cells/income-mmoe_trees.json").read_text()))
    first, same, other = cells
    assert first == same
    assert first["digest"] != other["digest"]
    assert first["test"] != other["test"]


def test_a_finding_holds_only_with_its_whole_interval() -> None:
    assert Verdict(2.0, 1.5, 2.5, 1.0).text == "holds"
    assert Verdict(2.0, 0.5, 3.5, 1.0).text == "open"
    assert Verdict(0.5, 0.2, 0.8, 1.0).text == "refuted"


def test_intervals_are_students_and_welchs() -> None:
    assert mean([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 2.4841, 2 + 2.4841), abs=1e-3)
    assert difference([1.0, 2.0, 3.0], [0.0, 1.0, 2.0]) == pytest.approx((1.0, 1 - 2.2668, 1 + 2.2668), abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "ple"], r"--model: got \['ple'\]; expected some of"),
        (["--runs=1"], "runs: got '1'"),
        (["--tuner.trials=0"], "tuner.trials: got '0'"),
    ],
)
def test_a_wrong_setting_ends_in_one_line(base, arguments, message) -> None:
    result = study(base, *arguments)
    assert result.exit_code == 2
    assert re.fullmatch(f"error: .*{message}.*\n", result.stderr), result.stderr


def test_every_setting_that_the_tuner_may_draw_is_one_of_the_models() -> None:
    config = read(CensusStudyConfig, [ROOT / "configs/census/study.yaml"])
    drawn = {"model.ranks.0": 64, "model.ranks.2": 1}
    assert config.cell("income", "tensor_factorization", drawn).model.ranks == (64, 32, 1)
    for wrong in ("model.ranks.3", "model.stages.0", "model.tower.width"):
        with pytest.raises(ValueError, match=f"{wrong}: no such setting"):
            config.cell("income", "tensor_factorization", {wrong: 1})
    space = json.dumps({"mmoe": {"model.stages.0": {"low": 1, "high": 2}}})
    with pytest.raises(InputError, match=r"model\.stages\.0: no such setting"):
        read(CensusStudyConfig, [ROOT / "configs/census/study.yaml"], [f"--spaces={space}"])
