"""What a campaign found: docs/reliability.json, written after every injection, and the tables made of it."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from ranking.distributed.world import versions
from ranking.tracking.runs import git_revision
from tests.faults.trial import Outcome

HEAD = ("class", "tried", "survived", "lost_rows", "silent_corruptions")


@dataclass
class Report:
    """Outcomes by number, of one seed.

    Attributes:
        seed: of every draw.
        count: injections planned.
        trials: what was injected, and how it ended.
        revisions: of the code that was tried, in order.
    """

    seed: int
    count: int
    trials: dict[int, dict[str, Any]] = field(default_factory=dict)
    revisions: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, file: Path, seed: int, count: int) -> Self:
        """Go on with the file of a campaign of the same seed and count, or begin."""
        content = json.loads(file.read_text()) if file.exists() else {}
        if (content.get("seed"), content.get("count")) != (seed, count):
            return cls(seed, count)
        trials = {each.pop("number"): each for each in content["trials"]}
        return cls(seed, count, trials, content["revision"].split(", ") if trials else [])

    @property
    def done(self) -> set[int]:
        """Numbers that were tried."""
        return set(self.trials)

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Trials that did not survive."""
        return [each for each in self.trials.values() if each["why"]]

    def add(self, number: int, name: str, outcome: Outcome) -> None:
        """Take note of an outcome."""
        self.trials[number] = {"class": name} | asdict(outcome)
        if (revision := git_revision()) not in self.revisions:
            self.revisions.append(revision)

    def content(self, names: list[str]) -> dict[str, Any]:
        """The report as it is published."""
        trials = [{"number": number} | each for number, each in sorted(self.trials.items())]
        return {
            "machine": machine(),
            "revision": ", ".join(self.revisions),
            "command": f"python -m tests.faults.campaign --count {self.count} --seed {self.seed}",
            "seed": self.seed,
            "count": self.count,
            "classes": [self._row(name) for name in names if any(each["class"] == name for each in trials)],
            "figures": self._figures(),
            "trials": trials,
        }

    def write(self, file: Path, names: list[str]) -> None:
        """Replace the file."""
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(self.content(names), indent=1) + "\n")
        draft.replace(file)

    def _row(self, name: str) -> dict[str, Any]:
        own = [each for each in self.trials.values() if each["class"] == name]
        values = (
            name,
            len(own),
            sum(not each["why"] for each in own),
            sum(each["lost_rows"] for each in own),
            sum(each["silent"] for each in own),
        )
        return dict(zip(HEAD, values, strict=True))

    def _figures(self) -> dict[str, Any]:
        timed = [each["recovery"] for each in self.trials.values() if each["recovery"] is not None]
        figures: dict[str, Any] = {"tried": len(self.trials), "survived": len(self.trials) - len(self.failures)}
        if timed:
            figures |= {"recoveries": len(timed), "recovery_s_median": round(statistics.median(timed), 1)}
            figures |= {"recovery_s_max": round(max(timed), 1)}
        return figures


def machine() -> dict[str, Any]:
    """Where it was."""
    return {
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "versions": versions(),
    }


def table(classes: list[dict[str, Any]]) -> str:
    """Markdown: a line a class, and their sum."""
    total = {"class": "all"} | {key: sum(row[key] for row in classes) for key in HEAD[1:]}
    lines = [
        "| fault | tried | survived | lost or repeated rows | silent corruptions |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += ["| " + " | ".join(str(row[key]) for key in HEAD) + " |" for row in [*classes, total]]
    return "\n".join(lines)
