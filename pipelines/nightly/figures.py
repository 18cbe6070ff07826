"""The figures of a night's report and of the summary over nights; colours safe for the colour-blind."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipelines.nightly.day import effect
from pipelines.nightly.night import Duel, Night, Score
from ranking.tracking.figures import BLUE, GREEN, GREY, ORANGE, PALETTE, shared_legend

_PANEL = (3.7, 2.5)  # inches


def changes(duels: Sequence[Duel]) -> Figure:
    """Challenger less champion, judged task by task, with intervals; colour says what those allow to say."""
    shown = [duel for duel in duels if duel.judged and duel.change and duel.change.value is not None]
    figure, (axes,) = _row(1, (7.4, 0.36 * len(shown) + 1.3))
    for place, duel in enumerate(reversed(shown)):
        change = duel.change or Score(value=None)
        colour = {"better": GREEN, "worse": ORANGE}.get(reading(duel), GREY)
        axes.plot([change.low, change.high], [place, place], color=colour, linewidth=2.5, solid_capstyle="round")
        axes.plot(change.value, place, "o", color=colour, markersize=7)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [title(duel) for duel in reversed(shown)])
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlabel("← champion better        challenger less champion        challenger better →")
    axes.grid(axis="x", color="#E5E5E5")
    return figure


def experts(weights: Sequence[Sequence[float]], tasks: Sequence[str]) -> Figure:
    """Share of every expert in every task's gate, as stacked bars."""
    figure, (axes,) = _row(1, (7.4, 0.36 * len(weights) + 1.3))
    table = np.asarray(weights, dtype=float)[::-1]
    left = np.zeros(len(table))
    for expert, share in enumerate(table.T):
        axes.barh(range(len(table)), share, left=left, color=PALETTE[expert % len(PALETTE)], label=str(expert))
        left += share
    axes.set_yticks(range(len(table)), list(tasks)[::-1])
    axes.set_xlim(0, 1)
    axes.set_xlabel("mean gate weight")
    figure.legend(title="expert", loc="outside right center", frameon=False, fontsize=8)
    return figure


def quality(nights: Sequence[Night]) -> Figure:
    """AUC (R^2) of champion and challenger on every judging day, a panel a task."""
    judged = [night for night in nights if night.duels and night.plan]
    tasks = list(dict.fromkeys(title(duel) for night in judged for duel in night.duels))
    figure, panels = _grid(len(tasks))
    for axes, task in zip(panels, tasks, strict=True):
        found = [
            (place, night, duel) for place, night in enumerate(judged) for duel in night.duels if title(duel) == task
        ]
        _scores(axes, [(place - 0.08, duel.champion) for place, _, duel in found if duel.champion], GREY, "champion")
        _scores(axes, [(place + 0.08, duel.challenger) for place, _, duel in found], BLUE, "challenger")
        won = [
            (p, d.challenger.value) for p, n, d in found if n.outcome == "promoted" and d.challenger.value is not None
        ]
        axes.plot([p + 0.08 for p, _ in won], [v for _, v in won], "*", color=GREEN, markersize=12, label="promoted",
                  linestyle="none")  # fmt: skip
        axes.set_title(task, fontsize=10)
        _days(axes, [night.plan.judge.strftime("%d %b") for night in judged if night.plan])
    shared_legend(figure, panels)
    return figure


