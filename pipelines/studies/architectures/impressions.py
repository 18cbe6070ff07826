"""The published large-scale table [MMoE, section 6] on a simulated log: AUC and R^2 after N steps, and the gates."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from pipelines.job import say
from pipelines.markdown import table
from pipelines.prepare import prepare
from pipelines.studies.architectures.config import REFERENCE, ImpressionsStudyConfig, Render
from pipelines.studies.architectures.grid import Trained, train_grid
from pipelines.studies.architectures.summary import LEVEL
from pipelines.studies.markdown import NAMES, source
from pipelines.studies.record import Record, Row
from ranking.config import RunConfig
from ranking.data.synthetic.impressions import write_impressions
from ranking.distributed.world import World, join
from ranking.metrics import EvaluationReport, SpaceReport, delong, paired_delong
from ranking.tracking.figures import gate_distribution

TASKS = ("click", "like")


def impressions(config: ImpressionsStudyConfig, render: Render = False) -> None:
    """AUC@N and R²@N of the architectures on a log whose truth is known, and the gate picture."""
    path = config.report / "impressions.json"
    if render:
        record = Record.read(path)
    else:
        with join("cpu") as world:
            runs = list(fitted(config, world))
        record = Record.of([*measure(runs), truth(runs[0].config)])
        record.write(path)
        gates(runs).savefig(config.report / "impressions_gates.png")
    path.with_suffix(".md").write_text(markdown(record, config))
    say(f"wrote {path}, {path.with_suffix('.md')} and a figure")


def fitted(config: ImpressionsStudyConfig, world: World) -> Iterator[Trained]:
    """The grid's runs on the log, which is drawn where it is missing."""
    days, first = config.output / "log" / "days", config.run(REFERENCE, config.grid.seeds[0])
    if not days.exists():
        write_impressions(days, config.log)
    if not Path(first.data.transforms).exists():
        prepare(first)
    return train_grid(config, world)


def measure(runs: Sequence[Trained]) -> list[Row]:
    """A row for every model and N on the validation day, and one for its best checkpoint on the test day."""
    reference = next(run for run in runs if run.model == REFERENCE)
    rows = [_row(run, entry.step, entry) for run in runs for entry in run.report.history]
    return rows + [{"model": run.model, "step": "test", "runs": 1} | _compared(run, reference) for run in runs]


def truth(config: RunConfig) -> Row:
    """What the true probabilities reach on the test rows: no model can be expected to do better."""
    files = sorted(file for url in config.data.test for file in glob.glob(url))
    rows = pq.read_table(files, columns=["click", "like", "p_click", "p_like"]).to_pandas()
    found: Row = {"model": "truth", "step": "test", "runs": 1}
    for task, own in zip(TASKS, (rows, rows[rows.click == 1]), strict=True):
        interval = delong(own[f"p_{task}"].to_numpy(), own[task].to_numpy(), LEVEL)
        if interval is not None:
            found |= dict(zip((f"{task}_auc", f"{task}_auc_low", f"{task}_auc_high"), interval, strict=True))
    return found


def gates(runs: Iterable[Trained]) -> Figure:
    """Mean gate weights of MMoE on the test rows, by task [MMoE, figure 6]."""
    run = next(run for run in runs if run.config.model.type == "mmoe")
    weights = next(iter(run.report.gates.values()))
    return gate_distribution({task: np.array(own) for task, own in zip(TASKS, weights, strict=True)})


def markdown(record: Record, config: ImpressionsStudyConfig) -> str:
    """The whole report."""
    log, people = config.log, config.log.population
    seen = sorted({row["step"] for row in record.rows if row["step"] != "test"})
    steps = [step for step in seen if step % seen[0] == 0]  # the last evaluation may be an odd one
    at = {(row["model"], row["step"]): row for row in record.rows}
    models = list(dict.fromkeys(row["model"] for row in record.rows if row["model"] != "truth"))
    return f"""# The architectures on a large simulated log [MMoE, section 6]

{source(record, "impressions.json")}
{log.rows:,} impressions of {people.users:,} users and {people.items:,} items over {log.days} days whose truth is known:
latent factors, Zipf popularity, position bias, a click, and a like given the click. The directions of the two tasks
have the cosine {people.correlation:g}; {people.click_rate:.0%} of impressions are clicked, {people.like_rate:.0%} of
clicks liked. One pass over the training days in batches of {_batch(config)}, the same optimizers and widths for all.

## Engagement (click) on the held-out day after N steps

{LEVEL:.0%} intervals over the rows of that day (DeLong; delta method for R²).

{_by_step(at, models, steps, "click", "auc", "AUC")}
{_by_step(at, models, steps, "click", "r2", "R²")}
## Satisfaction (like given click) on the held-out day

{_by_step(at, models, steps, "like", "auc", "AUC")}
## Test day, best checkpoint

Differences from Shared-Bottom are paired over the rows (DeLong), bold where the interval excludes zero. The last row is
the AUC of the true probabilities, which no model can be expected to pass.

{_test(at, models)}
## Gates of MMoE

Mean weight of every expert on the test rows. The published picture has the sparse satisfaction task on fewer experts
than engagement.

![gates](impressions_gates.png)
"""


