"""The MLflow registry: versions of one model, and the aliases champion, challenger, candidate and previous_champion.

A change of the champion is first written to the audit trail, where it counts or has lost against another; only then
do the aliases move, the champion last. Whoever comes next carries out what a crash left undone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any, NamedTuple

from pydantic import Field

from ranking.errors import InputError
from ranking.promotion.audit import Action, Audit, Decision, whoami
from ranking.promotion.store import ModelStore, RegistryError, model_id
from ranking.promotion.verdict import Verdict
from ranking.schema import Frozen

__all__ = ["ChampionChangedError", "Registry", "RegistryConfig", "RegistryError", "VersionEntry"]

CHAMPION, CHALLENGER, CANDIDATE, PREVIOUS = "champion", "challenger", "candidate", "previous_champion"


class RegistryConfig(Frozen):
    """Which registered model a run proposes its versions to."""

    name: str = Field("ranker", pattern=r"^[A-Za-z0-9_. -]+$", description="Name of the registered model in MLflow.")


class ChampionChangedError(RegistryError):
    """The champion is no longer the version compared with: evaluate again, against the new one."""


class VersionEntry(NamedTuple):
    """One version, as `Registry.history` tells it; times in ISO 8601, "" for what has not happened.

    Attributes:
        version: number of the version.
        aliases: aliases it carries now.
        promoted_at: when it became champion.
        replaces: the champion before it.
        replaced_by: the champion after it.
        rolled_back_at: when a rollback took it off.
        status: `gate.status`: passed, failed, or "" where no gate has seen it.
        reason: `gate.reason`.
        run_id: MLflow run it comes from.
        tags: all its tags.
    """

    version: int
    aliases: tuple[str, ...]
    promoted_at: str
    replaces: int | None
    replaced_by: int | None
    rolled_back_at: str
    status: str
    reason: str
    run_id: str
    tags: dict[str, str]


class Registry(ModelStore):
    """The versions of one registered model; whatever the moment, the champion stays a version that passed.

    `by` says who decides, left out: user and host of the process. `manifest` is the digest of the rows judged on.
    """

    @cached_property
    def audit(self) -> Audit:
        """The trail of decisions."""
        return Audit(self)

    def uri(self, version: int) -> str:
        """What to load a version by."""
        return f"models:/{self.name}/{version}"

    def model_id(self, version: int) -> str | None:
        """Id of the LoggedModel, which carries the metrics; None where the version was registered from elsewhere."""
        return model_id(str(self.version(version).source))

    def champion(self) -> int | None:
        """The version that serves.

        Raises:
            InputError: it is gone though there was one: MLflow drops the alias of a version that is deleted.
        """
        aliases = self.aliases()
        if CHAMPION not in aliases and PREVIOUS in aliases:
            raise InputError(
                f"registry {self.name}: no champion, its version was deleted; "
                f"expected a rollback, to version {aliases[PREVIOUS]}"
            )
        return aliases.get(CHAMPION)

    def challenger(self) -> int | None:
        """The version under validation; never the champion, which a promotion cut short leaves under both aliases."""
        return self._waiting(CHALLENGER)

    def candidate(self) -> int | None:
        """The version that passed the gate and waits for a person's approval."""
        return self._waiting(CANDIDATE)

    def previous(self) -> int | None:
        """The version that a rollback returns to."""
        aliases = self.aliases()
        champion, previous = aliases.get(CHAMPION), aliases.get(PREVIOUS)
        if champion is None or "replaces" not in self.version(champion).tags:  # deleted, or made champion by hand
            return previous
        return self._replaced(champion)  # the alias can lag: a process stopped before it moved it

    def propose(self, version: int) -> None:
        """Make a version the challenger, the newest proposal taking the alias.

        Raises:
            InputError: there is no such version, or it has been champion.
        """
        self.require_new(version)
        self.tag(version, {"proposed_by": whoami()})  # first, so that a proposal without an alias can be told
        self.move(CHALLENGER, version)

    def lost(self) -> int | None:
        """The newest proposal, where it has neither verdict nor alias; an older one was superseded, not lost.

        MLflow deletes an alias wherever it points by then: taking it off a version can take it off a newer one.
        """
        known = (version for version in self.newest() if {"proposed_by", "gate.status"} & version.tags.keys())
        newest = next(known, None)
        if newest is None or {"gate.status", "promoted_at"} & newest.tags.keys():
            return None
        return None if int(newest.version) in self.aliases().values() else int(newest.version)

    def promote(
        self, version: int, verdict: Verdict, expected_champion: int | None, by: str = "", manifest: str = ""
    ) -> None:
        """Make a version the champion; the same call again finishes one that was cut short.

        Args:
            version: the version that `verdict` is about.
            verdict: of the gate; its checks become tags.
            expected_champion: the version it was compared with, None where there was none.
            by: who decides.
            manifest: digest of the rows judged on.

        Raises:
            ValueError: the verdict is not to promote.
            InputError: there is no such version, or it has been champion before.
            ChampionChangedError: another version is champion by now; aliases are as that version's promotion left them.
        """
        self._require(verdict, version)
        head = self.recover()
        champion = self.champion()
        if champion == version and self._replaced(version) == expected_champion:
            return
        self.require_new(version)
        if champion != expected_champion:
            raise self._changed(expected_champion, champion)
        self.tag(version, _judged(verdict, manifest))
        action: Action = "approved" if self.candidate() == version else "promoted"
        self._change(self._decision(action, version, champion, verdict, by, manifest), head)

    def nominate(self, version: int, verdict: Verdict, champion: int | None, by: str = "", manifest: str = "") -> None:
        """Let a version that passed wait for approval as the candidate; the champion stays.

        Raises:
            ValueError: the verdict is not to promote.
            InputError: there is no such version, or it has been champion.
        """
        self._require(verdict, version)
        self.require_new(version)
        self.tag(version, _judged(verdict, manifest))
        self.move(CANDIDATE, version)
        self._retire(version, CHALLENGER)
        self.audit.write(self._decision("nominated", version, champion, verdict, by, manifest))

    def reject(
        self, version: int, verdict: Verdict, champion: int | None = None, by: str = "", manifest: str = ""
    ) -> None:
        """Write the verdict as tags of the version, and take challenger and candidate off it; the champion stays.

        Raises:
            ValueError: the verdict is to promote.
        """
        if verdict.promote:
            raise ValueError(f"version {version}: {verdict.reason}; expected a verdict with a failed check")
        self.tag(version, _judged(verdict, manifest))
        self.audit.write(self._decision("rejected", version, champion, verdict, by, manifest))
        self._retire(version)

    def decline(self, version: int, by: str = "", reason: str = "") -> None:
        """A person decides against the candidate.

        Raises:
            InputError: the version is not the candidate.
        """
        if self.candidate() != version:
            raise InputError(
                f"registry {self.name}: version {version} does not wait for approval; "
                f"expected the candidate, which is {_text(self.candidate()) or 'none'}"
            )
        decision = Decision(action="declined", version=version, before=self.champion(), reason=reason)
        self.audit.write(decision.model_copy(update={"by": by or whoami()}))
        self._retire(version)

    def rollback(self, by: str = "", reason: str = "") -> tuple[int | None, int]:
        """Put the previous champion back; once more goes back one further, or finishes what was cut short.

        Returns:
            The versions (from, to); from None where the champion's version was deleted.

        Raises:
            InputError: there is no previous champion.
            ChampionChangedError: another process changed the champion meanwhile.
        """
        unfinished = self.audit.head()
        head = self.recover()
        if unfinished is not None and unfinished.action == "rolled_back" and not unfinished.settled:
            return unfinished.before, unfinished.version
        champion, previous = self.aliases().get(CHAMPION), self.previous()
        if previous is None:
            raise InputError(f"registry {self.name}: no previous champion to roll back to; expected two promotions")
        decision = Decision(action="rolled_back", version=previous, before=champion, reason=reason)
        self._change(decision.model_copy(update={"by": by or whoami()}), head)
        return champion, previous

    def require_new(self, version: int) -> None:
        """A version in the history twice would make rollbacks go in a circle.

        Raises:
            InputError: there is no such version, or it has been champion.
        """
        tags = self.version(version).tags
        if version == self.champion() or ("promoted_at" in tags and "rolled_back_at" not in tags):
            raise InputError(
                f"registry {self.name}: version {version} has been champion; expected a new version, or a rollback"
            )

    def find(self, tags: Mapping[str, str]) -> VersionEntry | None:
        """The newest version that carries all of `tags`; None where there is none."""
        return next((entry for entry in reversed(self.history()) if tags.items() <= entry.tags.items()), None)

    def history(self) -> list[VersionEntry]:
        """Every version, oldest first."""
        aliases = self.aliases()
        return [_entry(version, aliases) for version in self.versions()]

    def recover(self) -> Decision | None:
        """The newest change of the champion, carried out; what somebody did by hand is written down as one."""
        head = self.audit.head()
        if head is not None and not head.settled:
            self._carry_out(head)
        champion = self.aliases().get(CHAMPION)
        if champion is None or (head is not None and head.version == champion):
            return head
        before = head.version if head else self._replaced(champion)
        found = Decision(action="adopted", version=champion, before=before, by="unknown, by hand")
        self.audit.write(found.model_copy(update={"follows": head.number if head else 0}))
        return self.recover()

    def _change(self, decision: Decision, head: Decision | None) -> None:
        """Claim the place after `head` in the trail, then move the aliases."""
        claim = self.audit.write(decision.model_copy(update={"follows": head.number if head else 0}))
        if claim.void:
            self.recover()
            raise self._changed(decision.before, self.champion())
        self._carry_out(claim)

    def _carry_out(self, decision: Decision) -> None:
        """Aliases and tags as a change says; any number of times, by anybody. A later change goes before it."""
        if self.existing(decision.version):
            try:
                self._take_over(decision)
                self._settle(decision)
                self._require_newest(decision)
            except ChampionChangedError:
                self._align()
                raise
        self.audit.settle(decision)

    def _take_over(self, decision: Decision) -> None:
        """The moves of a change, the champion last."""
        newest = partial(self._require_newest, decision)
        if decision.action in ("promoted", "approved"):
            self.tag(decision.version, {"replaces": _text(decision.before)})
            if self.existing(decision.before):
                self.move(PREVIOUS, int(decision.before or 0), newest)
        self.move(CHAMPION, decision.version, newest)

    def _align(self) -> None:
        """This process slept, and may have moved an alias after a later change did: put all where that one says."""
        head = self.audit.head()
        if head is not None and self.existing(head.version):
            self.move(CHAMPION, head.version)
            self._settle(head)

    def _require_newest(self, decision: Decision) -> None:
        head = self.audit.head()
        if head is not None and head.number != decision.number:
            raise self._changed(decision.before, head.version)

    def _settle(self, decision: Decision) -> None:
        """Write what follows from a change of the champion into tags and the other aliases."""
        version, before, tags = decision.version, self.existing(decision.before), self.version(decision.version).tags
        promoted = tags.get("promoted_at", decision.at) if "rolled_back_at" not in tags else decision.at
        back = decision.action == "rolled_back" or (decision.action == "adopted" and promoted != decision.at)
        if "replaces" not in tags:  # made champion by hand
            self.tag(version, {"replaces": _text(decision.before)})
        if before is not None:
            gone = {"rolled_back_at": decision.at} if back and before != self._replaced(version) else {}
            self.tag(before, {"replaced_by": str(version), **gone})
        now = {} if back else {"rolled_back_at": None, "promoted_at": decision.at}
        self.tag(version, {"replaced_by": None, **now})
        previous = self._replaced(version)
        if previous is not None:
            self.move(PREVIOUS, previous)
        else:
            self.drop(PREVIOUS)
        self._retire(version)

    def _decision(
        self, action: Action, version: int, champion: int | None, verdict: Verdict, by: str, manifest: str
    ) -> Decision:
        return Decision(
            action=action,
            version=version,
            before=champion,
            by=by or whoami(),
            reason=verdict.reason,
            manifest=manifest,
            verdict=verdict.dump(),
        )

    def _require(self, verdict: Verdict, version: int) -> None:
        if not verdict.promote:
            raise ValueError(f"version {version}: {verdict.reason}")

    def _changed(self, expected: int | None, champion: int | None) -> ChampionChangedError:
        return ChampionChangedError(
            f"registry {self.name}: champion is version {_text(champion) or 'none'}, "
            f"compared with {_text(expected) or 'none'}; expected a new comparison"
        )

    def _waiting(self, alias: str) -> int | None:
        aliases = self.aliases()
        version = aliases.get(alias)
        return None if version == aliases.get(CHAMPION) else version

    def _retire(self, version: int, *aliases: str) -> None:
        """Take challenger and candidate, or the aliases named, off a version, and give back what went with them."""
        dropped = [alias for alias in aliases or (CHALLENGER, CANDIDATE) if self.drop(alias, version)]
        lost = self.lost() if CHALLENGER in dropped else None
        if lost is not None:
            self.move(CHALLENGER, lost)

    def _replaced(self, version: int) -> int | None:
        """The champion before a version; None for the first one, and where that one was deleted."""
        return self.existing(self.version(version).tags.get("replaces"))


def _judged(verdict: Verdict, manifest: str) -> dict[str, str]:
    """Tags of a version that a gate has seen."""
    return verdict.tags() | ({"gate.manifest": manifest} if manifest else {})


def _entry(version: Any, aliases: Mapping[str, int]) -> VersionEntry:
    number, tags = int(version.version), version.tags
    return VersionEntry(
        number,
        tuple(sorted(alias for alias, target in aliases.items() if target == number)),
        tags.get("promoted_at", ""),
        _number(tags.get("replaces")),
        _number(tags.get("replaced_by")),
        tags.get("rolled_back_at", ""),
        tags.get("gate.status", ""),
        tags.get("gate.reason", ""),
        version.run_id or "",
        dict(tags),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def _text(number: int | None) -> str:
    return "" if number is None else str(number)
