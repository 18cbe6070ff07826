"""The cost model: what a rank sends, counted by hand."""

from __future__ import annotations

import json

import pytest

from benchmarks import document, harness
from benchmarks.scaling import Traffic, on_paper


def test_a_rank_sends_what_belongs_elsewhere() -> None:
    traffic = Traffic.of(size=4, rows=100, parameters=1000)
    assert traffic.ids == 75 * 4 * (20 + 27)  # of 100 rows, 75 are of tables elsewhere: lengths, and ids
    assert traffic.vectors == 75 * 4 * 320 * 2  # there and, as gradients, back
    assert traffic.gradients == 2 * 0.75 * 4 * 1000
    assert traffic.total == traffic.ids + traffic.vectors + traffic.gradients


def test_one_rank_sends_nothing_and_many_approach_a_limit() -> None:
    assert Traffic.of(1, 100, 1000).total == 0
    totals = [Traffic.of(size, 100, 1000).total for size in (2, 4, 8, 1_000_000)]
    assert totals == sorted(totals)
    assert totals[-1] == pytest.approx(2 * totals[0])


def test_the_paper_is_a_table_of_the_document(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(document, "RESULTS", tmp_path)
    harness.report("scaling", harness.machine(), {}, [], paper=on_paper(1024))
    assert [row["ranks"] for row in json.loads((tmp_path / "scaling.json").read_text())["paper"]] == [2, 4, 8, 16, 64]
    lines = document.table("scaling", "").splitlines()
    assert lines[3] == "| ranks | rows a rank | ids | vectors | gradients | ms |"
    assert lines[5].startswith("| 2 | 1,024 | ")
