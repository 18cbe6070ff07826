"""The report of a night: the verdict first, then quality, the gate, the data, the experts, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

from matplotlib.figure import Figure

from pipelines.job import Command
from pipelines.markdown import table
from pipelines.nightly import figures
from pipelines.nightly.html import page
from pipelines.nightly.night import Night, Outcome, Score
from ranking.config import RunConfig
from ranking.files import write_atomically
from ranking.promotion.verdict import Verdict
from ranking.redact import MASK, redact_text, redact_words

HEADLINES: dict[Outcome, str] = {
    "promoted": "Promoted: version {version} is the new champion.",
    "waiting": "Passed: version {version} waits for approval.",
    "not_better": "Not promoted: version {version} did not pass, version {champion} stays champion.",
    "bad_data": "No training: the data of {day} is not fit.",
    "bad_input": "Failed: the configuration or its input is wrong.",
    "infrastructure": "Failed: a service or the machine let the night down.",
    "stopped": "Stopped before the end.",
    "fault": "Failed: a fault of the program.",
}
TONES: dict[Outcome, str] = {"promoted": "good", "waiting": "good", "not_better": "calm", "stopped": "calm"}
_DRIFT_SHOWN = 6


def publish(night: Night, config: RunConfig, command: Command) -> Path:
    """Write `report.md`, `report.html` and `figures/` into the night's directory.

    Returns:
        Path of the HTML report, which needs no other file.
    """
    folder = config.output / night.day.isoformat()
    return write(folder, "report", night_page(night, config, command), pictures_of(night), tone(night))


def write(folder: Path, name: str, text: str, drawn: dict[str, Figure], tone: str) -> Path:
    """A page as Markdown and as HTML, without secrets, and its pictures; the path of the HTML."""
    text = redact_text(text)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for picture, figure in drawn.items():
        figure.savefig(folder / "figures" / f"{picture}.png")
    write_atomically(folder / f"{name}.md", text.encode())
    title = text.splitlines()[0].removeprefix("# ")
    write_atomically(folder / f"{name}.html", page(text, folder, title, tone).encode())
    return folder / f"{name}.html"


def tone(night: Night) -> str:
    """Colour of an outcome."""
    return TONES.get(night.outcome or "fault", "bad")


def pictures_of(night: Night) -> dict[str, Figure]:
    """Every figure of the night's report by name."""
    drawn = {}
    if _compared(night):
        drawn["changes"] = figures.changes(night.duels)
    for layer, weights in night.gates.items():
        drawn[f"experts_{layer.replace('.', '_')}"] = figures.experts(weights, _gate_names(night, weights))
    return drawn


def headline(night: Night) -> str:
    """The outcome in one sentence."""
    champion = night.champion or "(none)"
    return HEADLINES[night.outcome or "fault"].format(version=night.version, champion=champion, day=night.day)


def night_page(night: Night, config: RunConfig, command: Command) -> str:
    """The report as Markdown."""
    sections = (
        _verdict(night),
        _next_steps(night, config, command),
        _quality(night),
        _gate(night),
        _data(night),
        _experts(night),
        _record(night, config),
    )
    return f"# Night of {night.day}\n\n" + "\n".join(line for section in sections for line in section)


def cell(text: str) -> str:
    """Text for a table cell."""
    return " ".join(text.replace("|", "\\|").split())


def score(found: Score | None, signed: bool = False) -> str:
    """A value and its interval."""
    if found is None or found.value is None:
        return "-"
    form = "+.4f" if signed else ".4f"
    interval = "" if found.low is None else f" [{found.low:{form}}, {found.high:{form}}]"
    return f"{found.value:{form}}{interval}"


def number(value: float | None) -> str:
    """Four digits that count."""
    return "-" if value is None else f"{value:.4g}"


