"""The study's report in Markdown; every result in it is a number of the JSON or made of such numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.markdown import table
from pipelines.studies.census.config import CensusStudyConfig, GroupConfig
from pipelines.studies.census.findings import FINDINGS
from pipelines.studies.census.published import PUBLISHED
from pipelines.studies.markdown import NAMES, source
from pipelines.studies.record import Record, Row
from ranking.data.recipes.rates import RatesConfig
from ranking.data.recipes.trees import TreesConfig

_SHOWN = ("learning_rate", "epochs", "members")
_MISSING = "not run yet"


def markdown(config: CensusStudyConfig, record: Record, figures: Sequence[str]) -> str:
    """The whole report.

    Args:
        config: settings of the study.
        record: results and where they come from.
        figures: files of the figures, relative to the report.
    """
    runs = [row for row in record.rows if row["part"] == "runs"]
    found = [row for row in record.rows if row["part"] == "findings"]
    sections = [
        _head(config, record, runs),
        "## Findings\n",
        findings(found),
        *(part for group in config.groups.values() for part in _group(config, group, runs)),
        *(f"![{name}]({name})\n" for name in figures),
        "## Every comparison\n",
        _comparisons(found),
        "## Settings the tuner chose\n",
        "Revision: of the code that trained a cell. Seconds: of the machine that did (`machine` in the JSON).\n",
        _settings(runs),
    ]
    return "\n".join(sections) + "\n"


def findings(rows: Sequence[Row]) -> str:
    """Verdicts by finding and group."""
    lines = []
    for key, text in FINDINGS.items():
        for group in sorted({row["group"] for row in rows}):
            own = [row for row in rows if row["finding"] == key and row["group"] == group]
            if own:
                lines.append([text, str(group), _verdict(own)])
    return table(["finding", "group", "here"], lines)


def _head(config: CensusStudyConfig, record: Record, runs: Sequence[Row]) -> str:
    cells = len(config.models) * len(config.groups)
    missing = cells - sum(row["runs"] >= row["wanted"] for row in runs)
    state = f"\n**Unfinished: {missing} of {cells} cells lack runs.**\n" if missing else ""
    return f"""# Census-Income [MMoE, section 4.3]

