"""The pictures of sharing show what they are given, undefined values too."""

from __future__ import annotations

from typing import Any

import numpy as np

from ranking.tracking.figures import PALETTE
from ranking.tracking.sharing import expert_health, gains, gradient_cosines


def report(step: int, entropy: float | None) -> dict[str, Any]:
    gates = {name: {"entropy": entropy} for name in ("click", "like")}
    health = {"gates": gates, "dead_experts": 0.25, "dead_units": None, "similarity": 0.5}
    return {"step": step, "experts": {"architecture": health}}


def test_every_gate_and_state_of_the_experts_has_a_curve_by_step() -> None:
    left, right = expert_health([report(8, None), report(4, 0.9)], "architecture").axes
    assert [line.get_label() for line in left.lines] == ["click", "like"]
    assert list(left.lines[0].get_xdata()) == [4, 8]
    np.testing.assert_equal(left.lines[0].get_ydata(), [0.9, np.nan])
    assert [line.get_label() for line in right.lines] == ["dead experts", "dead ReLU units", "similarity (CKA)"]


def test_the_legend_of_gates_and_experts_lies_beside_the_curves_and_gates_have_their_tasks_colours() -> None:
    figure = expert_health([report(4, 0.9)], "architecture")
    assert [axes.get_legend() for axes in figure.axes] == [None, None]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][:3] == ["click", "like", "dead experts"]
    gates, experts = ([line.get_color() for line in axes.lines] for axes in figure.axes)
    assert (gates, set(experts)) == (list(PALETTE[:2]), {"black"})


def test_a_history_from_before_is_drawn_empty() -> None:
    assert len(expert_health([{"step": 1, "experts": {}}], "architecture").axes) == 2


def test_cosines_are_written_into_their_cells_and_undefined_ones_left_out() -> None:
    axes = gradient_cosines(np.array([[1, -0.25], [np.nan, 1]]), ["click", "like"]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["1.00", "-0.25", "", "1.00"]


def test_gains_and_losses_differ_in_colour_from_what_holds_zero() -> None:
    axes = gains([("a", "auc", 0.2, 0.1, 0.3), ("b", "auc", 0, -0.1, 0.1), ("c", "r2", -0.2, -0.3, -0.1)]).axes[0]
    colors = [line.get_color() for line in axes.lines if line.get_marker() == "o"]
    assert len(set(colors)) == 3
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a (auc)", "b (auc)", "c (r2)"]
