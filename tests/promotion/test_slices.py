"""Slices: no part of the rows may fall behind a gain on the whole."""

import dataclasses

import numpy as np
import pytest
from pydantic import ValidationError

from ranking.metrics import Predictions
from ranking.promotion.gate import GateConfig, decide
from ranking.promotion.slices import Slice, SliceConfig
from ranking.promotion.verdict import Verdict
from tests.promotion.judged import CLICK, CONFIG, ROWS, blurred, changed, model


def parts(predictions: Predictions, margin: float = 0.02, **settings) -> list[Slice]:
    """The first tenth of the rows, the other nine, and a handful."""
    order, config = np.arange(len(predictions.rows)), SliceConfig(column="x", margin=margin, **settings)
    masks = {"x=few": order < len(order) // 10, "x=most": order >= len(order) // 10, "x=rare": order < 40}
    return [Slice(name, predictions.rows, mask, config) for name, mask in masks.items()]


def hurt_in_the_first_tenth() -> Predictions:
    few = np.arange(ROWS // 10)
    return changed(model(), CLICK, lambda scores: np.roll(scores, 7), few)


def test_a_slice_that_falls_fails_though_the_whole_gains():
    challenger, champion = hurt_in_the_first_tenth(), blurred(0.3)
    assert decide(challenger, champion, CONFIG).promote
    verdict = decide(challenger, champion, CONFIG, parts(model()))
    found = [check for check in verdict.checks if not check.passed]
    assert [(check.task, check.part) for check in found] == [("click", "x=few")]
    assert found[0].reason.startswith("click @ x=few: auc_change -0.")
    assert found[0].reason.endswith("required >= -0.0200")
    assert found[0].value < -0.02 > found[0].high - 0.02
    assert "gate.auc_change.click.x_few" in verdict.tags()
    assert not any("x_most" in key for key in verdict.tags())


def test_a_slice_with_too_little_support_is_not_judged():
    verdict = decide(model(), blurred(0.3), CONFIG, parts(model()))
    rare = [check for check in verdict.checks if check.part == "x=rare"]
    assert [(check.status, check.value) for check in rare] == [("not judged", None)] * 3
    assert "needed" in rare[0].note
    assert verdict.promote


def test_a_loss_within_noise_or_margin_does_not_fail_a_slice():
    challenger, champion = hurt_in_the_first_tenth(), blurred(0.3)
    assert decide(challenger, champion, CONFIG, parts(model(), margin=0.9)).promote
    noisy = decide(model(seed=3), model(seed=4), CONFIG.model_copy(update={"improve": "none"}), parts(model(), 0.0))
    assert noisy.promote
    assert {check.note for check in noisy.checks if check.part and check.note} >= {"within noise"}


def test_slices_are_cut_in_the_order_of_the_rows():
    mixed = np.random.default_rng(0).permutation(ROWS)
    challenger, champion = hurt_in_the_first_tenth(), blurred(0.3)
    columns = {key: getattr(challenger, key)[mixed] for key in ("scores", "labels", "in_space", "observed", "rows")}
    shuffled = dataclasses.replace(challenger, **columns)
    cut = parts(model())
    assert decide(shuffled, champion, CONFIG, cut) == decide(challenger, champion, CONFIG, cut)


def test_a_slice_that_is_known_in_part_fails_where_a_row_of_the_rest_was_scored():
    """Row groups of the slice's own column are in quarantine: those before, so that every row would move up."""
    challenger, champion = hurt_in_the_first_tenth(), blurred(0.3)
    few, *_ = parts(model())
    known = few.rows >= few.rows[100]
    rest = few._replace(rows=few.rows[known], mask=few.mask[known])
    found = [check for check in decide(challenger, champion, CONFIG, [rest]).checks if check.part]
    assert [(check.name, check.task, check.passed) for check in found] == [
        ("rows", task, False) for task in challenger.names
    ]
    assert found[0].reason == (
        "click @ x=few: rows undefined, required known to be in or out (unknown of 100 of 4000 rows)"
    )


def test_rows_that_nobody_scored_may_be_known():
    """Row groups of a label or a feature are in quarantine."""
    few, *_ = parts(model())
    kept = np.arange(ROWS) >= 100
    challenger, champion = (
        dataclasses.replace(
            each, **{key: getattr(each, key)[kept] for key in ("scores", "labels", "in_space", "observed", "rows")}
        )
        for each in (hurt_in_the_first_tenth(), blurred(0.3))
    )
    verdict = decide(challenger, champion, CONFIG, [few])
    assert [(c.task, c.part) for c in verdict.checks if not c.passed] == [("click", "x=few")]
    assert verdict == decide(challenger, champion, CONFIG, [few._replace(rows=few.rows[kept], mask=few.mask[kept])])


def test_without_a_champion_no_slice_is_judged():
    assert not [check for check in decide(model(), None, CONFIG, parts(model())).checks if check.part]


@pytest.mark.parametrize("values", [{}, {"column": "tab", "unseen": "user"}, {"where": "tab +"}])
def test_a_slice_is_one_column_or_expression_or_feature(values):
    with pytest.raises(ValidationError):
        SliceConfig(**values)


def test_many_slices_of_equal_models_raise_no_false_alarm():
    generator, blocked = np.random.default_rng(8), 0
    config = GateConfig(margin=0.5, improve="none", calibration=(0, 100), ece_max=1)
    labels, space = np.arange(2000)[:, None] % 3 == 0, np.ones((2000, 1), bool)
    rows, settings = np.arange(2000), SliceConfig(column="x", margin=0.0)
    cut = [Slice(f"x={i}", rows, rows % 8 == i, settings) for i in range(8)]
    for _ in range(60):
        shared, *own = generator.normal(size=(3, 2000)) + labels[:, 0]
        one, other = (
            Predictions(("click",), ("binary",), score[:, None], labels, space, space, np.arange(2000))
            for score in (1 / (1 + np.exp(-shared - noise)) for noise in own)
        )
        blocked += not decide(one, other, config, cut).promote
    assert blocked <= 6  # one in forty by chance; without correction one in five


def test_a_verdict_survives_as_json_of_bounded_length():
    verdict = decide(hurt_in_the_first_tenth(), blurred(0.3), CONFIG, parts(model()))
    assert Verdict.load(verdict.dump()) == verdict
    check = next(check for check in verdict.checks if check.part and check.passed)
    many = Verdict(verdict.checks + (check,) * 2000, verdict.notes)
    assert len(many.dump()) < 90_000
    kept = Verdict.load(many.dump())
    assert (kept.promote, kept.reason) == (verdict.promote, verdict.reason)
    assert "slices that passed are left out" in kept.notes[-1]
