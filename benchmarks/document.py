"""Copies benchmarks/results/*.json into the tables of README.md and docs/performance.md; `make bench` ends with it.

A table stands between `<!-- bench <name> [<regular expression>] -->` and `<!-- /bench -->`; the expression keeps the
cases it is found in.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS

FILES = ("README.md", "docs/performance.md")
_BLOCK = re.compile(r"(<!-- bench (\S+)( [^>]*?)? -->\n).*?(<!-- /bench -->)", re.DOTALL)


def table(name: str, wanted: str) -> str:
    """A Markdown table of the cases, and a line that says where they come from."""
    file = RESULTS / f"{name}.json"
    if not file.exists():
        return f"(`benchmarks/results/{name}.json` is missing: `make bench` writes it)\n"
    content = json.loads(file.read_text())
    lines = ["| case | unit | ours | other | ratio | spread |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    lines += [_row(case) for case in content["cases"] if "ours" in case and re.search(wanted, case["case"])]
    if content.get("paper"):
        lines += ["", *_paper(content["paper"])]
    machine = content["machine"]
    processor = " with ".join([machine["cpu"], *machine["instructions"][-1:]])
    said = f"{processor}, {machine['cores']} cores, load {machine['load_average_before']} before the run"
    return "\n".join([*lines, "", f"{said}; `benchmarks/results/{name}.json`.", ""])


def filled(text: str) -> str:
    """The text with its tables up to date."""
    return _BLOCK.sub(lambda found: found[1] + table(found[2], (found[3] or "").strip()) + found[4], text)


def _paper(rows: list[dict[str, Any]]) -> list[str]:
    """What was computed rather than measured."""
    heads = list(rows[0])
    lines = [f"| {' | '.join(heads)} |", "| " + " | ".join(["---:"] * len(heads)) + " |"]
    return lines + [f"| {' | '.join(f'{value:,}' for value in row.values())} |" for row in rows]


def _row(case: dict[str, Any]) -> str:
    name = case["case"].replace("|", "/")
    digits = 4 if case["unit"] == "AUC" else 2
    low, middle, high = (f"{case[key]:.{digits}f}" for key in ("ratio_min", "ratio_median", "ratio_max"))
    return f"| {name} | {case['unit']} | {case['ours']:,} | {case['other']:,} | {middle} | {low}-{high} |"


if __name__ == "__main__":
    for file in map(Path, FILES):
        if file.exists():
            file.write_text(filled(file.read_text()))
