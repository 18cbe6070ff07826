"""One trial: a training job that a fault meets, and its comparison with a job that nothing met."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import torch

from ranking.errors import EXIT_INPUT
from ranking.training.checkpoint import read_tensors
from ranking.training.commits import read_commits
from tests.launch import Ended, Job
from tests.pipelines.test_train import OFFLINE, contents, newest
from tests.workspace import Workspace, build

ROOT = Path(__file__).parents[2]
PATIENCE = 150  # s; for a busy machine, nothing is measured by it
QUICK = ("--training.epochs=2", "--evaluation.every=4")
STEPS = 16
ELASTIC = (
    "--training.epochs=2",
    "--evaluation.every=4",
    "--data.lanes=6",
    "--data.batch_size=120",
    "--evaluation.batch_size=240",
    "--model.dropout=0",
)
"""For worlds of 1, 2 and 3 ranks: dropout would draw other numbers in each."""
ELASTIC_STEPS = 18


class MissedError(Exception):
    """The job was over, or not begun, when the fault came: nothing was tried."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        what: was injected.
        why: it did not survive; empty: it did.
        lost_rows: rows that the final weights have not seen, or have seen twice.
        silent: the job ended well and was wrong.
        recovery: seconds from the fault to the next new step, where a user's command was timed from a cold start.
    """

    what: str
    why: str = ""
    lost_rows: int = 0
    silent: bool = False
    recovery: float | None = None


@dataclass
class Lab:
    """What all trials of a campaign share.

    Attributes:
        folder: for everything that is written.
        quick: nothing is timed, so that no relaunch begins with the imports.
    """

    folder: Path
    quick: bool = False
    stack: ExitStack = field(default_factory=ExitStack)
    references: dict[tuple[int, tuple[str, ...]], Path] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def workspace(self) -> Workspace:
        """Data, transforms and configuration, which no trial changes."""
        return build(self.folder / "workspace")

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """A service that is started when the first trial asks for it."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def reference(self, size: int = 2, settings: tuple[str, ...] = QUICK) -> Path:
        """Folder of an uninterrupted run."""
        if (size, settings) not in self.references:
            folder = self.folder / f"reference-{len(self.references)}"
            folder.mkdir()
            trial = Trial(self, folder, Random(0), settings)
            ended = trial.launch(size=size).wait(PATIENCE)
            assert [each.code for each in ended] == [0] * size, ended[0].err
            self.references[size, settings] = folder
        return self.references[size, settings]


