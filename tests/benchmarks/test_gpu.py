"""The script for a day with a GPU, as far as it goes without one, and the tables made of results."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import document, gpu
from ranking.errors import InputError


def options(monkeypatch, *arguments: str):
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments])
    return gpu.arguments()


def test_without_a_gpu_it_says_what_to_pass(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(InputError, match="expected --device cpu"):
        options(monkeypatch)


def test_cases_cover_placements_precisions_and_compilation(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    cases = dict(gpu.settings(options(monkeypatch, "--batch", "4096", "--processes", "8"), tmp_path))
    assert {case.precision for case in cases.values()} == {"fp32", "bf16"}
    assert {case.sections["training"]["matmul"] for case in cases.values()} == {"highest", "high"}
    assert {case.compile for case in cases.values()} == {"", "default", "reduce-overhead"}
    tables = [next(iter(case.sections["schema"]["tables"].values())) for case in cases.values()]
    assert {table["sharding"] for table in tables} == {"table_wise", "row_wise", "table_row_wise", "column_wise"}
    assert all(case.device == "cuda" and case.processes == 8 for case in cases.values())


def test_tiny_on_cpu_asks_for_nothing_that_needs_cuda(monkeypatch, tmp_path) -> None:
    cases = [case for _, case in gpu.settings(options(monkeypatch, "--device", "cpu", "--tiny"), tmp_path)]
    assert {(case.device, case.compile, case.batch) for case in cases} == {("cpu", "", 256)}


def test_documents_show_what_the_results_say(monkeypatch, tmp_path) -> None:
    case = {"unit": "rows/s", "ours": 2000, "other": 1000, "ratio_median": 2.0, "ratio_min": 1.9, "ratio_max": 2.1}
    cases = [{"case": "a: fp32"} | case, {"case": "b: bf16"} | case, {"case": "c", "failed": "out of memory"}]
    machine = {"cpu": "x", "instructions": ["avx2"], "cores": 2, "load_average_before": 0.1}
    (tmp_path / "speed.json").write_text(json.dumps({"machine": machine, "cases": cases}))
    monkeypatch.setattr(document, "RESULTS", tmp_path)
    text = document.filled("before\n<!-- bench speed fp32 -->\nold\n<!-- /bench -->\nafter\n")
    assert "| a: fp32 | rows/s | 2,000 | 1,000 | 2.00 | 1.90-2.10 |" in text
    assert "old" not in text
    assert "b: bf16" not in text
    assert text.startswith("before\n")
    assert text.endswith("<!-- /bench -->\nafter\n")