{source(record, "census.json")}{state}
The publisher's test rows are split 1:1 at random into validation and test. A Gaussian process tunes every model in
every group on the validation AUC of its main task; then each is trained from {config.runs} random initial weights and
scored on test, which chose nothing. Runs differ in initial weights and dropout; those trained together see the rows in
one order. The published figures are of 400 runs. All models read these features: nominal columns embedded; numbers
standardised, in piecewise-linear pieces, and their exact frequent values embedded. Cross layers on
top of them: {_crosses(config)}. A run's weights are an exponential moving average over its steps.
{_made(config)}"""


def _made(config: CensusStudyConfig) -> str:
    """What some models read beside the features, a line each."""
    said = {"rates": _rates(config.recipe.rates), "trees": _trees(config.recipe.trees)}
    lines = []
    for made, text in said.items():
        if readers := [NAMES[model] for model in config.reads if made in config.made(model)]:
            lines.append(f"- {', '.join(readers)}: {text}.")
    chosen = "What is made of labels, and how, was chosen by hand on validation rows."
    return "\n".join(["\nSome models read more than the features:\n", *lines, "", chosen, ""]) if lines else ""


def _rates(rates: RatesConfig | None) -> str:
    if rates is None:
        return ""
    return f"""for {len(rates.keys)} columns and sets of columns, how often the main label holds among
  the training rows of the same values, smoothed; for a training row among the other {rates.folds - 1} of {rates.folds}
  folds"""


def _trees(trees: TreesConfig | None) -> str:
    if trees is None:
        return ""
    return f"""the main label's log-odds by boosted trees on the features alone, {trees.iterations} a fold; for a
  training row by those grown on the other {trees.folds - 1} of {trees.folds} folds, for others by all in the mean"""


def _crosses(config: CensusStudyConfig) -> int:
    group = next(iter(config.groups))
    return config.cell(group, next(iter(config.models))).model.cross_layers


def _group(config: CensusStudyConfig, group: GroupConfig, runs: Sequence[Row]) -> Iterator[str]:
    main, auxiliary = (task.name for task in group.tasks)
    rows = {row["model"]: row for row in runs if row["group"] == group.number}
    yield f"## Group {group.number}: {main}, with {auxiliary} beside it\n"
    heading = [f"{main} best", "mean ± std", "published best", "mean", f"{auxiliary} with best", "mean ± std"]
    heading += ["published with best", "mean", "runs"]
    order = [name for name in NAMES if name in config.models]
    yield table(["model", *heading], [[NAMES[name], *_line(group, name, rows.get(name))] for name in order])
    if pooled := [
        _pooled(rows[name], task.name) for name in order if "pool" in rows.get(name, {}) for task in group.tasks
    ]:
        yield "The mean probability over the runs that were trained together, as one model:\n"
        yield table(["model", "task", "networks", "best", "mean ± std", "models"], pooled)
    yield from (_alone(row, main) for row in rows.values() if f"{main}_trees_test" in row)
    if any(f"{main}_sampling" in row for row in rows.values()):
        reach = max(row.get(f"{main}_sampling", 0.0) for row in rows.values())
        yield f"Other test rows would move an AUC of {main} by up to ± {reach:.4f} (95 %, DeLong), all models alike.\n"


def _line(group: GroupConfig, name: str, row: Row | None) -> list[str]:
    main, auxiliary = (task.name for task in group.tasks)
    known = PUBLISHED.get(group.number, {}).get(name)
    literature = [""] * 4 if known is None else [f"{value:.4f}" for value in known]
    if row is None:
        return [_MISSING, "", *literature[:2], "", "", *literature[2:], "0"]
    state = str(row["runs"]) if row["runs"] >= row["wanted"] else f"{row['runs']} of {row['wanted']}"
    own = [f"{row[f'{main}_best']:.4f}", _spread(row, main), f"{row[f'{auxiliary}_with_best']:.4f}"]
    return [*own[:2], *literature[:2], own[2], _spread(row, auxiliary), *literature[2:], state]


def _pooled(row: Row, task: str) -> list[str]:
    count = str(len(row[f"{task}_pooled_runs"]))
    best, spread = f"{row[f'{task}_pooled_best']:.4f}", _spread(row, f"{task}_pooled")
    return [NAMES[row["model"]], task, str(row["pool"]), best, spread, count]


def _alone(row: Row, task: str) -> str:
    found = " and ".join(f"{row[f'{task}_trees_{split}']:.4f} on {split}" for split in ("validation", "test"))
    return f"The trees' log-odds that {NAMES[row['model']]} reads, as a model of {task} of their own: {found}.\n"


def _spread(row: Row, task: str) -> str:
    return f"{row[f'{task}_mean']:.4f} ± {row[f'{task}_std']:.4f}"


def _verdict(rows: Sequence[Row]) -> str:
    if "verdict" not in rows[0]:
        return f"tau {rows[0]['value']:.2f} over {rows[0]['models']} models (p = {rows[0]['p_value']:.2f})"
    verdicts = [row["verdict"] for row in rows]
    if len(rows) == 1:
        return f"{verdicts[0]}: {_interval(rows[0])} against {rows[0]['bound']:.4f}"
    counts = {text: verdicts.count(text) for text in ("holds", "open", "refuted")}
    return ", ".join(f"{count} {text}" for text, count in counts.items() if count) + f", of {len(rows)}"


def _comparisons(rows: Sequence[Row]) -> str:
    lines = [
        [row["finding"], str(row["group"]), row["model"], _interval(row), f"> {row['bound']:.4f}", row["verdict"]]
        for row in rows
        if "verdict" in row
    ]
    explained = (
        "Intervals of 95 %, over initial weights: Student's for a mean, Welch's for a difference of means. A finding "
        "holds where the whole interval lies above the bound, is refuted where all of it lies below, and is open "
        "otherwise.\n"
    )
    return explained + "\n" + table(["finding", "group", "model", "value, 95 %", "claimed", "verdict"], lines)


def _settings(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        settings, seconds = row["settings"], row["seconds"] / row["runs"]
        shown = [f"{settings[key]:.4g}" for key in _SHOWN]
        cost = [str(row["trials"]), f"{seconds:.1f}", row["revision"]]
        lines.append([NAMES[row["model"]], str(row["group"]), *shown, _model(settings["model"]), *cost])
    return table(["model", "group", "rate", *_SHOWN[1:], "architecture", "trials", "seconds a run", "revision"], lines)


def _model(section: Mapping[str, Any]) -> str:
    keys = ("bottom", "tower", "experts", "alpha", "stitch_after", "ranks", "dropout", "embedding_dropout")
    return ", ".join(f"{key} {_value(section[key])}" for key in keys if section.get(key) is not None)


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _interval(row: Row) -> str:
    return f"{row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
