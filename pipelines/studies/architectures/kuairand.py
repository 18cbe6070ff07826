"""The architectures on real impressions: every task in its own space, the same budget, several seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from pipelines.job import say
from pipelines.markdown import table
from pipelines.prepare import prepare
from pipelines.studies.architectures.config import REFERENCE, KuairandConfig, Render
from pipelines.studies.architectures.grid import train_grid
from pipelines.studies.architectures.summary import LEVEL, over_seeds, tasks_of
from pipelines.studies.markdown import NAMES, source
from pipelines.studies.record import Record, Row
from ranking.distributed.world import join
from ranking.metrics import EvaluationReport, evaluate_predictions
from ranking.tracking.figures import BLUE, GREY, ORANGE


def kuairand(config: KuairandConfig, render: Render = False) -> None:
    """Every architecture on KuaiRand-Pure: AUC and R^2 of all tasks over seeds, and the gain over Shared-Bottom."""
    path = config.report / "kuairand.json"
    record = Record.read(path) if render else Record.of(measure(config))
    record.write(path)
    draw(record.rows).savefig(config.report / "kuairand_gains.png")
    path.with_suffix(".md").write_text(markdown(record))
    say(f"wrote {path}, {path.with_suffix('.md')} and a figure")


def measure(config: KuairandConfig) -> list[Row]:
    """Train what is not trained yet; a row for every model."""
    first = config.run(REFERENCE, config.grid.seeds[0])
    if not Path(first.data.transforms).exists():
        prepare(first)
    reports: defaultdict[str, dict[int, EvaluationReport]] = defaultdict(dict)
    with join("cpu") as world:
        for run in train_grid(config, world):
            positives = run.config.evaluation.min_positives
            reports[run.model][run.seed] = evaluate_predictions(run.predictions, run.report.step, positives, LEVEL)
    return over_seeds(reports, REFERENCE)


def markdown(record: Record) -> str:
    """The whole report."""
    runs = record.rows[0]["runs"]
    return f"""# The architectures on KuaiRand-Pure

{source(record, "kuairand.json")}
Training up to 5 May 2022, the best checkpoint by validation on 6 May, test on 7 and 8 May; {runs} seeds of each model,
the same steps, batch and optimizers, hidden widths as in the configuration. AUC, and R² of watch time, in every task's
sample space: like, follow, comment and forward among clicks. ESMM learns all of them over all exposures; what the
others learn among clicks is judged among clicks too, by pCTCVR / pCTR. Mean and standard deviation over the seeds, the
best mean in bold.

{_means(record.rows)}
Gain over Shared-Bottom in thousandths, mean of differences seed by seed with its {LEVEL:.0%} interval; bold where the
interval excludes zero. The intervals hold the spread of weights and order of examples, not that of the test rows.

{_gains(record.rows)}
![gains](kuairand_gains.png)
"""


def _means(rows: Sequence[Row]) -> str:
    columns = tasks_of(rows)
    best = {name: max(row.get(f"{name}_mean", -1.0) for row in rows) for name in map("_".join, columns)}

    def cell(row: Row, name: str) -> str:
        if f"{name}_mean" not in row:
            return "-"
        text = f"{row[f'{name}_mean']:.4f} ± {row[f'{name}_std']:.4f}"
        return f"**{text}**" if row[f"{name}_mean"] == best[name] else text

    heading = ["model", *(f"{task} {'AUC' if metric == 'auc' else 'R²'}" for task, metric in columns)]
    return table(heading, [[NAMES[row["model"]], *(cell(row, "_".join(c)) for c in columns)] for row in rows])


def _gains(rows: Sequence[Row]) -> str:
    columns = tasks_of(rows)

    def cell(row: Row, name: str) -> str:
        if f"{name}_gain" not in row:
            return "-"
        value, low, high = (1000 * row[f"{name}_gain{end}"] for end in ("", "_low", "_high"))
        text = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
        return f"**{text}**" if low * high > 0 else text

    others = [row for row in rows if row["model"] != REFERENCE]
    heading = ["model", *(task for task, _ in columns)]
    return table(heading, [[NAMES[row["model"]], *(cell(row, "_".join(c)) for c in columns)] for row in others])


def draw(rows: Sequence[Row]) -> Figure:
    """Gain over Shared-Bottom by task, one dot and interval a model."""
    columns = tasks_of(rows)
    figure, panels = plt.subplots(1, len(columns), figsize=(2.1 * len(columns), 3.6), sharey=True, layout="constrained")
    others = [row for row in rows if row["model"] != REFERENCE][::-1]
    for axes, (task, metric) in zip(panels, columns, strict=True):
        for place, row in enumerate(others):
            _dot(axes, place, row, f"{task}_{metric}_gain")
        axes.axvline(0, color=GREY, linewidth=1)
        axes.set_title(f"{task}, {'AUC' if metric == 'auc' else 'R²'}", fontsize=10)
        axes.tick_params(labelsize=8)
    panels[0].set_yticks(range(len(others)), [NAMES[row["model"]] for row in others])
    figure.supxlabel("gain over Shared-Bottom", fontsize=10)
    return figure


def _dot(axes: plt.Axes, place: int, row: Mapping[str, float], name: str) -> None:
    if name not in row:
        return
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    colour = GREY if low <= 0 <= high else BLUE if low > 0 else ORANGE
    axes.plot([low, high], [place, place], color=colour, linewidth=1.5)
    axes.plot([row[name]], [place], "o", color=colour, markersize=4)
