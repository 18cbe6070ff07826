"""Registry: the champions of a registered model in their order, and why each version was taken or refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from pipelines.job import jobs, say
from ranking.config import RunConfig
from ranking.promotion.audit import Decision
from ranking.promotion.registry import Registry, VersionEntry
from ranking.promotion.verdict import Verdict

Version = Annotated[int, typer.Argument(help="Number of the version.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
All = Annotated[bool, typer.Option("--all", help="Decisions too that left the champion where it was.")]


def history(config: RunConfig, all: All = False, as_json: Json = False) -> None:
    """Print how the champion changed, oldest first; every change begins where the one before it ended."""
    found = _decisions(Registry.open(config.tracking.uri, config.registry.name))
    shown = [decision for decision in found if not decision.void and (all or decision.moves)]
    if as_json:
        say(json.dumps([_public(decision) for decision in shown], indent=2))
        return
    say(_table(["#", "at", "what", "from", "to", "by", "manifest", "reason"], [_row(d) for d in shown]))


def show(config: RunConfig, version: Version, as_json: Json = False) -> None:
    """Print one version: its tags, and every decision about it with the checks it rests on."""
    registry = Registry.open(config.tracking.uri, config.registry.name)
    found = registry.version(version)
    entry = next(each for each in registry.history() if each.version == int(found.version))
    decisions = [d for d in _decisions(registry) if d.version == version and not d.void]
    if as_json:
        say(json.dumps({**entry._asdict(), "decisions": [_public(d) for d in decisions]}, indent=2))
        return
    say(_described(registry.name, entry))
    for decision in decisions:
        say(f"\n{decision.at} {decision.action} by {decision.by}: {decision.reason or '-'}")
        if decision.verdict:
            say(Verdict.load(decision.verdict).render())


def _decisions(registry: Registry) -> list[Decision]:
    registry.champion()  # a registry out of reach, or one whose champion is gone, is told in its own words
    return registry.audit.decisions()


def _public(decision: Decision) -> dict[str, Any]:
    verdict = json.loads(decision.verdict) if decision.verdict else None
    return {**decision.model_dump(exclude={"nonce", "void"}), "verdict": verdict}


def _row(decision: Decision) -> list[str]:
    """Cells of the table; a decision that moved nothing stands between brackets."""
    version = str(decision.version) if decision.moves else f"({decision.version})"
    return [
        str(decision.number),
        decision.at[:19],
        decision.action,
        str(decision.before or "-"),
        version,
        decision.by,
        decision.manifest[:12] or "-",
        decision.reason[:80],
    ]


def _described(name: str, entry: VersionEntry) -> str:
    tags = {key: value for key, value in sorted(entry.tags.items()) if not key.startswith("gate.")}
    lines = {"aliases": ", ".join(entry.aliases) or "-", "run": entry.run_id, "gate": entry.status or "-", **tags}
    width = max(map(len, lines))
    return "\n".join([f"{name} version {entry.version}", *(f"{key:<{width}}  {text}" for key, text in lines.items())])


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [list(heading), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


main = jobs({"history": history, "show": show})

if __name__ == "__main__":
    main()
