from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from ranking.tracking.figures import TaskScores, auc_curves, calibration, gate_distribution, histograms

TASKS = ("click", "like", "follow", "long_view_30s", "comment", "share", "play_time")


def report(step: int, undefined: str = "") -> dict[str, Any]:
    tasks = {}
    for number, name in enumerate(TASKS):
        kind = "regression" if name == "play_time" else "binary"
        auc = None if name == undefined or kind == "regression" else 0.6 + step / 1e6 + 0.01 * number
        interval = None if auc is None else (auc - 0.01, auc + 0.01)
        space = {"auc": auc, "auc_interval": interval, "r2": 0.3 if kind == "regression" else None}
        tasks[name] = {"kind": kind, "sample_space": space, "entire_space": {**space, "auc_interval": None}}
    return {"step": step, "tasks": tasks}


def draw_auc() -> Figure:
    return auc_curves([report(step, undefined="share") for step in range(20_000, 220_000, 20_000)])


def draw_gates() -> Figure:
    names = [f"shared {number}" for number in range(8)]
    return gate_distribution({task: np.full(8, 1 / 8) for task in TASKS}, names)


def draw_calibration() -> Figure:
    score = np.linspace(0.0005, 0.006, 10)
    return calibration(
        {task: (score * 10**number, score * 10**number, np.arange(10)) for number, task in enumerate(TASKS[:3])}
    )


def draw_histograms() -> Figure:
    generator = np.random.default_rng(0)
    labels, scores = generator.random(1000) < 0.05, generator.random(1000)
    return histograms(
        {
            "click": TaskScores("binary", labels, scores),
            "like": TaskScores("binary", np.zeros(1000), scores),
            "play_time": TaskScores("regression", 9 * scores, generator.random(1000)),
        }
    )


FIGURES = [draw_auc, draw_gates, draw_calibration, draw_histograms]


@pytest.mark.parametrize("draw", FIGURES)
def test_no_text_covers_another_or_leaves_the_figure(draw: Callable[[], Figure]) -> None:
    figure = draw()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [(text.get_text(), text.get_window_extent(canvas.get_renderer()).padded(-1)) for text in shown(figure)]
    assert [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if one.overlaps(other)] == []
    assert [text for text, box in boxes if not (figure.bbox.contains(*box.min) and box.xmax < figure.bbox.xmax)] == []


def shown(figure: Figure) -> Iterator[Text]:
    """Every text that is drawn; matplotlib also keeps labels of ticks outside the view."""
    texts = [text for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        texts += axes.get_legend().get_texts() if axes.get_legend() else []
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
            texts += [label for place, label in ticks if low <= place <= high]
    yield from (text for text in texts if text.get_text().strip())


@pytest.mark.parametrize("draw", FIGURES)
def test_every_panel_is_labelled_and_renders_to_a_png(draw: Callable[[], Figure]) -> None:
    figure = draw()
    image = io.BytesIO()
    figure.savefig(image, format="png")
    assert image.getvalue().startswith(b"\x89PNG")
    for axes in figure.axes:
        assert axes.get_title()
        assert axes.get_xlabel()
        assert axes.get_ylabel()


def test_the_curve_names_its_best_step_and_leaves_gaps_where_undefined() -> None:
    history = [report(300), report(100), report(200, undefined="click")]
    history[1]["tasks"]["click"]["sample_space"]["auc"] = 0.9
    click = auc_curves(history).axes[0]
    assert click.get_title() == "click: best 0.9000 at 100"
    inside = click.get_lines()[1]
    assert list(inside.get_xdata()) == [100, 200, 300]
    assert np.isnan(np.asarray(inside.get_ydata(), dtype=float)).tolist() == [False, True, False]


def test_a_task_without_support_says_undefined() -> None:
    share = auc_curves([report(100, undefined="share")]).axes[TASKS.index("share")]
    assert [text.get_text() for text in share.texts] == ["undefined"]


def test_empty_bins_are_left_out_of_the_reliability_diagram() -> None:
    axes = calibration({"click": (np.array([0.1, 0.0, 0.9]), np.array([0.2, 0.0, 0.8]), np.array([5, 0, 7]))}).axes[0]
    assert axes.collections[0].get_offsets().tolist() == [[0.1, 0.2], [0.9, 0.8]]


def test_gate_bars_are_the_weights() -> None:
    axes = gate_distribution({"click": np.array([0.7, 0.2, 0.1])}).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.7, 0.2, 0.1]


def test_a_run_without_evaluations_still_draws() -> None:
    assert auc_curves([]).axes == []
