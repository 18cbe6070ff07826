"""Pictures of what tasks share: how gates and experts fared, whether gradients agree, what sharing gains each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from ranking.tracking.figures import GREEN, GREY, ORANGE, PALETTE, plain, shared_legend

_SHARES = {"dead_experts": "dead experts", "dead_units": "dead ReLU units", "similarity": "similarity (CKA)"}
_DASHES = ("--", ":", "-.")  # colours are the tasks'


def expert_health(history: Sequence[Mapping[str, Any]], module: str) -> Figure:
    """Entropy of every gate of a mixture, and the state of its experts, by optimizer step.

    Args:
        history: evaluation reports as mappings, `{"step": N, "experts": {module: {"gates", "dead_experts", ...}}}`.
        module: the mixture.
    """
    ordered = sorted((report for report in history if module in report["experts"]), key=lambda report: report["step"])
    steps = [report["step"] for report in ordered]
    found = [report["experts"][module] for report in ordered]
    figure = Figure(figsize=(9.2, 3.6), dpi=120, layout="constrained")
    figure.suptitle(f"Gates and experts of {module}", fontweight="bold")
    gates = {
        name: [_number(each["gates"][name]["entropy"]) for each in found]
        for name in (found[-1]["gates"] if found else ())
    }
    experts = {title: [_number(each[name]) for each in found] for name, title in _SHARES.items()}
    left, right = figure.subplots(1, 2)
    for (name, values), color in zip(gates.items(), cycle(PALETTE), strict=False):
        left.plot(steps, values, color=color, marker="o", markersize=3.5, label=name)
    for (name, values), dashes in zip(experts.items(), _DASHES, strict=True):
        right.plot(steps, values, color="black", linestyle=dashes, marker="o", markersize=3.5, label=name)
    for axes, title in ((left, "entropy of the mean gate weights"), (right, "experts")):
        plain(axes).set(title=title, xlabel="optimizer steps", ylim=(-0.05, 1.05))
    shared_legend(figure, [left, right], columns=5)
    return figure


def gradient_cosines(cosines: npt.NDArray[np.float64], tasks: Sequence[str]) -> Figure:
    """Mean cosine of the tasks' gradients on their shared layer: below zero they pull against each other.

    Args:
        cosines: `[T, T]`, NaN where two tasks never had examples together.
        tasks: T names.
    """
    size = 2.4 + 0.7 * len(tasks)
    figure = Figure(figsize=(size + 1, size), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(cosines, cmap="PuOr", vmin=-1, vmax=1)
    axes.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right")
    axes.set_yticks(range(len(tasks)), tasks)
    for row, column in np.ndindex(cosines.shape):
        value = cosines[row, column]
        text, color = ("", GREY) if np.isnan(value) else (f"{value:.2f}", "white" if abs(value) > 0.6 else "black")
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
    axes.set_title("Cosine of task gradients", fontweight="bold")
    figure.colorbar(image, ax=axes, shrink=0.8)
    return figure


def gains(rows: Sequence[tuple[str, str, float, float, float]]) -> Figure:
    """What sharing gained each task over training it alone, with intervals.

    Args:
        rows: task, metric, difference, and both ends of its interval; grey where it holds zero.
    """
    figure = Figure(figsize=(7, 1.4 + 0.45 * len(rows)), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for place, (_, _, value, low, high) in enumerate(rows):
        color = GREEN if low > 0 else ORANGE if high < 0 else GREY
        axes.plot([low, high], [place, place], color=color, linewidth=2)
        axes.plot(value, place, "o", color=color)
    axes.axvline(0, color="black", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(rows)), [f"{task} ({metric})" for task, metric, *_ in rows])
    axes.invert_yaxis()
    axes.set(title="Gain from sharing", xlabel="shared model less the task on its own")
    plain(axes)
    return figure


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
