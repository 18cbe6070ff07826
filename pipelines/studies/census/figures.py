"""The study's pictures, drawn from the rows of its JSON alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.studies.census.config import CensusStudyConfig, GroupConfig
from pipelines.studies.census.published import PUBLISHED
from pipelines.studies.markdown import NAMES
from pipelines.studies.record import Row
from ranking.tracking.figures import BLUE, GREY, ORANGE, plain, shared_legend

_FAR = 0.03  # a published AUC this much below the lowest run is left out: it would squeeze all others


def draw(config: CensusStudyConfig, rows: Sequence[Row]) -> dict[str, Figure]:
    """Every figure by name; a group without a finished run has none."""
    parts = {name: [row for row in rows if row["group"] == group.number] for name, group in config.groups.items()}
    return {name: runs(config.groups[name], part) for name, part in parts.items() if part}


def runs(group: GroupConfig, rows: Sequence[Row]) -> Figure:
    """Test AUC of every run of every model on the main task, beside the published best and mean."""
    figure = Figure(figsize=(7.4, 1.4 + 0.45 * len(rows)), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(f"{group.main}: test AUC of every run", fontweight="bold", fontsize=11)
    order = sorted(rows, key=lambda row: row[f"{group.main}_mean"])
    for place, row in enumerate(order):
        _strip(axes, place, np.array(row[f"{group.main}_runs"]))
        _beside(axes, place, group, row, min(min(each[f"{group.main}_runs"]) for each in rows))
    axes.axvline(group.goal, color=ORANGE, linewidth=1, linestyle="--", label="tuned gradient-boosted tree")
    axes.set_yticks(range(len(order)), [NAMES[row["model"]] for row in order])
    axes.set_ylim(-0.6, len(order) - 0.4)
    plain(axes, "x")
    shared_legend(figure, [axes], columns=5)
    return figure


def _strip(axes: Axes, place: int, values: np.ndarray) -> None:
    spread = np.random.default_rng(0).uniform(-0.16, 0.16, len(values))
    axes.scatter(values, place + spread, s=7, color=BLUE, alpha=0.45, linewidths=0, label="a run")
    axes.plot([values.mean()] * 2, [place - 0.3, place + 0.3], color=BLUE, linewidth=2, label="their mean")


def _beside(axes: Axes, place: int, group: GroupConfig, row: Row, lowest: float) -> None:
    """The published values, where they are not too far off."""
    published = PUBLISHED.get(group.number, {}).get(row["model"])
    for name, value, marker in (
        [] if published is None else [("best", published.best, "D"), ("mean", published.mean, "o")]
    ):
        if value > lowest - _FAR:
            axes.scatter(
                value, place, s=26, marker=marker, facecolors="none", edgecolors=GREY, label=f"published {name}"
            )