def data(nights: Sequence[Night]) -> Figure:
    """Rows and largest drift of every day; a bad day stands out, and one that was not compared says so."""
    figure, (rows, moved) = _row(2, (2 * _PANEL[0] + 0.6, _PANEL[1] + 0.4))
    colours = [ORANGE if night.outcome == "bad_data" else BLUE for night in nights]
    rows.bar(range(len(nights)), [night.data.rows for night in nights], color=colours)
    rows.plot([night.data.usual_rows or math.nan for night in nights], "_", color="black", markersize=16, label="usual")
    rows.set_title("rows of the day", fontsize=10)
    largest = [max(map(effect, night.data.drift), default=0.0) for night in nights]
    moved.bar(range(len(nights)), largest, color=colours)
    moved.set_ylim(bottom=0)
    for place in (place for place, night in enumerate(nights) if night.data.reference is None):
        moved.annotate("not compared", (place, 0), (0, 3), textcoords="offset points", rotation=90, ha="center",
                       color=GREY, fontsize=8)  # fmt: skip
    moved.set_title("largest drift of a feature (KS, PSI of ids)", fontsize=10)
    for axes in (rows, moved):
        _days(axes, [night.day.strftime("%d %b") for night in nights])
    shared_legend(figure, [rows])
    return figure


def gates(nights: Sequence[Night]) -> Figure:
    """Effective number of experts of every task's gate by night, a panel a layer."""
    trained = [night for night in nights if night.gates and night.duels]
    layers = list(dict.fromkeys(name for night in trained for name in night.gates))
    figure, panels = _grid(len(layers))
    for axes, layer in zip(panels, layers, strict=True):
        tasks = [duel.task for duel in trained[-1].duels] if trained else []
        counts = [[effective(weights) for weights in night.gates.get(layer, [])] for night in trained]
        width = max(map(len, counts), default=0)
        for task in range(width):
            line = [count[task] if task < len(count) else math.nan for count in counts]
            name = tasks[task] if width == len(tasks) else "all tasks"
            axes.plot(line, marker="o", markersize=4, color=PALETTE[task % len(PALETTE)], label=name)
        axes.set_title(f"experts in use, {layer}", fontsize=10)
        axes.set_ylim(bottom=0.9)
        _days(axes, [night.day.strftime("%d %b") for night in trained])
    shared_legend(figure, panels)
    return figure


def title(duel: Duel) -> str:
    """Task and metric."""
    return f"{duel.task} ({'AUC' if duel.metric == 'auc' else 'R²'})"


def reading(duel: Duel) -> str:
    """What the interval of the change allows to say."""
    change = duel.change
    if change is None or change.low is None or change.high is None:
        return "first model" if duel.champion is None else "undefined"
    return "better" if change.low > 0 else "worse" if change.high < 0 else "no clear difference"


def effective(weights: Sequence[float]) -> float:
    """Effective number of experts behind mean gate weights: exp of their entropy; 1 is one expert, n is uniform."""
    present = np.asarray([weight for weight in weights if weight > 0], dtype=float)
    return float(np.exp(-(present * np.log(present)).sum()))


def _scores(axes: Axes, scores: Sequence[tuple[float, Score | None]], colour: str, label: str) -> None:
    """Values over places, with their intervals."""
    found = [(place, score) for place, score in scores if score and score.value is not None]
    for place, score in found:
        if score.low is not None and score.high is not None:
            axes.plot([place, place], [score.low, score.high], color=colour, linewidth=1.6, alpha=0.6)
    values = [score.value for _, score in found]
    axes.plot([place for place, _ in found], values, "o-", color=colour, markersize=5, linewidth=1, label=label)


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    """Panels, three in a row."""
    columns = min(3, max(1, count))
    rows = math.ceil(max(1, count) / columns)
    figure = Figure(figsize=(max(7.4, _PANEL[0] * columns), _PANEL[1] * rows + 0.5), dpi=120, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1, w_pad=0.06)
    return figure, [_bare(figure.add_subplot(rows, columns, place + 1)) for place in range(count)]


def _row(count: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    return figure, [_bare(figure.add_subplot(1, count, place + 1)) for place in range(count)]


def _bare(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    return axes


def _days(axes: Axes, names: Sequence[str]) -> None:
    """Days under the axis, at most eight of them named."""
    stride = max(1, math.ceil(len(names) / 8))
    axes.set_xticks(range(0, len(names), stride), names[::stride], fontsize=8)
    axes.set_xlim(-0.6, max(len(names) - 0.4, 0.6))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.grid(axis="y", color="#E5E5E5")