@dataclass
class Trial:
    """A run directory of its own, and everything needed to launch on it again and again.

    Attributes:
        lab: what trials share.
        folder: of this one.
        draw: where every choice comes from.
        settings: overrides of all launches.
    """

    lab: Lab
    folder: Path
    draw: Random
    settings: tuple[str, ...] = QUICK
    launches: int = 0

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.folder / "run"

    @property
    def checkpoints(self) -> Path:
        """Its checkpoints."""
        return self.run / "checkpoints"

    def arguments(self, faults: str, *more: str) -> list[str]:
        """Of `tests.faults.job`."""
        own = self.lab.workspace.arguments(*OFFLINE, f"--output={self.run}", *self.settings, *more)
        return [faults, *own]

    def launch(self, *more: str, faults: str = "", size: int = 2) -> Job:
        """Ranks forked from a server that has imported everything."""
        self.launches += 1
        arguments = self.arguments(faults, *more)
        return Job(self.folder, "tests.faults.job", arguments, size, LAUNCH=str(self.launches))

    def torchrun(self, *more: str, faults: str = "", restarts: int = 0) -> subprocess.Popen[str]:
        """Two ranks under the launcher, from a cold start; stderr goes to a file."""
        self.launches += 1
        command = [sys.executable, "-m", "pipelines.launch", "--standalone", "--nproc-per-node=2"]
        command += [f"--max-restarts={restarts}", "-m", "tests.faults.job", *self.arguments(faults, *more)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "LAUNCH": str(self.launches)}
        with self.said.open("a") as err:
            return subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=err, text=True
            )

    @property
    def said(self) -> Path:
        """What launchers wrote to stderr."""
        return self.folder / "torchrun.err"

    def steps(self, launch: int | None = None) -> list[tuple[str, dict[str, Any]]]:
        """(launch-attempt, record) of every step a rank took, in the order of the files."""
        found = []
        for file in sorted((self.folder / "steps").glob("*.jsonl")):
            group, _, _ = file.stem.rpartition("-")
            if launch is None or int(group.split("-")[0]) == launch:
                lines = [line for line in file.read_text().split("\n")[:-1] if line]
                found += [(group, json.loads(line)) for line in lines]
        return found

    def reached(self, launch: int) -> int:
        """The last step any rank took in a launch, -1 before the first."""
        return max((record["step"] for _, record in self.steps(launch)), default=-1)

    def lineage(self) -> dict[int, list[dict[str, Any]]]:
        """By step the records that the final state is made of: who resumes at a step replaces all from there on."""
        kept: dict[int, list[dict[str, Any]]] = {}
        groups: dict[str, list[dict[str, Any]]] = {}
        for group, record in self.steps():
            groups.setdefault(group, []).append(record)
        for _, records in sorted(groups.items()):
            first = min(record["step"] for record in records)
            kept = {step: found for step, found in kept.items() if step < first}
            for record in records:
                kept.setdefault(record["step"], []).append(record)
        return kept

    def await_step(self, job: Job, step: int, delay: float) -> None:
        """Return `delay` seconds after a rank took a step of the latest launch."""
        deadline = time.monotonic() + PATIENCE
        while self.reached(self.launches) < step:
            if not all(rank.is_alive() for rank in job.ranks) or time.monotonic() > deadline:
                raise MissedError(f"the job ended before step {step}")
            time.sleep(0.002)
        time.sleep(delay)

    def compared(self, what: str, reference: Path, recovery: float | None = None, report: bool = True) -> Outcome:
        """The verdict on a run that says it is done; its report is left out where the best checkpoint is another."""
        expected = Trial(self.lab, reference, self.draw).lineage()
        lost = rows_apart(expected, self.lineage())
        apart = difference(self.run, reference / "run", report)
        why = apart or (f"{lost} rows lost or repeated" if lost else "")
        return Outcome(what, why, lost, silent=bool(apart), recovery=recovery)

    def again(self, what: str, report: bool = True) -> Outcome:
        """The user repeats the command; it must end as if nothing had been."""
        ended = self.launch().wait(PATIENCE)
        if any(each.code for each in ended):
            return Outcome(what, f"the same command ended with {codes(ended)}: {complaint(ended)}")
        return self.compared(what, self.lab.reference(settings=self.settings), report=report)


def rows_apart(expected: dict[int, list[dict[str, Any]]], found: dict[int, list[dict[str, Any]]]) -> int:
    """Rows lost or taken too often, step by step."""
    apart = 0
    for step in expected.keys() | found.keys():
        one, other = (Counter(row for part in each.get(step, []) for row in part["rows"]) for each in (expected, found))
        apart += ((one - other) + (other - one)).total()
    return apart


def difference(run: Path, reference: Path, report: bool = True) -> str:
    """What of the last checkpoint, the metrics or the report is not bit-identical; empty: nothing."""
    (found, progress), (expected, wanted) = (contents(path, newest(path)) for path in (run, reference))
    odd = [name for name in sorted(expected.keys() | found.keys()) if not _equal(found.get(name), expected.get(name))]
    odd += [f"progress/{key}" for key in wanted if key != "config" and progress.get(key) != wanted[key]]
    one, other = (json.loads((path / "report.json").read_text()) for path in (run, reference))
    told = [key for key in other if key != "checkpoint" and report]
    odd += [f"report/{key}" for key in told if one.get(key) != other[key]]
    return f"differs from the uninterrupted run in {len(odd)} parts: {', '.join(odd[:3])}" if odd else ""


def _equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)


def codes(ended: list[Ended]) -> list[int]:
    """Exit codes of all ranks."""
    return [each.code for each in ended]


def complaint(ended: list[Ended]) -> str:
    """The line the user reads, or the end of what there is."""
    errors = [line for each in ended for line in each.errors]
    return errors[0] if errors else " | ".join(each.err[-300:] for each in ended)


def refusal(ended: list[Ended], *words: str, code: int = EXIT_INPUT) -> str:
    """What is wrong with how a job refused its input: it must be the exit code and one line that holds the words."""
    errors = [line for each in ended for line in each.errors]
    if codes(ended) != [code] * len(ended) or len(errors) != 1:
        return f"ended with {codes(ended)} and {len(errors)} lines: {complaint(ended)}"
    missing = [word for word in words if word not in errors[0]]
    return f"the line does not name {missing[0]}: {errors[0]}" if missing else ""


def not_finite(checkpoints: Path) -> str:
    """The first parameter of any commit that is not finite; empty: none."""
    for commit in read_commits(checkpoints):
        for name, tensor in read_tensors(checkpoints, commit).items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                return f"{name} at step {commit.step} is not finite"
    return ""
