"""A study's JSON: the form the project promises, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.studies.record import Record
from ranking.errors import InputError


@pytest.fixture
def record(monkeypatch) -> Record:
    monkeypatch.setattr("sys.argv", ["study.py", "synthetic", "--models.runs=8"])
    return Record.of([{"model": "mmoe", "p": 0.5, "runs": 8, "loss_mean": 0.25}, {"model": "omoe", "p": 1, "runs": 8}])


def test_it_says_what_was_run_where_and_what_came_out(record, tmp_path: Path) -> None:
    record.write(tmp_path / "new" / "study.json")
    content = json.loads((tmp_path / "new" / "study.json").read_text())
    assert list(content) == ["command", "revision", "machine", "rows"]
    assert content["command"] == "python -m pipelines.study synthetic --models.runs=8"
    assert "torch" in content["machine"]
    assert content["rows"][0] == {"model": "mmoe", "p": 0.5, "runs": 8, "loss_mean": 0.25}


def test_it_is_read_as_it_was_written(record, tmp_path: Path) -> None:
    record.write(tmp_path / "study.json")
    assert Record.read(tmp_path / "study.json") == record


def test_a_row_is_a_line(record, tmp_path: Path) -> None:
    record.write(tmp_path / "study.json")
    lines = (tmp_path / "study.json").read_text().splitlines()
    assert [json.loads(line.rstrip(","))["model"] for line in lines if line.startswith('{"')] == ["mmoe", "omoe"]


def test_a_number_that_json_lacks_is_never_written(record, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Record.of([{"loss_mean": float("nan")}]).write(tmp_path / "study.json")
    assert not (tmp_path / "study.json").exists()


def test_a_file_that_is_missing_or_something_else_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"study\.json: no such file; expected the results of a study"):
        Record.read(tmp_path / "study.json")
    (tmp_path / "study.json").write_text("[]")
    with pytest.raises(InputError, match=r"study\.json: not the results of a study"):
        Record.read(tmp_path / "study.json")