def _verdict(night: Night) -> Iterator[str]:
    yield f"> **{headline(night)}**\n>"
    yield f"> {_impression(night)}\n"
    if plan := night.plan:
        yield (
            f"Trained on {_span(plan.train)}; {plan.validation:%-d %B} chose the checkpoint; "
            f"**{plan.judge:%-d %B %Y} judged**, which no model had seen. {plan.why[0].upper()}{plan.why[1:]}.\n"
        )


def _impression(night: Night) -> str:
    """What the numbers say, in words; the reason where there are none."""
    if night.outcome not in ("promoted", "waiting", "not_better"):
        return night.reason
    readings: dict[str, list[str]] = {}
    for duel in (duel for duel in night.duels if duel.judged):
        readings.setdefault(figures.reading(duel), []).append(duel.task)
    if not night.champion:
        said = ["There was no champion to compare with; it holds every absolute bound."]
    else:
        words = {
            "better": "Clearly better on",
            "worse": "Clearly worse on",
            "no clear difference": "No clear difference on",
        }
        said = [f"{word} {', '.join(readings[key])}." for key, word in words.items() if key in readings]
    return " ".join([*said, *([f"Why not: {night.reason}."] if night.outcome == "not_better" else [])])


def _next_steps(night: Night, config: RunConfig, command: Command) -> Iterator[str]:
    again = _line("retrain", command.arguments(["--date", str(night.day)]))
    back = _line("rollback", command.arguments([]))
    yield "## What to do next\n"
    match night.outcome:
        case "promoted":
            yield f"Nothing. Should it disappoint, this puts the champion before it back:\n\n```\n{back}\n```\n"
        case "waiting":
            yield "Look at the numbers below, and approve or decline the version.\n"
        case "not_better":
            yield "Nothing: the champion serves on, and the next night tries again. Several such nights in a row "
            yield "deserve a look at the failed checks below and at the drift of the data.\n"
        case "bad_data":
            yield f"Mend `{config.retrain.url(night.day)}`, then look again with the command below. Until then this "
            yield f"day trains no model; the champion serves on.\n\n```\n{again}\n```\n"
        case "infrastructure" | "stopped":
            yield f"Run the same command again: it goes on after the stage *{night.stage}*.\n\n```\n{again}\n```\n"
        case _:
            yield f"Correct what the reason names, then:\n\n```\n{again}\n```\n"


def _line(job: str, arguments: Sequence[str]) -> str:
    """A command as a person types it, who has to put the secrets in again."""
    shown = redact_words(arguments)
    hint = "" if shown == list(arguments) else f"  # {MASK}: not shown, as it is secret"
    return shlex.join(["python", "-m", f"pipelines.{job}", *shown]) + hint


def _quality(night: Night) -> Iterator[str]:
    if not night.duels or not night.plan:
        return
    yield "## Quality\n"
    yield f"Both models on the same impressions of {night.plan.judge:%-d %B}, each task in its own sample space. AUC "
    yield "0.5 is chance, 1 is perfect; the brackets are intervals of the gate's level.\n"
    rows = [
        [
            figures.title(d),
            f"{d.rows:,}",
            score(d.champion),
            score(d.challenger),
            score(d.change, True),
            figures.reading(d),
        ]
        for d in night.duels
    ]
    champion, challenger = f"champion (version {night.champion or '-'})", f"challenger (version {night.version})"
    yield table(["task", "rows", champion, challenger, "change", "verdict"], rows)
    if others := [duel.task for duel in night.duels if not duel.judged]:
        yield f"The gate does not look at {', '.join(others)} (gate.tasks): read their intervals first.\n"
    if _compared(night):
        yield "![Change of every task that the gate judges, with its interval](figures/changes.png)\n"


def _gate(night: Night) -> Iterator[str]:
    if not night.verdict:
        return
    verdict = Verdict.load(night.verdict)
    yield "## The gate\n"
    yield f"{sum(c.passed for c in verdict.checks)} of {len(verdict.checks)} checks hold; all must.\n"
    shown = [c for c in verdict.checks if not (c.part and c.passed)]
    rows = [[c.name, cell(c.subject) or "model", c.measured, cell(c.bound), c.status] for c in shown]
    yield table(["check", "of", "measured", "required", ""], rows)
    if hidden := len(verdict.checks) - len(shown):
        yield f"{hidden} checks of slices, which hold, are not shown.\n"
    yield from (f"- {note}" for note in verdict.notes)


