"""Fills docs/reliability.md from what commands wrote: `make faults`, `make bench`. Run `python docs/reliability.py`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE, CAMPAIGN, RESULTS = ROOT / "docs/reliability.md", ROOT / "docs/reliability.json", ROOT / "benchmarks/results"
FUZZ = ROOT / "docs/fuzz.json"
SAVE_EVERY, FAULT_EVERY = 120, 1800
"""Seconds between two checkpoints, and between two faults, that shares of time are said for."""
MISSING = "not measured yet"


def campaign(found: dict[str, Any]) -> str:
    """The table of the campaign, and where it comes from."""
    if not found:
        return "(`docs/reliability.json` is missing: `make faults` writes it)"
    head = ("fault", "tried", "survived", "lost or repeated rows", "silent corruptions")
    keys = ("class", "tried", "survived", "lost_rows", "silent_corruptions")
    total = {"class": "**all**"} | {key: sum(row[key] for row in found["classes"]) for key in keys[1:]}
    lines = [_row(head), "| --- | ---: | ---: | ---: | ---: |"]
    lines += [_row([row[key] for key in keys]) for row in [*found["classes"], total]]
    machine = found["machine"]
    place = f"{machine['cores']} cores, load {machine['load_average']}, torch {machine['versions']['torch']}"
    return "\n".join([*lines, "", f"`{found['command']}` at revision {found['revision']}: {place}."])


def figures(found: dict[str, Any]) -> str:
    """What was wanted, predicted and measured."""
    own = found.get("figures", {})
    lines = [_row(("figure", "wanted", "predicted", "measured")), "| --- | --- | --- | --- |"]
    survived = f"{own['survived']} of {own['tried']}" if own else MISSING
    lines.append(_row(("injections survived", "all of 500", "all", survived)))
    lines.append(_row(("mutated inputs that end as they must", "all of 10,000", "all", _fuzzed())))
    lines.append(_row(("training stands still for checkpoints", "<= 1 %", "0.4 %", _stall())))
    recovery = own.get("recovery_s_median")
    said = f"median {recovery} s, at most {own['recovery_s_max']} s of {own['recoveries']}" if recovery else MISSING
    lines.append(_row(("recovery, from the fault to the next new step", "-", "10 s", said)))
    lines.append(_row(("goodput at one fault per 30 minutes", ">= 95 %", _goodput(10), _goodput(recovery))))
    return "\n".join([*lines, _row(("page checksums, of read throughput", "<= 3 %", "2 %", _checksums()))])


def _fuzzed() -> str:
    if not FUZZ.exists():
        return MISSING
    total = json.loads(FUZZ.read_text())["classes"][-1]
    return f"{total['tried'] - total['failures']:,} of {total['tried']:,}"


def _goodput(recovery: float | None) -> str:
    if recovery is None:
        return MISSING
    return f"{1 - (recovery + SAVE_EVERY / 2) / FAULT_EVERY:.1%}"


def _stall() -> str:
    cases = [case for case in _cases("checkpoint") if case["case"].startswith("stall, async")]
    return f"{cases[-1]['ours'] / SAVE_EVERY:.2%} ({cases[-1]['case'].rsplit(', ', 1)[1]})" if cases else MISSING


def _checksums() -> str:
    cases = _cases("checksums")
    if not cases:
        return MISSING
    costs = {case["case"].split(",")[0]: 1 - case["ratio_median"] for case in cases}
    each = "; ".join(f"{cost:.1%} {kind}" for kind, cost in costs.items())
    return f"{sum(costs.values()) / len(costs):.1%} in the mean ({each})"


def _cases(name: str) -> list[dict[str, Any]]:
    content: dict[str, Any] = _read(RESULTS / f"{name}.json")
    return content.get("cases", [])  # type: ignore[no-any-return]


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}


def _row(cells: Any) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def filled(text: str) -> str:
    """The page with its generated parts up to date."""
    found = _read(CAMPAIGN)
    for name, content in {"campaign": campaign(found), "figures": figures(found)}.items():
        pattern = rf"(<!-- {name}:[^>]*-->\n).*?(\n<!-- /{name} -->)"
        text = re.sub(pattern, lambda match, content=content: match[1] + content + match[2], text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
