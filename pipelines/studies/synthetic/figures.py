"""The study's pictures, drawn from the rows of its JSON alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, ScalarFormatter

from pipelines.studies.record import Row
from ranking.tracking.figures import BLUE, GREEN, GREY, ORANGE, plain

_STYLES = {"shared_bottom": (GREY, ":"), "omoe": (ORANGE, "--"), "mmoe": (BLUE, "-")}
_NAMES = {"shared_bottom": "Shared-Bottom", "omoe": "OMoE", "mmoe": "MMoE"}
_BINS = 30


def draw(rows: Sequence[Row]) -> dict[str, Figure]:
    """Every figure by name."""
    part = {name: [row for row in rows if row["part"] == name] for name in ("labels", "relatedness", "models")}
    return {
        "labels": labels(part["labels"]),
        "relatedness": relatedness(part["relatedness"]),
        "curves": curves(part["models"]),
        "histograms": histograms(part["models"]),
    }


def labels(rows: Sequence[Row]) -> Figure:
    """Label correlation against p, with bars of two standard deviations over the repeats [MMoE, figure 2]."""
    figure, (axes,) = _panels("Correlation of the labels", ["p, the cosine of the weights"])
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="p itself")
    for model, label, color in (("labels_linear", "linear", GREEN), ("labels", "with sinusoids", BLUE)):
        p, mean, std = _columns([row for row in rows if row["model"] == model], "p", "pearson_mean", "pearson_std")
        axes.errorbar(p, mean, 2 * std, color=color, marker="o", markersize=3, capsize=3, linewidth=1.2, label=label)
    axes.set_ylabel("Pearson correlation, 2 sigma")
    axes.legend(frameon=False)
    return figure


def relatedness(rows: Sequence[Row]) -> Figure:
    """Mean loss curve of a narrow shared bottom at every p [MMoE, figure 3], and the final losses."""
    figure, (axes, final) = _panels("Shared-Bottom, 16 units: task relatedness", ["steps", "p"])
    shades = np.linspace(0.15, 0.85, len(rows))
    for row, shade in zip(rows, shades, strict=True):
        color = (shade, 0.35, 1 - shade)
        axes.plot(row["curve_step"], row["curve_loss_mean"], color=color, linewidth=1.3, label=f"p = {row['p']:g}")
    _log_scale(axes)
    axes.legend(frameon=False, fontsize=8)
    p, mean, std, runs = _columns(rows, "p", "loss_mean", "loss_std", "runs")
    final.errorbar(p, mean, 1.96 * std / np.sqrt(runs), color=BLUE, marker="o", markersize=4, capsize=3)
    final.set_ylabel("final loss, mean with 95 % interval")
    return figure


def curves(rows: Sequence[Row]) -> Figure:
    """Mean loss of the three models at each p, with the interval of the mean [MMoE, figure 5]."""
    values = sorted({row["p"] for row in rows})
    figure, panels = _panels("Loss over training", ["steps" for _ in values])
    for p, axes in zip(values, panels, strict=True):
        axes.set_title(f"p = {p:g}", fontsize=10)
        for row in _at(rows, p):
            step, mean, std = (np.array(row[f"curve_{key}"]) for key in ("step", "loss_mean", "loss_std"))
            reach = 1.96 * std / np.sqrt(row["runs"])
            color, line = _STYLES.get(row["model"], (GREEN, "-"))
            label = f"{_NAMES.get(row['model'], row['model'])}, rate {row['learning_rate']:g}"
            axes.plot(step, mean, color=color, linestyle=line, linewidth=1.4, label=label)
            axes.fill_between(step, mean - reach, mean + reach, color=color, alpha=0.2, linewidth=0)
        _log_scale(axes)
        axes.legend(frameon=False, fontsize=8)
    _share_limits(panels)
    return figure


def histograms(rows: Sequence[Row]) -> Figure:
    """Final losses of the runs of every model at each p [MMoE, figure 6]."""
    values = sorted({row["p"] for row in rows})
    figure, panels = _panels("Final losses of the runs", ["final loss" for _ in values])
    everything = np.concatenate([_final(row) for row in rows])
    bins = np.geomspace(everything.min(), everything.max() * 1.0001, _BINS).tolist()
    for p, axes in zip(values, panels, strict=True):
        axes.set_title(f"p = {p:g}", fontsize=10)
        for row in _at(rows, p):
            color, line = _STYLES.get(row["model"], (GREEN, "-"))
            label = _NAMES.get(row["model"], row["model"])
            axes.hist(_final(row), bins, color=color, alpha=0.15)
            axes.hist(_final(row), bins, color=color, histtype="step", linestyle=line, linewidth=1.5, label=label)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel("runs")
        axes.legend(frameon=False, fontsize=8)
    _share_limits(panels)
    return figure


def _panels(title: str, xlabels: Sequence[str]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(max(4.8, 3.7 * len(xlabels)), 3.7), dpi=120, layout="constrained")
    figure.suptitle(title, fontweight="bold")
    panels = [figure.add_subplot(1, len(xlabels), index + 1) for index in range(len(xlabels))]
    for axes, xlabel in zip(panels, xlabels, strict=True):
        axes.set_xlabel(xlabel)
        plain(axes, "y")
    return figure, panels


def _log_scale(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_ylabel("mean squared error, first task")


def _share_limits(panels: Sequence[Axes]) -> None:
    lows, highs = zip(*(axes.get_ylim() for axes in panels), strict=True)
    for axes in panels:
        axes.set_ylim(min(lows), max(highs))


def _at(rows: Sequence[Row], p: float) -> list[Row]:
    return [row for row in rows if row["p"] == p]


def _final(row: Row) -> np.ndarray:
    return np.array(row["loss_runs"][str(row["learning_rate"])])


def _columns(rows: Sequence[Row], *names: str) -> list[np.ndarray]:
    return [np.array([row[name] for row in rows], dtype=float) for name in names]
