"""The model card: what was trained on what, how well it does, and where not to trust it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ranking.redact import redact
from ranking.schema import Frozen, Task

_TEMPLATE = """---
{{ card_data }}
---

# {{ name }}

## What it predicts

{{ tasks }}

A task is trained and scored inside its sample space only.

## Data

{{ data }}

## Training

{{ settings }}

## AUC@N-steps

In the sample space; R² for regression tasks.

{{ curve }}

## Metrics at step {{ step }}

{{ metrics }}

## Calibration

In the sample space.

{{ calibration }}

## Limits

{{ limits }}

## How to load it

```python
{{ usage }}
```

Code revision: `{{ revision }}`
"""

_LIMITS = (
    "A score with a sample space is conditional on it: multiply along the chain for an unconditional probability.",
    "Labels outside a sample space were not trained on; the entire-space rows above show what that costs.",
    '"undefined" means too little support for the metric. It is not 0.5.',
    "Intervals cover the sampling of the evaluation rows, not the next day's change of the data.",
)

Space = Mapping[str, Any]


class CardData(Frozen):
    """The training data of a card.

    Attributes:
        name: Name of the data set.
        digest: Digest of the manifest.
        rows: Rows trained on, each counted once.
        days: First and last day, or any description of the period.
    """

    name: str
    digest: str
    rows: int
    days: str = ""


class CardFacts(Frozen):
    """Everything a card says.

    Attributes:
        name: Name of the model.
        tasks: Tasks of the schema.
        data: Training data.
        settings: Training settings to show, in order; secrets are masked.
        history: Evaluation reports as mappings (`EvaluationReport.model_dump()`).
        best_step: Step of the exported checkpoint, one of the history's.
        usage: Python code that loads the model and scores a row.
        revision: Git revision of the code.
        license: Identifier such as "apache-2.0".
        caveats: Further sentences for the limits.
    """

    name: str
    tasks: tuple[Task, ...]
    data: CardData
    settings: dict[str, Any]
    history: tuple[dict[str, Any], ...]
    best_step: int
    usage: str
    revision: str = ""
    license: str = "apache-2.0"
    caveats: tuple[str, ...] = ()


def model_card(facts: CardFacts) -> str:
    """The card as Markdown with the YAML header of the Hugging Face hub; needs no network.

    Raises:
        ValueError: `best_step` was not evaluated.
    """
    steps = [report["step"] for report in facts.history]
    if facts.best_step not in steps:
        raise ValueError(f"best_step {facts.best_step}: expected one of {steps}")
    best = facts.history[steps.index(facts.best_step)]["tasks"]
    data = {**facts.data.model_dump(), "digest": f"`{facts.data.digest}`", "rows": f"{facts.data.rows:,}"}
    card = ModelCard.from_template(
        ModelCardData(
            license=facts.license,
            library_name="mlflow",
            tags=["ranking", "multi-task", *sorted({task.group for task in facts.tasks})],
        ),
        template_str=_TEMPLATE,
        name=facts.name,
        tasks=_tasks(facts.tasks),
        data=_table(("", ""), ((key, value) for key, value in data.items() if value)),
        settings=_table(("setting", "value"), redact(facts.settings).items()),
        curve=_curve(facts),
        step=f"{facts.best_step:,}",
        metrics=_metrics(best),
        calibration=_calibration(best),
        limits="\n".join(f"- {text}" for text in (*_LIMITS, *_undefined(best), *facts.caveats)),
        usage=facts.usage,
        revision=facts.revision or "unknown",
    )
    return str(card)


def _tasks(tasks: Sequence[Task]) -> str:
    rows = (
        (task.name, task.kind, f"`{task.label}`", _given(task), task.group, task.loss, f"{task.weight:g}")
        for task in tasks
    )
    return _table(("task", "kind", "label", "sample space", "group", "loss", "weight"), rows)


def _given(task: Task) -> str:
    if not isinstance(task.given, str):
        return f"rows where `{task.given.column}`"
    return "all rows" if task.given == "all" else f"positives of {task.given}"


def _curve(facts: CardFacts) -> str:
    names = [task.name for task in facts.tasks]
    rows = (
        (
            f"{report['step']:,}" + (" (best)" if report["step"] == facts.best_step else ""),
            *(_quality(report["tasks"][name]["sample_space"]) for name in names),
        )
        for report in facts.history
    )
    return _table(("step", *names), rows)


def _metrics(tasks: Mapping[str, Any]) -> str:
    rows = (
        (
            name,
            title,
            *(f"{space[key]:,}" if space[key] is not None else "" for key in ("rows", "positives")),
            _quality(space),
            _interval(space),
            *(_number(space[key]) for key in ("gauc", "log_loss", "rmse")),
        )
        for name, task in tasks.items()
        for title, space in (("sample", task["sample_space"]), ("entire", task["entire_space"]))
    )
    header = ("task", "space", "rows", "positives", "AUC or R²", "interval", "GAUC", "log loss", "RMSE")
    return _table(header, rows)


def _calibration(tasks: Mapping[str, Any]) -> str:
    keys = {"predicted / observed": "calibration", "ECE": "ece", "mean score": "mean_score", "mean label": "mean_label"}
    rows = ((name, *(_number(task["sample_space"][key]) for key in keys.values())) for name, task in tasks.items())
    return _table(("task", *keys), rows)


def _undefined(tasks: Mapping[str, Any]) -> Iterable[str]:
    for name, task in tasks.items():
        if task["sample_space"]["undefined"]:
            yield f"{name}: undefined in its sample space: {task['sample_space']['undefined']}."


def _quality(space: Space) -> str:
    """AUC of a binary task, which alone counts positives; R² of a regression task."""
    value = space["auc"] if space["positives"] is not None else space["r2"]
    return _number(value) or "undefined"


def _interval(space: Space) -> str:
    bounds = space["auc_interval"] or space["r2_interval"]
    return f"{bounds[0]:.4f} to {bounds[1]:.4f}" if bounds else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (header, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], f"|{' --- |' * len(header)}", *lines[1:]])
