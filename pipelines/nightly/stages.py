"""The stages of a night, each from what the one before committed to what it commits itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path

from pipelines.champion_challenger import read_pinned, score_both
from pipelines.job import Command, say
from pipelines.nightly.day import Reference, examine, is_there, manifest, profile, wait
from pipelines.nightly.judge import duels
from pipelines.nightly.night import DayReport, Night, NightPlan, Outcome, Stage, nights
from pipelines.nightly.retention import has_checkpoints
from pipelines.nightly.worker import train
from pipelines.prepare import prepare
from pipelines.promote import promote
from pipelines.report import read_report
from pipelines.run_directory import pinned
from ranking.config import RunConfig
from ranking.data.findings import Finding
from ranking.data.profile import Profile
from ranking.data.transforms import Transforms
from ranking.errors import InputError
from ranking.promotion.audit import Decision
from ranking.promotion.registry import Registry, RegistryError, VersionEntry
from ranking.tracking.delivery import RunIdentity

log = logging.getLogger(__name__)

_OUTCOMES: dict[str, Outcome] = {"rejected": "not_better", "declined": "not_better", "nominated": "waiting"}
"""What a decision makes of a night; every other one made its version champion."""


@dataclass(frozen=True)
class Stages:
    """What one night does.

    Attributes:
        day: the logical date.
        config: of the job, the same for every date.
        command: how to call other jobs with it.
    """

    day: date
    config: RunConfig
    command: Command

    @property
    def folder(self) -> Path:
        """The night's directory."""
        return self.config.output / self.day.isoformat()

    @cached_property
    def registry(self) -> Registry:
        """Where champion and challenger are kept."""
        return Registry(self.config.tracking.uri, self.config.registry.name)

    def after(self, stage: Stage) -> tuple[Stage, Callable[[Night], Night]]:
        """The stage that follows one, and what does it."""
        steps: dict[Stage, tuple[Stage, Callable[[Night], Night]]] = {
            "begun": ("examined", self.examine),
            "examined": ("prepared", self.prepare),
            "prepared": ("trained", self.train),
            "trained": ("judged", self.judge),
            "judged": ("decided", self.decide),
        }
        return steps[stage]

    def examine(self, night: Night) -> Night:
        """Wait for the day, look at it, and settle which days do what."""
        if not wait(self.day, self.config):
            waited = f"not there after {self.config.retrain.wait_s:g} s: {self.config.retrain.url(self.day)}"
            return _bad(night, DayReport(findings=(Finding(level="error", where="partition", message=waited),)))
        reference = self._reference()
        days = self.usable()
        report = examine(self.day, days[:-1], self.config, reference)
        if report.errors:
            return _bad(night, report)
        return night.model_copy(update={"data": report, "plan": self.plan(days, reference)})

    def prepare(self, night: Night) -> Night:
        """Fit the transforms on the days before the validating one, and keep what those looked like."""
        assert night.plan
        urls = [self.config.retrain.url(day) for day in night.plan.window]
        config = self.command.load([*self._overrides(night), f"--data.train={json.dumps(urls)}"])
        prepare(config.model_copy(update={"prepare": None}))
        transforms = Transforms.load(config.data.transforms, config.schema)
        found = manifest(night.plan.window, config)
        profile(found, transforms, config).save(self.folder / "profile")
        return night

    def train(self, night: Night) -> Night:
        """Train and register a challenger in processes of their own."""
        train(self.command.arguments(self._overrides(night)), self.config.retrain.processes)
        identity = RunIdentity.load(self.folder / "run" / "tracking")
        run_id = identity.run_id if identity else ""
        entry = self._entry(run_id)
        gates = read_report(self.folder / "run" / "report.json").gates
        return night.model_copy(update={"run_id": run_id, "version": entry.version, "gates": gates})

    def judge(self, night: Night) -> Night:
        """Score challenger and champion on the judging day."""
        config = self.configuration(night)
        rows = read_pinned(pinned(config), config)
        champion = self.registry.champion()
        if champion == night.version:  # promoted by a process that died before it could commit
            champion = self._entry(night.run_id).replaces
        assert night.version
        both = score_both(self.registry, night.version, champion, rows, config)
        return night.model_copy(update={"champion": champion, "duels": duels(both, config)})

    def decide(self, night: Night) -> Night:
        """Let the gate decide on the night's own version, and move the aliases; a decision made before stands.

        Whichever is challenger by now may have trained on the rows that judge this one.
        """
        version = self._entry(night.run_id).version
        if any(decision.moves and not decision.settled for decision in self._decisions(version)):
            self.registry.recover()  # a promotion that was cut short
        if before := self._decisions(version):
            say(f"{self.registry.name} version {version} was decided on before: {before[-1].reason}")
        else:
            promote(self.configuration(night), challenger=version)
        said = self._decisions(version)
        outcome = _OUTCOMES.get(said[-1].action, "promoted")
        verdict = next((decision.verdict for decision in reversed(said) if decision.verdict), "")
        return night.model_copy(update={"outcome": outcome, "reason": said[-1].reason, "verdict": verdict})

    def configuration(self, night: Night) -> RunConfig:
        """Of the night's own training."""
        return self.command.load(self._overrides(night))

    def _overrides(self, night: Night) -> list[str]:
        """What the night says over the configuration of the job."""
        plan = night.plan
        assert plan
        origin = Path(plan.origin) if plan.origin else None
        tags = self.config.tracking.tags | {"retrain.date": str(self.day), "retrain.origin": plan.why}
        url = self.config.retrain.url
        return [
            f"--name={self.config.name}-{self.day}",
            f"--output={self.folder / 'run'}",
            f"--data.train={json.dumps([url(day) for day in plan.train])}",
            f"--data.validation={json.dumps([url(plan.validation)])}",
            f"--data.test={json.dumps([url(plan.judge)])}",
            f"--data.transforms={self.folder / 'transforms'}",
            f"--data.extends={origin / 'transforms' if origin else ''}",
            f"--warm_start.run={origin / 'run' if origin else ''}",
            f"--tracking.tags={json.dumps(tags)}",
            *([f"--training.epochs={self.config.retrain.warm_epochs}"] if origin else []),
        ]

    def plan(self, days: Sequence[date], reference: Reference | None) -> NightPlan:
        """Which days do what; `days` are those of the window that can be used, this one last."""
        tomorrow = self.day + timedelta(days=1)
        judge, window = self.day, list(days)[:-1]
        if is_there(tomorrow, self.config) and not examine(tomorrow, [self.day], self.config, reference).errors:
            judge, window = tomorrow, list(days)
        if len(window) < 2:
            raise InputError(
                f"retrain.window: got {len(window)} usable days up to {window[-1] if window else self.day}; "
                "expected one to train on, one to validate on, and one to judge on"
            )
        days = tuple(window[:-1])
        settled = {"window": days, "validation": window[-1], "judge": judge}
        if reference is None:
            return NightPlan(**settled, train=days, why="from scratch: no champion of an earlier night")
        if self.config.retrain.from_scratch(self.day):
            every = self.config.retrain.scratch_every
            return NightPlan(**settled, train=days, why=f"from scratch: so it is every {every} days")
        if not reference.checkpoints:
            return NightPlan(**settled, train=days, why="from scratch: the champion's checkpoints are gone")
        unseen = tuple(day for day in days if day not in reference.trained)
        train = unseen if unseen and self.config.retrain.warm_days == "unseen" else days
        why = f"warm start from the champion, version {reference.version}"
        return NightPlan(**settled, train=train, origin=str(reference.folder), why=why)

    def usable(self) -> list[date]:
        """The days of the window that are there and that no night found bad, this one among them."""
        bad = {night.day for night in nights(self.config.output) if night.outcome == "bad_data"}
        window = self.config.retrain.days(self.day)
        return [day for day in window if day == self.day or (day not in bad and is_there(day, self.config))]

    def _reference(self) -> Reference | None:
        """The champion, where it comes from an earlier night whose features can still be read."""
        champion = self.registry.champion()
        known = [night for night in nights(self.config.output) if night.plan and night.day < self.day]
        found = next((night for night in known if night.version == champion is not None), None)
        if champion is None or found is None or found.plan is None:
            return None
        folder = self.config.output / found.day.isoformat()
        try:
            transforms = Transforms.load(str(folder / "transforms"), self.config.schema)
            seen = Profile.load(folder / "profile")
            return Reference(champion, folder, has_checkpoints(folder), found.plan.window, transforms, seen)
        except InputError as error:
            log.warning("the champion, version %d, cannot be gone on from: %s", champion, error)
            return None

    def _decisions(self, version: int) -> list[Decision]:
        """Of the audit trail, those about a version."""
        return [d for d in self.registry.audit.decisions() if d.version == version and not d.void]

    def _entry(self, run_id: str) -> VersionEntry:
        entry = self.registry.find({"run_id": run_id}) if run_id else None
        if entry is None:
            raise RegistryError(f"registry {self.registry.name}: run {run_id or '(unknown)'} registered no version")
        return entry


def _bad(night: Night, report: DayReport) -> Night:
    reason = "; ".join(f"{finding.where}: {finding.message}" for finding in report.errors)
    return night.model_copy(update={"data": report, "outcome": "bad_data", "reason": reason})
