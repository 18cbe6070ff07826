"""The study's report in Markdown; every result in it is a number of the JSON or made of such numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pipelines.markdown import table
from pipelines.studies.record import Record, Row
from pipelines.studies.synthetic.config import CellsConfig, SyntheticConfig
from pipelines.studies.synthetic.findings import FINDINGS, TUNED, conclude

_NAMES = {"shared_bottom": "Shared-Bottom", "omoe": "OMoE", "mmoe": "MMoE"}


def markdown(record: Record, config: SyntheticConfig, figures: Mapping[str, str]) -> str:
    """The whole report.

    Args:
        record: results and where they come from.
        config: settings they were computed with.
        figures: file of every figure by name, relative to the report.
    """
    part = {
        name: [row for row in record.rows if row["part"] == name]
        for name in ("labels", "relatedness", "models", "findings")
    }
    sections = [
        _head(record, config),
        "## Findings\n",
        findings(part["findings"]),
        "## The three models\n",
        _settings(config.models),
        _models(part["models"]),
        _image("curves", figures),
        _image("histograms", figures),
        "Mean final loss at every learning rate, the tuned one in bold:\n",
        _rates(part["models"]),
        "## Shared-Bottom against p\n",
        _settings(config.relatedness),
        _image("relatedness", figures),
        _relatedness(part["relatedness"]),
        "## Correlation of the labels against p\n",
        f"{config.labels.repeats} repeats of {config.labels.points:,} rows for each p; mean and two standard "
        "deviations over the repeats. The linear labels are without noise, which alone would shrink them.\n",
        _image("labels", figures),
        _labels(part["labels"]),
        "## Every comparison\n",
        "95 % intervals: bootstrap over the runs, paired between models and values of p; for the labels normal.\n",
        _comparisons(part["findings"]),
    ]
    return "\n".join(section for section in sections if section) + "\n"


def findings(rows: Sequence[Row]) -> str:
    """The verdicts as a table, and what they mean; `rows` are those of the findings."""
    rates = list(dict.fromkeys(row["learning_rate"] for row in rows))
    fixed = [rate for rate in rates if rate != TUNED]
    lines = []
    for key, text in FINDINGS.items():
        own = [row for row in rows if row["finding"] == key]
        counts = [_count([row for row in own if row["learning_rate"] == rate]) for rate in fixed]
        verdict = conclude([row["verdict"] for row in own if row["learning_rate"] == TUNED])
        lines.append([f"({key})" if len(key) == 1 else key, text, verdict, *counts])
    heading = ["", "published finding", "here, tuned", *(f"rate {rate}" for rate in fixed)]
    explained = (
        "A finding holds where all its comparisons do, each with its whole 95 % interval on the claimed side. "
        "The last columns count the comparisons that hold, and those refuted, with one learning rate for all models.\n"
    )
    return table(heading, lines) + "\n" + explained


def _head(record: Record, config: SyntheticConfig) -> str:
    law = config.law
    return f"""# Synthetic correlated tasks [MMoE, sections 3.2 and 3.3]

`{record.command}`, revision {record.revision}, on {record.machine}. Numbers: [synthetic.json](synthetic.json).

y_k = w_k.x + sum_i sin(alpha_i w_k.x + beta_i) + eps_k for two tasks whose weights have the cosine p, x from N(0, I) in
{law.dimensions} dimensions, eps of variance {law.noise:g}. The paper leaves the rest open; here c = {law.scale:g},
alpha = {_list(law.alpha)}, beta = {_list(law.beta)}. Every run has its own weights w, its own initial weights, and a
batch of rows never seen before at every step, so that no run can overfit; it ends with its mean squared error on
held-out rows. Run r sees the same rows in every model and at every p, which pairs the comparisons. By symmetry only the
first task's loss is shown.
"""


def _settings(cells: CellsConfig) -> str:
    return (
        f"{cells.runs} runs of each, {cells.steps:,} steps of Adam on {cells.batch_size} rows, learning rate from "
        f"{_list(cells.learning_rates)} by the mean final loss; final losses on {cells.held_out:,} rows.\n"
    )


def _count(rows: Sequence[Row]) -> str:
    verdicts = [row["verdict"] for row in rows]
    refuted = f", {verdicts.count('refuted')} refuted" if "refuted" in verdicts else ""
    return f"{verdicts.count('holds')}/{len(rows)}{refuted}" if rows else ""


def _models(rows: Sequence[Row]) -> str:
    lines = [
        [
            f"{row['p']:g}",
            _name(row),
            f"{row['learning_rate']:g}",
            f"{row['loss_mean']:.4f} ± {_reach(row):.4f}",
            f"{row['loss_std']:.4f}",
            f"{row['loss_best']:.4f}",
            *(f"{value:.4f}" for value in np.quantile(row["loss_runs"][str(row["learning_rate"])], [0.05, 0.5, 0.95])),
        ]
        for row in rows
    ]
    return table(["p", "model", "rate", "mean, 95 %", "std", "best", "5 %", "median", "95 %"], lines)


def _rates(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        cells = [
            f"**{text}**" if rate == str(row["learning_rate"]) else text
            for rate, values in row["loss_runs"].items()
            for text in [f"{np.mean(values):.4f}" if None not in values else "diverged"]
        ]
        lines.append([f"{row['p']:g}", _name(row), *cells])
    return table(["p", "model", *rows[0]["loss_runs"]], lines)


def _relatedness(rows: Sequence[Row]) -> str:
    lines = [[f"{row['p']:g}", f"{row['loss_mean']:.4f} ± {_reach(row):.4f}", f"{row['loss_std']:.4f}"] for row in rows]
    return table(["p", "final loss, mean, 95 %", "std"], lines)


def _labels(rows: Sequence[Row]) -> str:
    by_model = {
        model: {row["p"]: row for row in rows if row["model"] == model} for model in ("labels", "labels_linear")
    }
    lines = [
        [f"{p:g}", *(f"{at[p]['pearson_mean']:.4f} ± {2 * at[p]['pearson_std']:.4f}" for at in by_model.values())]
        for p in by_model["labels"]
    ]
    return table(["p", "with sinusoids", "linear"], lines)


def _comparisons(rows: Sequence[Row]) -> str:
    lines = [
        [
            row["finding"],
            row["model"],
            " to ".join(f"{p:g}" for p in row["p"]),
            row["statistic"],
            f"{row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}]",
            _claim(*row["claimed"]),
            row["verdict"],
        ]
        for row in rows
        if row["learning_rate"] == TUNED
    ]
    return table(["finding", "model", "p", "statistic", "value, 95 %", "claimed", "verdict"], lines)


def _claim(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return f"< {high:g}" if low is None else f"> {low:g}"
    return f"{low:g} to {high:g}"


def _name(row: Row) -> str:
    return _NAMES.get(row["model"], str(row["model"]))


def _reach(row: Row) -> float:
    """Half the 95 % interval of a mean loss."""
    return 1.96 * float(row["loss_std"]) / math.sqrt(row["runs"])


def _image(name: str, figures: Mapping[str, str]) -> str:
    return f"![{name}]({figures[name]})\n" if name in figures else ""


def _list(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
