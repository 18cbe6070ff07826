"""The `simulate` command, and the configuration that trains on what it writes."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from pipelines.simulate import main
from ranking.config import load
from ranking.data.manifest import Manifest
from ranking.data.synthetic.impressions import ImpressionsConfig, impressions
from ranking.errors import EXIT_INPUT, EXIT_OK

ROOT = Path(__file__).parents[2]


def simulate(preset: str, output: Path, *settings: str) -> Result:
    return CliRunner().invoke(main, ["--preset", preset, "--output", str(output), *settings])


def test_it_writes_the_rows_asked_for(tmp_path: Path) -> None:
    result = simulate("impressions", tmp_path / "log", "--rows=2000", "--population.users=50", "--days", "2")
    assert result.exit_code == EXIT_OK, result.output
    assert result.stdout == f"wrote 2000 rows to {tmp_path / 'log'}\n"
    manifest = Manifest.build(str(tmp_path / "log"))
    assert manifest.rows == 2000
    assert max(pq.read_table(tmp_path / "log", columns=["user_id"])["user_id"].to_pylist()) < 50


def test_the_workload_is_the_other_preset(tmp_path: Path) -> None:
    assert simulate("workload", tmp_path / "set", "--rows=300", "--file_rows=100").exit_code == EXIT_OK
    assert len(Manifest.build(str(tmp_path / "set")).shards) == 3


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("--rows=0", "rows: got '0'; expected a number greater than or equal to 1"),
        ("--population.users=x", "population.users: got 'x'; expected a valid integer"),
        ("--population.click_rate=0.9", "population.click_rate: got 0.9; expected less than 0.502"),
        ("--rws=3", "command line: --rws: unknown key; did you mean --rows?"),
    ],
)
def test_a_wrong_setting_ends_in_one_line_and_exit_code_2(tmp_path: Path, setting: str, complaint: str) -> None:
    result = simulate("impressions", tmp_path / "log", setting)
    assert result.exit_code == EXIT_INPUT
    assert complaint in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "log").exists()


def test_an_output_that_cannot_be_made_is_named() -> None:
    result = simulate("workload", Path("/dev/null/set"), "--rows=10")
    assert result.exit_code == EXIT_INPUT
    line = "error: --output: cannot make /dev/null: a file is in its place; expected a directory to write to\n"
    assert result.stderr == line


def test_a_data_set_is_replaced_only_on_request(tmp_path: Path) -> None:
    arguments = "workload", tmp_path / "set", "--rows=10"
    assert simulate(*arguments).exit_code == EXIT_OK
    assert "not empty" in simulate(*arguments).stderr
    assert simulate(*arguments, "--overwrite=true").exit_code == EXIT_OK


def test_the_configuration_reads_what_the_defaults_write_and_no_outcome() -> None:
    schema = load([ROOT / "configs/synthetic/impressions.yaml"]).schema
    config = ImpressionsConfig()
    table = next(impressions(config.model_copy(update={"rows": 100, "days": 1})))
    assert set(schema.columns()) <= set(table.column_names)
    assert not {"click", "like", "watch_s", "p_click", "p_like"} & set(schema.feature_columns())
    rows = {name: schema.table(name).rows for name in ("user_id", "item_id", "position", "item_tags_0")}
    people = config.population
    assert list(rows.values()) == [people.users, people.items, people.slate, config.features.cardinality]
