"""The study's report and figures, made of the rows of its JSON alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.markdown import table
from pipelines.studies.markdown import source
from pipelines.studies.record import Record, Row
from pipelines.studies.warm_start.config import WarmStartStudyConfig
from ranking.tracking.figures import BLUE, GREEN, GREY, ORANGE, plain

_COLOURS = (GREY, BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9")
_MIN_POSITIVES = 10  # fewer on a day say nothing about a slice there


class Mean(NamedTuple):
    """Mean over days with its 95 % interval: the days' rows are different ones, so their errors are independent."""

    value: float
    low: float
    high: float
    days: int


def mean_of(rows: Sequence[Row], name: str) -> Mean | None:
    """Mean of a column over the days on which it is defined; None where it never is."""
    known = [row for row in rows if row[name] is not None]
    if not known:
        return None
    value = float(np.mean([row[name] for row in known]))
    reaches = np.array([(row[f"{name}_high"] - row[f"{name}_low"]) / 2 for row in known])
    reach = float(np.sqrt(np.square(reaches).sum()) / len(known))
    return Mean(value, value - reach, value + reach, len(known))


def summary(rows: Sequence[Row], config: WarmStartStudyConfig) -> list[Row]:
    """A row for every arm and slice: means over the days after the first, on which arms differ."""
    found: list[Row] = []
    days = [row for row in rows if row["part"] == "days" and row["day"] > str(config.days[1])]
    for arm in config.arms:
        for part in dict.fromkeys(row["slice"] for row in days):
            own = [row for row in days if (row["arm"], row["slice"]) == (arm, part)]
            means = {name: float(np.mean([row[name] for row in own])) for name in ("share", "cpu_s", "trained")}
            entry: Row = {"part": "summary", "arm": arm, "slice": part, "rows": sum(row["rows"] for row in own)}
            for task in config.tasks:
                enough = [row for row in own if row[f"{task}_positives"] >= _MIN_POSITIVES]
                for name in (f"{task}_auc", f"{task}_gain"):
                    mean = mean_of(enough, name)
                    entry[name] = None if mean is None else list(mean)
            found.append(entry | means)
    return found


def markdown(record: Record, config: WarmStartStudyConfig) -> str:
    """The whole report."""
    rows = [row for row in record.rows if row["part"] == "summary"]
    every = [row for row in rows if row["slice"] == "all"]
    tables = [row for row in record.rows if row["part"] == "tables"]
    return f"""# Ids that arrive every day

{source(record, "warm_start.json")}
KuaiRand-Pure, day by day: on {config.first} every arm has the model that `{config.reference}` trained on the
{config.window} days up to it. On each later day D an arm brings its model up to D and is scored on D + 1, which no
model or transform has seen; {len(config.days) - 1} such days, the last scored is {config.last}. Nothing is chosen by
these scores: every model is the end of its training. An id gets a row when the {config.window} days up to D hold it as
often as the schema asks (`min_count`); known ids keep their rows and their optimizer state, and scaling stays.

{_arms(config)}
## All exposures

Mean AUC over the days, its gain over another arm on the same rows in thousandths with a 95 % interval (DeLong, paired,
combined over days; bold where it excludes zero), and what a day costs: transforms, training, one evaluation. The
intervals hold the spread of the test rows, not that of seeds; a slice counts on days with ten positives. An
arm that goes on over a whole window meets every row once a day until it leaves the window.

{_overall(every, config)}
![AUC by day](warm_start_days.png)

## New ids

*of the day*: first seen on the day that is scored, so that no model has a row for them. *since the start*: first seen
after {config.first}; only tables that grow can have rows for them. *given rows since*: those that have one in the
growing tables and none in the first ones, old ids among them that come often only now.

{_slices(rows, config)}
![Gains by slice](warm_start_gains.png)

## What grew, and what moved

Keys with a row in the growing tables, and the number whose mean is farthest from the scaling that is kept, in kept
standard deviations, with the ratio of the spreads.

{_tables(tables)}"""


def draw(rows: Sequence[Row], config: WarmStartStudyConfig) -> dict[str, Figure]:
    """Every figure by name."""
    return {"days": _days(rows, config), "gains": _gains(rows, config)}


def _arms(config: WarmStartStudyConfig) -> str:
    def words(arm: str) -> str:
        """What an arm does, in one sentence."""
        each = config.arms[arm]
        if not each.days:
            return "the first model, never updated"
        begins = "yesterday's model of its own" if each.warm else "fresh weights"
        state = ", optimizer state left behind" * (each.settings.get("warm_start", {}).get("optimizer") is False)
        epochs = each.settings.get("training", {}).get("epochs", "as many")
        return (
            f"begins with {begins}{state}; trains on {each.days} day{'s'[: each.days > 1]}, {epochs} "
            f"pass{'' if epochs == 1 else 'es as the base says'}{'' if each.grow else '; tables do not grow'}"
        )

    return table(["arm", "every day"], [[f"`{arm}`", words(arm)] for arm in config.arms])


