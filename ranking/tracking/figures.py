"""The pictures of a run, each a plain matplotlib Figure; colours by Okabe and Ito, safe for the colour-blind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

Vector = npt.NDArray[Any]

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#6B6B6B"
PALETTE = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", GREY, "#000000")
"""What lines and parts are told apart by: a task has the colour of its place in the schema in every figure."""
_COLUMNS = 3
_BINS = 40


class TaskScores(NamedTuple):
    """Labels and scores of one task inside its sample space, both `[N]`."""

    kind: Literal["binary", "regression"]
    labels: Vector
    scores: Vector


def auc_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """AUC@N-steps, one panel per task: the sample space with its confidence band, and the entire space.

    Args:
        history: Evaluation reports as mappings, `{"step": N, "tasks": {name: {"kind", "sample_space",
            "entire_space"}}}` in any order. Regression tasks show R^2. An undefined metric leaves a gap.
    """
    ordered = sorted(history, key=lambda report: report["step"])
    steps = np.array([report["step"] for report in ordered])
    figure, panels = _panels("AUC@N-steps", list(ordered[-1]["tasks"]) if ordered else [], "optimizer steps")
    for task, axes in panels.items():
        reports = [report["tasks"][task] for report in ordered]
        _auc_panel(axes, steps, reports)
    shared_legend(figure, panels.values())
    return figure


def gate_distribution(weights: Mapping[str, Vector], experts: Sequence[str] = ()) -> Figure:
    """Mean softmax weight that each task's gate gives to each expert [MMoE, figure 6].

    Args:
        weights: Task to `[n_experts]` weights, which sum to one.
        experts: Names under the bars; left out: 0, 1, 2 ...
    """
    figure, panels = _panels("Gate weights", list(weights), "expert")
    top = max((float(np.max(share)) for share in weights.values()), default=1.0)
    for task, axes in panels.items():
        share = np.asarray(weights[task])
        positions = np.arange(len(share))
        axes.bar(positions, share, color=BLUE, width=0.8)
        axes.axhline(1 / len(share), color=ORANGE, linestyle="--", linewidth=1.2, label="uniform")
        axes.set(ylim=(0, min(1.0, top * 1.1)), ylabel="mean weight")
        names = list(experts) if len(experts) == len(share) else [str(position) for position in positions]
        stride = math.ceil(len(share) / 16)
        crowded = sum(map(len, names[::stride])) > 24
        axes.set_xticks(positions[::stride], names[::stride], rotation=90 if crowded else 0)
    shared_legend(figure, panels.values())
    return figure


def calibration(curves: Mapping[str, tuple[Vector, Vector, Vector]]) -> Figure:
    """Reliability diagram: mean label against mean score per bin; the area of a point grows with its rows.

    Args:
        curves: Task to (mean score `[bins]`, mean label `[bins]`, count `[bins]`); empty bins are left out.
    """
    figure, panels = _panels("Calibration", list(curves), "mean score")
    for task, axes in panels.items():
        score, label, count = (np.asarray(values, dtype=float) for values in curves[task])
        score, label, count = score[count > 0], label[count > 0], count[count > 0]
        limit = float(max(score.max(initial=0), label.max(initial=0), 1e-6)) * 1.08
        axes.plot([0, limit], [0, limit], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
        axes.plot(score, label, color=BLUE, linewidth=1.2)
        axes.scatter(
            score, label, s=12 + 90 * count / count.max(initial=1), color=BLUE, alpha=0.75, label="bin, area by rows"
        )
        axes.set(xlim=(0, limit), ylim=(0, limit), ylabel="mean label", aspect="equal")
        _few_ticks(axes)
    shared_legend(figure, panels.values())
    return figure


def histograms(tasks: Mapping[str, TaskScores]) -> Figure:
    """Distribution of the scores: split by label for binary tasks, beside the labels for regression tasks."""
    figure, panels = _panels("Scores and labels", list(tasks), "score")
    for task, axes in panels.items():
        labels, scores = (np.asarray(values, dtype=float) for values in tasks[task][1:])
        if tasks[task].kind == "binary":
            parts = {"label 0": scores[labels == 0], "label 1": scores[labels == 1]}
        else:
            parts = {"labels": labels, "predictions": scores}
            axes.set_xlabel("value")
        _overlaid(axes, parts)
    return figure


def _auc_panel(axes: Axes, steps: Vector, reports: Sequence[Mapping[str, Any]]) -> None:
    metric, label = ("auc", "AUC") if reports[-1]["kind"] == "binary" else ("r2", "R²")
    entire = _series([report["entire_space"][metric] for report in reports])
    inside = _series([report["sample_space"][metric] for report in reports])
    # Thick and pale: where the two spaces are the same rows, both lines can still be seen.
    axes.plot(steps, entire, color=ORANGE, alpha=0.45, linewidth=4, marker="s", markersize=4, label="entire space")
    axes.plot(steps, inside, color=BLUE, marker="o", markersize=3.5, label="sample space")
    if metric == "auc":
        bands = [report["sample_space"]["auc_interval"] or (None, None) for report in reports]
        low, high = (_series(side) for side in zip(*bands, strict=True))
        axes.fill_between(steps, low, high, color=BLUE, alpha=0.18, linewidth=0, label="confidence interval")
    axes.set_ylabel(label)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    _few_ticks(axes)
    if np.isfinite(inside).any():
        best = int(np.nanargmax(inside))
        axes.set_title(f"{axes.get_title()}: best {inside[best]:.4f} at {steps[best]:,}", fontsize=10)
    elif not np.isfinite(entire).any():
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "undefined", transform=axes.transAxes, ha="center", color=GREY)


def _overlaid(axes: Axes, parts: Mapping[str, Vector]) -> None:
    """Histograms over common bins, each with its own area of one, so that a rare class stays visible."""
    finite = {name: values[np.isfinite(values)] for name, values in parts.items()}
    bins = np.histogram_bin_edges(np.concatenate([*finite.values()]), bins=_BINS).tolist()
    for (name, values), color in zip(finite.items(), (GREY, ORANGE), strict=True):
        if len(values):
            title = f"{name} ({len(values):,})"
            axes.hist(values, bins, density=True, color=color, alpha=0.35)
            axes.hist(values, bins, density=True, color=color, histtype="step", linewidth=1.5, label=title)
    axes.set_ylabel("density")
    axes.margins(y=0.3)  # room for the legend
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    _few_ticks(axes)


def _panels(title: str, tasks: Sequence[str], xlabel: str) -> tuple[Figure, dict[str, Axes]]:
    """A figure with one titled panel per task, three in a row."""
    columns = min(_COLUMNS, max(1, len(tasks)))
    rows = math.ceil(max(1, len(tasks)) / columns)
    figure = Figure(figsize=(max(4.4, 3.6 * columns), 2.9 * rows + 0.8), dpi=120, layout="constrained")
    figure.suptitle(title, fontweight="bold")
    panels = {}
    for index, task in enumerate(tasks):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.set_title(task, fontsize=10)
        axes.set_xlabel(xlabel)
        panels[task] = plain(axes, "y")
    return figure, panels


def plain(axes: Axes, grid: Literal["both", "x", "y"] = "both") -> Axes:
    """The same axes without a box, over a pale grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def shared_legend(figure: Figure, panels: Iterable[Axes], columns: int = 8) -> None:
    """One legend below, with every label of the panels once."""
    entries = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if entries:
        columns = min(columns, len(entries))
        figure.legend(
            entries.values(), entries.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=9
        )


def _few_ticks(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))


def _series(values: Sequence[float | None]) -> Vector:
    return np.array([math.nan if value is None else value for value in values], dtype=float)