def _batch(config: ImpressionsStudyConfig) -> int:
    return config.run(REFERENCE, config.grid.seeds[0]).data.batch_size


def _row(run: Trained, step: int, report: EvaluationReport) -> Row:
    found: Row = {"model": run.model, "step": step, "runs": 1}
    joint = run.config.model.type == "esmm"  # its likes are judged over all exposures, which compares with no other
    for task in TASKS[:1] if joint else TASKS:
        found |= _numbers(task, report.tasks[task].sample_space)
    return found


def _numbers(task: str, space: SpaceReport) -> Row:
    values = space.metrics()
    names = [name for name in values if name.startswith(("auc", "r2"))]
    return {f"{task}_{name}": values[name] for name in names}


def _compared(run: Trained, reference: Trained) -> Row:
    """AUC of both tasks on the test rows, and its difference from the reference's."""
    found: Row = {}
    for task in TASKS:
        (own, labels), (other, _) = (_space(trained, reference, task) for trained in (run, reference))
        interval = delong(own, labels, LEVEL)
        if interval is not None:
            found |= dict(zip((f"{task}_auc", f"{task}_auc_low", f"{task}_auc_high"), interval, strict=True))
        gain = None if run is reference else paired_delong(other, own, labels, LEVEL)
        if gain is not None:
            found |= dict(zip((f"{task}_gain", f"{task}_gain_low", f"{task}_gain_high"), gain[:3], strict=True))
    return found


def _space(run: Trained, reference: Trained, task: str) -> tuple[np.ndarray, np.ndarray]:
    """A run's scores and the labels on the rows of the reference's sample space, in order of the rows."""
    column, own = run.predictions.names.index(task), reference.predictions.names.index(task)
    order, theirs = (np.argsort(trained.predictions.rows) for trained in (run, reference))
    inside = reference.predictions.in_space[theirs, own]
    labels = reference.predictions.labels[theirs, own]
    return run.predictions.scores[order, column][inside], labels[inside]


def _by_step(
    at: dict[tuple[str, object], Row], models: Sequence[str], steps: Sequence[int], task: str, metric: str, title: str
) -> str:
    name = f"{task}_{metric}"
    shown = [model for model in models if all(name in at[model, step] for step in steps)]
    if not shown:
        return "Undefined: too few positives.\n"
    best = {step: max(at[model, step][name] for model in shown) for step in steps}

    def cell(row: Row) -> str:
        """A metric with its interval; bold for the best of its step."""
        text = f"{row[name]:.4f} [{row[f'{name}_low']:.4f}, {row[f'{name}_high']:.4f}]"
        return f"**{text}**" if row[name] == best[row["step"]] else text

    heading = ["model", *(f"{title}@{step:,}" for step in steps)]
    return table(heading, [[NAMES[model], *(cell(at[model, step]) for step in steps)] for model in shown])


def _test(at: dict[tuple[str, object], Row], models: Sequence[str]) -> str:
    def cells(row: Row) -> Iterator[str]:
        """AUC of every task with its interval, and its gain over the reference; bold where that excludes zero."""
        for task in TASKS:
            if f"{task}_auc" not in row:
                yield from ("undefined", "")
                continue
            yield f"{row[f'{task}_auc']:.4f} [{row[f'{task}_auc_low']:.4f}, {row[f'{task}_auc_high']:.4f}]"
            gain = [row.get(f"{task}_gain{end}") for end in ("", "_low", "_high")]
            if None in gain:
                yield ""
                continue
            text = f"{gain[0]:+.4f} [{gain[1]:+.4f}, {gain[2]:+.4f}]"
            yield f"**{text}**" if gain[1] * gain[2] > 0 else text

    heading = ["model", "click AUC", "against Shared-Bottom", "like AUC", "against Shared-Bottom"]
    rows = [[NAMES.get(model, "the truth"), *cells(at[model, "test"])] for model in [*models, "truth"]]
    return table(heading, rows)