def _overall(rows: Sequence[Row], config: WarmStartStudyConfig) -> str:
    heading = ["arm", *_columns(config), "rows/day", "CPU s/day"]
    body = []
    for row in rows:
        cost = [f"{row['trained']:,.0f}", f"{row['cpu_s']:.1f}"] if config.arms[row["arm"]].days else ["-", "-"]
        body.append([f"`{row['arm']}`", *_cells(row, config), *cost])
    return table(heading, body)


def _slices(rows: Sequence[Row], config: WarmStartStudyConfig) -> str:
    heading = ["slice", "arm", "share of rows", *_columns(config)]
    body = [
        [row["slice"], f"`{row['arm']}`", f"{row['share']:.1%}", *_cells(row, config)]
        for row in sorted(rows, key=lambda row: str(row["slice"]))
        if row["slice"] != "all"
    ]
    return table(heading, body)


def _columns(config: WarmStartStudyConfig) -> list[str]:
    return ["gain over", *(f"{task} {what}" for task in config.tasks for what in ("AUC", "gain"))]


def _cells(row: Row, config: WarmStartStudyConfig) -> list[str]:
    rival = config.rival(row["arm"])
    cells = ["-" if rival == row["arm"] else f"`{rival}`"]
    for task in config.tasks:
        auc, gain = row[f"{task}_auc"], row[f"{task}_gain"]
        cells.append("-" if auc is None else f"{auc[0]:.4f}")
        cells.append("-" if gain is None or rival == row["arm"] else _gain(*gain[:3]))
    return cells


def _gain(value: float, low: float, high: float) -> str:
    text = f"{1000 * value:+.1f} [{1000 * low:+.1f}, {1000 * high:+.1f}]"
    return f"**{text}**" if low * high > 0 else text


def _tables(rows: Sequence[Row]) -> str:
    body = [
        [
            row["day"],
            f"{row['user_keys']:,}",
            f"{row['video_keys']:,}",
            f"{row['farthest']} {row['mean_shift']:+.2f} (x{row['spread']:.2f})",
        ]
        for row in rows
    ]
    return table(["day", "users", "videos", "farthest number"], body)


def _days(rows: Sequence[Row], config: WarmStartStudyConfig) -> Figure:
    """AUC on all rows of every scored day."""
    figure = Figure(figsize=(3.6 * len(config.tasks), 3.6), dpi=120, layout="constrained")
    shown = [row for row in rows if row["part"] == "days" and row["slice"] == "all"]
    for place, task in enumerate(config.tasks, start=1):
        axes = _panel(figure, place, len(config.tasks), task)
        for arm, colour in zip(config.arms, _COLOURS, strict=False):
            own = [row for row in shown if row["arm"] == arm]
            line = "--" if arm == config.reference else "-"
            days = [row["day"][5:] for row in own]
            axes.plot(
                days, [row[f"{task}_auc"] for row in own], line, color=colour, marker="o", markersize=3, label=arm
            )
        axes.set_xlabel("day scored")
        axes.set_ylabel("AUC" if place == 1 else "")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(config.arms), frameon=False)
    return figure


def _gains(rows: Sequence[Row], config: WarmStartStudyConfig) -> Figure:
    """Gain over the reference by slice, a dot and an interval for every arm that is compared with it."""
    arms = {
        arm: colour
        for arm, colour in zip(config.arms, _COLOURS, strict=False)
        if arm != config.reference and config.rival(arm) == config.reference
    }
    shown = [row for row in rows if row["part"] == "summary" and row["arm"] in arms]
    slices = list(dict.fromkeys(row["slice"] for row in shown))
    figure = Figure(figsize=(3.6 * len(config.tasks), 4.4), dpi=120, layout="constrained")
    for place, task in enumerate(config.tasks, start=1):
        axes = _panel(figure, place, len(config.tasks), task)
        for order, (arm, colour) in enumerate(arms.items()):
            own = {row["slice"]: row[f"{task}_gain"] for row in shown if row["arm"] == arm}
            height = np.array([-line - 0.2 * order for line, part in enumerate(slices) if own[part]])
            value, low, high, _ = 1000 * np.array([own[part] for part in slices if own[part]]).T
            axes.errorbar(
                value, height, xerr=[value - low, high - value], fmt="o", markersize=4, color=colour, label=arm
            )
        axes.axvline(0, color=GREY, linewidth=1)
        heights = [-line - 0.1 * (len(arms) - 1) for line in range(len(slices))]
        axes.set_yticks(heights, slices if place == 1 else [""] * len(slices))
    figure.supxlabel(f"gain over {config.reference}, thousandths of AUC", fontsize=9)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(config.arms), frameon=False)
    return figure


def _panel(figure: Figure, place: int, panels: int, title: str) -> Axes:
    axes = figure.add_subplot(1, panels, place)
    axes.set_title(title, fontsize=10)
    axes.tick_params(labelsize=8)
    return plain(axes)
