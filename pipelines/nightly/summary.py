"""The summary over nights: one page that says how the champion, the data and the gates have been doing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.markdown import table
from pipelines.nightly import figures
from pipelines.nightly.night import Night, nights
from pipelines.nightly.pages import cell, headline, number, tone, write
from ranking.config import RunConfig

_SHORT = {"promoted": "promoted", "waiting": "waits for approval", "not_better": "not better", "bad_data": "bad data"}


def summarise(config: RunConfig) -> Path | None:
    """Write `summary.md`, `summary.html` and `figures/` into the output directory, from the records of its nights.

    Returns:
        Path of the HTML page; None where there is no night.
    """
    found = nights(config.output)
    if not found:
        return None
    drawn = {"data": figures.data(found)}
    if any(night.duels for night in found):
        drawn["quality"] = figures.quality(found)
    if any(night.gates for night in found):
        drawn["gates"] = figures.gates(found)
    text = "\n".join([f"# Nights of {config.name}\n", *_lines(found, drawn, config)])
    return write(config.output, "summary", text, drawn, tone(found[-1]))


def _lines(found: Sequence[Night], drawn: dict[str, object], config: RunConfig) -> Iterator[str]:
    last = found[-1]
    promoted = [night for night in found if night.outcome == "promoted"]
    failed = [night for night in found if not night.finished]
    champion = promoted[-1] if promoted else None
    yield f"> **{last.day}: {headline(last)}**\n>"
    since = f"version {champion.version} since the night of {champion.day}" if champion else "none by these nights"
    yield (
        f"> {len(found)} nights, {found[0].day} to {last.day}: {len(promoted)} promoted, {len(failed)} without a "
        f"model. Champion of `{config.registry.name}`: {since}.\n"
    )
    tasks = _tasks(found)
    heading = ["night", "outcome", "model", "champion", *(f"{task} AUC" for task in tasks), "rows", "time"]
    yield table(heading, (_cells(night, tasks) for night in found))
    if "quality" in drawn:
        yield "## Quality by judging day\n\nEach night both models meet impressions that neither has seen, with the "
        yield "intervals of the gate; a star is a promotion.\n\n![Quality by day](figures/quality.png)\n"
    yield "## Data by day\n\n![Rows and drift by day](figures/data.png)\n"
    if "gates" in drawn:
        yield "## Experts by night\n\nEffective number of experts that a task's gate uses: 1 is a single expert.\n\n"
        yield "![Experts in use](figures/gates.png)\n"
    yield "## Nights that want a look\n"
    yield "\n".join(f"- **{n.day}** {cell(n.reason)[:400]}" for n in found if n.outcome != "promoted") or "None."
    yield ""


def _tasks(found: Sequence[Night]) -> list[str]:
    """Binary tasks that the gate looks at, by the newest night that judged."""
    judged = [night for night in found if night.duels]
    return [duel.task for duel in judged[-1].duels if duel.metric == "auc" and duel.judged] if judged else []


def _cells(night: Night, tasks: Sequence[str]) -> list[str]:
    duels = {duel.task: duel for duel in night.duels}
    return [
        f"[{night.day}]({night.day}/report.html)",
        _SHORT.get(str(night.outcome), "failed"),
        str(night.version or "-"),
        str(night.champion or "-"),
        *(number(duels[task].challenger.value) if task in duels else "-" for task in tasks),
        f"{night.data.rows:,}",
        f"{sum(night.seconds.values()):,.0f} s",
    ]
