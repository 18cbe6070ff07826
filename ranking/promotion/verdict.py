"""The gate's verdict: checks that passed or failed, as a table, as tags and as JSON."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

_LONGEST = 80_000  # characters; MLflow takes 100,000 in a tag of a version


class Check(NamedTuple):
    """One guard.

    Attributes:
        name: `auc` or `r2` against a floor, `auc_change` or `r2_change` against the champion, `calibration`, `ece`,
            `improvement`, `latency`, `size`, `shadow`; `rows`, `task`, `scores`, `support` for what cannot be judged.
        task: the task, "" for the model as a whole.
        passed: whether it holds.
        bound: what is required, as text.
        value: measured; None where it is undefined.
        low: lower end of its interval.
        high: upper end of its interval.
        note: what else there is to say.
        part: the slice of rows it is about, "" for all.
    """

    name: str
    task: str
    passed: bool
    bound: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""
    part: str = ""

    @property
    def measured(self) -> str:
        """Value and interval as text; "undefined" without a value."""
        if self.value is None:
            return "undefined"
        sign = "+" if self.name.endswith("_change") or self.name == "improvement" else ""
        interval = "" if self.low is None else f" [{self.low:{sign}.4f}, {self.high:{sign}.4f}]"
        return f"{self.value:{sign}.4f}{interval}"

    @property
    def subject(self) -> str:
        """Task and slice it is about, "" for the model as a whole."""
        return f"{self.task} @ {self.part}" if self.part else self.task

    @property
    def status(self) -> str:
        """Passed, FAILED, or not judged: a slice with too little support."""
        if self.passed and self.value is None:
            return "not judged"
        return "passed" if self.passed else "FAILED"

    @property
    def reason(self) -> str:
        """Why it does not hold, in one line; "" where it does."""
        if self.passed:
            return ""
        subject, note = f"{self.subject}: " if self.subject else "", f" ({self.note})" if self.note else ""
        return f"{subject}{self.name} {self.measured}, required {self.bound}{note}"


@dataclass(frozen=True)
class Verdict:
    """The checks of one comparison, and what else a reader should know of it."""

    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def promote(self) -> bool:
        """Whether there are checks and all hold."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """Why not, in one line."""
        return "; ".join(check.reason for check in self.checks if not check.passed) or "every check passed"

    def render(self) -> str:
        """A table, one line a check, the notes, and the verdict under it; what failed stands in the table."""
        cells = [["check", "task", "measured", "required", ""]]
        cells += [[c.name, c.subject or "-", c.measured, c.bound, c.status] for c in self.checks]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, "promote" if self.promote else "do not promote"])

    def tags(self) -> dict[str, str]:
        """For the model version: `gate.status`, `gate.reason`, `gate.<check>.<task>` each; of slices what failed."""
        each = {
            _key(check): f"{'passed' if check.passed else 'failed'}: {check.measured}, required {check.bound}"
            for check in self.checks
            if not (check.part and check.passed)
        }
        return {"gate.status": "passed" if self.promote else "failed", "gate.reason": self.reason[:5000], **each}

    def dump(self) -> str:
        """As JSON of a bounded length, which `load` reads: past it, slices that passed are left out."""
        checks = [{key: value for key, value in c._asdict().items() if value not in (None, "")} for c in self.checks]
        text = json.dumps({"promote": self.promote, "checks": checks, "notes": self.notes})
        shorter = tuple(check for check in self.checks if not (check.part and check.passed))
        if len(text) <= _LONGEST or len(shorter) == len(self.checks):
            return text
        return Verdict(shorter, (*self.notes, f"{len(checks) - len(shorter)} slices that passed are left out")).dump()

    @classmethod
    def load(cls, text: str) -> Self:
        """What `dump` wrote."""
        found: dict[str, Any] = json.loads(text)
        return cls(tuple(Check(**{"task": "", **check}) for check in found["checks"]), tuple(found["notes"]))


def _key(check: Check) -> str:
    """MLflow takes letters, digits and a few signs in a tag's name."""
    parts = [check.name, *([check.task] if check.task else []), *([check.part] if check.part else [])]
    return "gate." + re.sub(r"[^\w.\- /]", "_", ".".join(parts))[:240]
