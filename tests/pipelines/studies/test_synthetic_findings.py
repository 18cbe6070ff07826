"""The paper's findings on losses made to show them, and made to show the opposite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipelines.studies.record import Row
from pipelines.studies.synthetic.findings import FINDINGS, bootstrap, conclude, judge

P = (0.5, 0.9, 1.0)
# mean and spread of the final losses at each p, as the paper describes them
PUBLISHED = {
    "shared_bottom": [(0.40, 0.08), (0.30, 0.08), (0.25, 0.08)],
    "omoe": [(0.30, 0.05), (0.20, 0.03), (0.15, 0.02)],
    "mmoe": [(0.19, 0.02), (0.17, 0.02), (0.15, 0.02)],
}
REVERSED = {
    "shared_bottom": [(0.15, 0.01), (0.17, 0.01), (0.19, 0.01)],
    "omoe": [(0.20, 0.02), (0.25, 0.03), (0.30, 0.06)],
    "mmoe": [(0.20, 0.06), (0.30, 0.03), (0.40, 0.02)],
}


def rows(law: dict[str, list[tuple[float, float]]]) -> list[Row]:
    draw = np.random.default_rng(0)
    labels = [
        {"part": "labels", "model": name, "p": p, "runs": 100, "pearson_mean": mean, "pearson_std": 0.01}
        for name, means in (("labels", (0.4, 0.8, 0.99)), ("labels_linear", P))
        for p, mean in zip(P, means, strict=True)
    ]
    cells: list[dict[str, Any]] = [
        {"part": "models", "model": model, "p": p, "runs": 200, "learning_rate": 0.01, "loss_runs": {"0.01": values}}
        for model, at in law.items()
        for p, (mean, std) in zip(P, at, strict=True)
        for values in [(mean + std * (draw.gamma(4, 0.5, 200) - 2)).tolist()]
    ]
    related = [row | {"part": "relatedness"} for row in cells if row["model"] == "shared_bottom"]
    return [*labels, *related, *cells]


def verdicts(found: list[Row]) -> dict[str, str]:
    tuned = [row for row in found if row["learning_rate"] == "tuned"]
    return {key: conclude([row["verdict"] for row in tuned if row["finding"] == key]) for key in FINDINGS}


def test_losses_as_the_paper_describes_them_confirm_it() -> None:
    found = verdicts(judge(rows(PUBLISHED)))
    assert {key: found[key] for key in ("labels", "relatedness", "a", "b", "c", "d", "e")} == dict.fromkeys(
        ("labels", "relatedness", "a", "b", "c", "d", "e"), "holds"
    )


def test_losses_of_the_opposite_order_refute_it() -> None:
    found = verdicts(judge(rows(REVERSED)))
    assert {found[key] for key in ("relatedness", "a", "b", "c", "d")} == {"refuted"}
    assert found["e"] != "holds"
    assert found["f"] != "holds"


def test_every_comparison_shows_its_number_its_interval_and_what_is_claimed() -> None:
    row = next(row for row in judge(rows(PUBLISHED)) if row["finding"] == "c")
    assert row["low"] < row["value"] < row["high"]
    assert row["claimed"] == [-0.1, 0.1]
    assert (row["model"], row["p"], row["runs"]) == ("mmoe / omoe", [1], 200)


def test_a_learning_rate_at_which_a_run_diverged_is_not_judged_by_itself() -> None:
    given = rows(PUBLISHED)
    for row in given:
        if row["part"] == "models":
            row["loss_runs"] = row["loss_runs"] | {"1.0": [None, *row["loss_runs"]["0.01"][1:]]}
    assert {row["learning_rate"] for row in judge(given)} == {"tuned", "0.01"}


def test_intervals_are_paired() -> None:
    common = np.random.default_rng(1).normal(0, 10, 200)
    value, low, high = bootstrap(lambda x, y: x.mean(-1) - y.mean(-1), common + 1, common)
    assert (value, low, high) == pytest.approx((1, 1, 1))


def test_a_bootstrap_interval_is_near_the_normal_one_where_that_is_right() -> None:
    sample = np.random.default_rng(2).normal(0, 1, 400)
    value, low, high = bootstrap(lambda x: x.mean(-1), sample)
    reach = 1.96 * sample.std(ddof=1) / 20
    assert (low, high) == pytest.approx((value - reach, value + reach), abs=0.015)


@pytest.mark.parametrize(
    ("given", "conclusion"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "open", "refuted"], "in part: 1 of 3 hold, 1 refuted"),
        (["open", "refuted"], "refuted"),
        (["open", "open"], "open"),
    ],
)
def test_a_finding_holds_where_all_its_comparisons_do(given, conclusion) -> None:
    assert conclude(given) == conclusion