def _data(night: Night) -> Iterator[str]:
    found = night.data
    yield "\n## The day's data\n"
    usual = "" if found.usual_rows is None else f"; the other days of the window have {found.usual_rows:,.0f} (median)"
    yield f"{found.rows:,} rows{usual}.\n"
    if shown := [finding for finding in found.findings if finding.level != "note"]:
        yield table(["", "where", "what"], [[f.level, cell(f.where), cell(f.message)] for f in shown])
    if found.reference is None:
        yield "There is no champion of an earlier night whose training data labels and drift could be compared with.\n"
        return
    yield f"Compared with the training data of the champion, version {found.reference}:\n"
    yield table(
        ["label", "mean on the day", "champion's training data"],
        [[rate.task, number(rate.mean), number(rate.usual)] for rate in found.rates],
    )
    rows = [
        [d.feature, f"{d.psi:.3f} ({d.psi_noise:.3f})", _drift(d.ks, d.ks_noise)] for d in found.drift[:_DRIFT_SHOWN]
    ]
    yield "The features that moved farthest, with what chance alone gives in parentheses:\n"
    yield table(["feature", "PSI", "KS"], rows)


def _experts(night: Night) -> Iterator[str]:
    if not night.gates:
        return
    yield "## The experts\n"
    yield "How the tasks share the experts of the model. One expert for all, or an expert that nobody uses, would be a "
    yield "reason to look at the architecture.\n"
    for layer, weights in night.gates.items():
        names = _gate_names(night, weights)
        unused = [str(e) for e in range(len(weights[0])) if max(row[e] for row in weights) < 0.01]
        yield f"![Gate weights of {layer}](figures/experts_{layer.replace('.', '_')}.png)\n"
        lowest = min(range(len(weights)), key=lambda k: figures.effective(weights[k]))
        yield (
            f"`{layer}`: {len(weights[0])} experts; {names[lowest]} uses the fewest, "
            f"{figures.effective(weights[lowest]):.1f} in effect. Unused: {', '.join(unused) or 'none'}.\n"
        )


def _record(night: Night, config: RunConfig) -> Iterator[str]:
    yield "\n## For the record\n"
    if night.seconds:
        total = sum(night.seconds.values())
        rows = [[stage, f"{seconds:,.1f} s"] for stage, seconds in night.seconds.items()]
        yield table(["stage", "time"], [*rows, ["all", f"{total:,.1f} s"]])
    folder = config.output / night.day.isoformat()
    facts = {"model": f"{config.registry.name} version {night.version}" if night.version else "none", "files": folder}
    facts |= {"MLflow run of the training": night.run_id or "none", "state": folder / "night.json"}
    yield "\n".join(f"- {name}: `{value}`" for name, value in facts.items()) + "\n"


def _compared(night: Night) -> bool:
    return any(duel.judged and duel.change for duel in night.duels)


def _gate_names(night: Night, weights: Sequence[Sequence[float]]) -> list[str]:
    """Names of the gates of a layer: the tasks, where it has one for each."""
    tasks = [duel.task for duel in night.duels]
    return tasks if len(tasks) == len(weights) else [f"gate {k}" for k in range(len(weights))]


def _span(days: Sequence[date]) -> str:
    if len(days) == 1:
        return f"{days[0]:%-d %B}"
    whole = (days[-1] - days[0]).days + 1 == len(days)
    return f"{len(days)} days, {days[0]:%-d %B} to {days[-1]:%-d %B}" + ("" if whole else " (some left out)")


def _drift(value: float | None, noise: float) -> str:
    return "-" if value is None else f"{value:.3f} ({noise:.3f})"
