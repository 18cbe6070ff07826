"""Promote: compare challenger and champion on the pinned manifest, and move the alias if every guard holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from pipelines.champion_challenger import judge_versions, read_pinned
from pipelines.job import job, say
from pipelines.run_directory import pinned
from ranking.config import RunConfig
from ranking.errors import EXIT_NOT_PROMOTED, EXIT_OK, EXIT_WAITING, InputError
from ranking.promotion.registry import ChampionChangedError, Registry, RegistryError
from ranking.promotion.verdict import Verdict

_ATTEMPTS = 3
_OUTCOMES = {
    EXIT_OK: "is champion",
    EXIT_NOT_PROMOTED: "is not promoted",
    EXIT_WAITING: "passed and waits for approval: promote --approve VERSION --by NAME",
}

Pinned = Annotated[Path | None, typer.Option(help="Evaluation manifest; the run's own test manifest when left out.")]
Challenger = Annotated[int | None, typer.Option(help="Judge this version; the registry's challenger when left out.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the verdict and end with its exit code; move nothing.")]
Approve = Annotated[int | None, typer.Option(help="Promote this candidate, if it still passes; needs --by.")]
Decline = Annotated[int | None, typer.Option(help="Decide against this candidate; needs --by.")]
By = Annotated[str, typer.Option(help="Who decides, for the audit trail; left out: user and host.")]
Reason = Annotated[str, typer.Option(help="Why, for the audit trail.")]


def promote(
    config: RunConfig,
    manifest: Pinned = None,
    dry_run: DryRun = False,
    approve: Approve = None,
    decline: Decline = None,
    by: By = "",
    reason: Reason = "",
    challenger: Challenger = None,
) -> int | None:
    """Make the challenger champion if it passes the gate.

    Exit code 0: promoted, or nothing is waiting for it. 3: not better; the reasons are tags of the version. 4: passed,
    and waits as `candidate` for a person, as `gate.approval: required` says.
    """
    registry = Registry.open(config.tracking.uri, config.registry.name)
    if sum(each is not None for each in (challenger, approve, decline)) > 1:
        raise InputError("--challenger, --approve, --decline: got several; expected one of them")
    if (approve is not None or decline is not None) and not by:
        raise InputError("--by: missing; expected the name of the person who decides")
    if decline is not None:
        registry.decline(decline, by, reason)
        say(f"{registry.name} version {decline} is declined by {by}")
        return None
    for _ in range(_ATTEMPTS):
        version = _judged(registry, challenger, approve)
        if version is None:
            return _nothing(registry)
        rows, champion = read_pinned(manifest or pinned(config), config), registry.champion()
        verdict = judge_versions(registry, version, champion, rows, config)
        code = _code(verdict, config, approved=approve is not None)
        outcome = (
            f"\n{registry.name} version {version} {_OUTCOMES[code]}{'' if verdict.promote else f': {verdict.reason}'}"
        )
        if dry_run:
            say(f"{outcome} (dry run: nothing is moved)")
            return code
        try:
            _act(registry, code)(version, verdict, champion, by, rows.digest)
        except ChampionChangedError as error:
            say(f"\n{error}")
            continue
        say(outcome)
        return code
    raise RegistryError(f"registry {registry.name}: the champion changed {_ATTEMPTS} times during the comparison")


def _code(verdict: Verdict, config: RunConfig, approved: bool) -> int:
    if not verdict.promote:
        return EXIT_NOT_PROMOTED
    return EXIT_WAITING if config.gate.approval == "required" and not approved else EXIT_OK


def _act(registry: Registry, code: int) -> Callable[[int, Verdict, int | None, str, str], None]:
    """What follows from an exit code."""
    return {EXIT_OK: registry.promote, EXIT_WAITING: registry.nominate, EXIT_NOT_PROMOTED: registry.reject}[code]


def _judged(registry: Registry, challenger: int | None, approve: int | None) -> int | None:
    """The version to judge; None where nothing waits."""
    if approve is not None:
        return _candidate(registry, approve)
    if challenger is None:
        return registry.challenger()
    registry.require_new(challenger)
    return challenger


def _candidate(registry: Registry, version: int) -> int:
    candidate = registry.candidate()
    if candidate != version:
        raise InputError(
            f"--approve: got {version}; expected the candidate of registry {registry.name}, which is "
            f"{candidate or 'none'}"
        )
    return version


def _nothing(registry: Registry) -> int | None:
    """No challenger: a candidate waits, or the champion stays; without a champion something is wrong."""
    candidate, champion, lost = registry.candidate(), registry.champion(), registry.lost()
    more = "" if lost is None else f"; version {lost} was proposed and never judged: promote --challenger {lost}"
    if candidate is not None:
        say(f"no challenger is waiting; {registry.name} version {candidate} {_OUTCOMES[EXIT_WAITING]}{more}")
        return EXIT_WAITING
    if champion is None:
        raise InputError(f"registry {registry.name}: no challenger; expected one that `train` registered{more}")
    say(f"no challenger is waiting; {registry.name} version {champion} stays champion{more}")
    return None


main = job(promote)

if __name__ == "__main__":
    main()
