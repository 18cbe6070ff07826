"""The gate: only a better, calibrated model passes, and what cannot be measured never does."""

import dataclasses

import numpy as np
import pytest
from pydantic import ValidationError

from ranking.errors import InputError
from ranking.metrics import Predictions, paired_delong, r2
from ranking.promotion.gate import GateConfig, decide
from tests.promotion.judged import CLICK, CONFIG, LIKE, ROWS, WATCH, blurred, changed, failed, model, narrowed


def test_a_better_model_passes_every_check():
    verdict = decide(model(), blurred(0.3), CONFIG)
    assert verdict.promote
    assert [(check.name, check.task) for check in verdict.checks] == [
        ("auc_change", "click"),
        ("calibration", "click"),
        ("ece", "click"),
        ("auc_change", "like"),
        ("calibration", "like"),
        ("ece", "like"),
        ("r2_change", "watch"),
        ("improvement", ""),
    ]
    click = verdict.checks[0]
    champion, own = blurred(0.3), model()
    assert click[4:7] == paired_delong(champion.scores[:, 0], own.scores[:, 0], own.labels[:, 0])[:3]
    assert verdict.checks[-1].value == pytest.approx(click.value / 2)  # the mean over click and like, not watch


@pytest.mark.parametrize(("task", "check"), [(CLICK, "auc_change"), (LIKE, "auc_change"), (WATCH, "r2_change")])
def test_a_worse_task_fails_alone(task, check):
    verdict = decide(blurred(0.4, task), model(), CONFIG.model_copy(update={"improve": "none"}))
    assert failed(verdict) == {(check, model().names[task])}
    found = next(item for item in verdict.checks if not item.passed)
    assert found.low < found.value < -0.01
    assert found.reason.startswith(f"{model().names[task]}: {check} -0.")
    assert found.reason.endswith("required > -0.0100")


def test_a_task_may_lose_less_than_its_margin_where_others_gain():
    challenger, champion = blurred(0.02, LIKE), blurred(0.3, CLICK)
    assert not decide(challenger, champion, GateConfig(margin=0.001, resamples=100)).promote
    verdict = decide(challenger, champion, GateConfig(margin=0.001, margins={"like": 0.05, "watch": 0.05}))
    assert verdict.promote
    assert verdict.checks[3].value < 0


def test_what_too_few_rows_cannot_tell_is_not_taken_for_equal():
    challenger, champion = blurred(0.02), model(seed=9)
    few = [
        dataclasses.replace(
            predictions,
            **{key: getattr(predictions, key)[:400] for key in ("scores", "labels", "in_space", "observed", "rows")},
        )
        for predictions in (challenger, champion)
    ]
    config = GateConfig(tasks=("click",), margin=0.02, improve="none")
    click = decide(*few, config).checks[0]
    assert click.low < -0.02 < click.value
    assert not click.passed
    assert click.reason.endswith("(too few rows to tell)")


def test_the_champion_over_again_does_not_replace_itself():
    verdict = decide(model(), model(), CONFIG)
    assert failed(verdict) == {("improvement", "")}
    assert verdict.reason == "improvement +0.0000, required > 0.0000 (mean of 2 tasks)"
    assert decide(model(), model(), CONFIG.model_copy(update={"improve": "none"})).promote


def test_the_gain_asked_for():
    challenger, champion = model(), blurred(0.3)
    gain = decide(challenger, champion, CONFIG).checks[-1].value
    for config, passes in (
        (CONFIG.model_copy(update={"min_gain": 0.9 * gain}), True),
        (CONFIG.model_copy(update={"min_gain": 1.1 * gain}), False),
        (CONFIG.model_copy(update={"min_gain": 1.1 * gain, "improve": "any"}), True),
        (CONFIG.model_copy(update={"tasks": ("like", "watch")}), False),
    ):
        assert decide(challenger, champion, config).promote == passes


def test_a_regression_task_alone_is_judged_by_r2():
    config = CONFIG.model_copy(update={"tasks": ("watch",)})
    verdict = decide(model(), blurred(0.3, WATCH), config)
    assert verdict.promote
    assert verdict.checks[-1].value == verdict.checks[0].value > 0.1


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1.5, -0.1])
def test_a_score_that_cannot_be_served_fails_even_outside_the_sample_space(wrong):
    outside = np.flatnonzero(~model().in_space[:, LIKE])[:2]
    verdict = decide(changed(model(), LIKE, lambda _: wrong, outside), blurred(0.3), CONFIG)
    assert ("scores", "like") in failed(verdict)
    assert "2 of 4000 of the challenger are not" in verdict.reason
    assert ("auc_change", "click") not in failed(verdict)


def test_a_champion_that_cannot_be_scored_blocks_too():
    verdict = decide(model(), changed(model(), CLICK, lambda _: np.nan, slice(1)), CONFIG)
    assert ("scores", "click") in failed(verdict)
    assert "1 of 4000 of the champion are not" in verdict.reason


def test_all_predictions_nan_fail_every_task():
    challenger = dataclasses.replace(model(), scores=np.full_like(model().scores, np.nan))
    assert {("scores", task) for task in model().names} <= failed(decide(challenger, model(), CONFIG))
    assert {("scores", task) for task in model().names} == failed(decide(challenger, None, CONFIG))


@pytest.mark.parametrize("champion", [None, "same"])
@pytest.mark.parametrize(("positives", "why"), [(0, "0 positives"), (9, "9 positives"), (ROWS, "0 negatives")])
def test_without_both_classes_a_task_is_undefined_and_fails(champion, positives, why):
    labels = model().labels.copy()
    labels[:, CLICK] = np.arange(ROWS) < positives
    predictions = dataclasses.replace(model(), labels=labels)
    verdict = decide(predictions, champion and predictions, CONFIG.model_copy(update={"improve": "none"}))
    assert failed(verdict) == {("support", "click")}
    assert f"{why} in 4000 rows, 10 needed" in verdict.reason


def test_an_empty_sample_space_fails():
    in_space = model().in_space.copy()
    in_space[:, LIKE] = False
    verdict = decide(dataclasses.replace(model(), in_space=in_space), None, CONFIG)
    assert failed(verdict) == {("support", "like")}


def test_no_task_at_all_is_no_reason_to_promote():
    nothing = np.zeros((5, 0))
    predictions = Predictions((), (), nothing, nothing, nothing.astype(bool), nothing.astype(bool), np.arange(5))
    assert not decide(predictions, None, CONFIG).promote


@pytest.mark.parametrize("factor", [0.7, 1.4])
def test_a_miscalibrated_model_fails_however_well_it_ranks(factor):
    champion = changed(blurred(0.3), CLICK, lambda scores: scores * 0.7)
    challenger = changed(model(), CLICK, lambda scores: np.minimum(scores, 0.7) * factor)
    verdict = decide(challenger, champion, CONFIG)
    assert ("calibration", "click") in failed(verdict)
    assert ("auc_change", "click") not in failed(verdict)
    assert "required 0.8 to 1.25" in verdict.reason


def test_a_model_calibrated_on_the_whole_only_fails_by_its_ece():
    challenger = changed(model(), CLICK, lambda scores: (scores > 0.5) * 0.98 + 0.01)
    verdict = decide(challenger, None, CONFIG.model_copy(update={"tasks": ("click",)}))
    assert failed(verdict) == {("ece", "click")}
    assert 0.9 < verdict.checks[1].value < 1.1


def test_the_order_of_the_rows_changes_nothing():
    mixed = np.random.default_rng(0).permutation(ROWS)
    champion = blurred(0.3)
    columns = {key: getattr(champion, key)[mixed] for key in ("scores", "labels", "in_space", "observed", "rows")}
    assert decide(model(), dataclasses.replace(champion, **columns), CONFIG) == decide(model(), champion, CONFIG)


def test_other_rows_are_no_comparison():
    champion = dataclasses.replace(blurred(0.3), rows=model().rows + 1)
    assert failed(decide(model(), champion, CONFIG)) == {("rows", "")}
    fewer = {key: getattr(champion, key)[:-1] for key in ("scores", "labels", "in_space", "observed", "rows")}
    verdict = decide(model(), dataclasses.replace(champion, **fewer), CONFIG)
    assert failed(verdict) == {("rows", "")}
    assert "challenger scored on 4000, champion on 3999" in verdict.reason


@pytest.mark.parametrize("field", ["labels", "in_space"])
def test_other_labels_or_spaces_are_no_comparison(field):
    columns = getattr(model(), field).copy()
    columns[7, CLICK] = not columns[7, CLICK]
    champion = dataclasses.replace(blurred(0.3), **{field: columns})
    assert ("rows", "click") in failed(decide(model(), champion, CONFIG))


def test_a_new_task_is_held_to_its_floor():
    champion = narrowed(blurred(0.3), WATCH, CLICK)
    assert decide(model(), champion, CONFIG).promote
    verdict = decide(model(), champion, CONFIG.model_copy(update={"floors": {"like": 0.9}}))
    assert failed(verdict) == {("auc", "like")}


def test_a_task_that_goes_is_said_or_refused():
    challenger, refuse = narrowed(model(), CLICK, WATCH), CONFIG.model_copy(update={"dropped": "refuse"})
    verdict = decide(challenger, blurred(0.3), CONFIG)
    assert verdict.promote
    assert verdict.notes == ("the challenger does not predict like, which the champion does",)
    assert failed(decide(challenger, blurred(0.3), refuse)) == {("task", "like")}
    assert failed(decide(challenger, blurred(0.3), CONFIG.model_copy(update={"tasks": ("like",)}))) == {
        ("task", "like"),
        ("improvement", ""),
    }
    unlabelled = decide(challenger, narrowed(blurred(0.3), CLICK, WATCH), refuse, dropped=("like",))
    assert failed(unlabelled) == {("task", "like")}


def test_the_first_model_needs_more_than_chance():
    assert decide(model(), None, CONFIG).promote
    shuffled = np.random.default_rng(1).permutation(model().scores)
    verdict = decide(dataclasses.replace(model(), scores=shuffled), None, CONFIG)
    assert {("auc", "click"), ("auc", "like"), ("r2", "watch")} <= failed(verdict)


def test_the_first_model_is_held_to_its_floors():
    verdict = decide(model(), None, CONFIG.model_copy(update={"floors": {"click": 0.7, "like": 0.85, "watch": 0.9}}))
    assert failed(verdict) == {("auc", "like"), ("r2", "watch")}
    own, watch = model().in_space[:, WATCH], verdict.checks[-1]
    assert watch.value == pytest.approx(r2(model().scores[own, WATCH], model().labels[own, WATCH]))
    assert watch.low < watch.value < watch.high < 0.9


def test_models_that_differ_by_more_than_the_margin_are_kept_out_as_often_as_the_level_says():
    generator, passed = np.random.default_rng(8), 0
    labels = np.arange(600) % 3 == 0
    space = np.ones((600, 1), bool)
    config = GateConfig(margin=0.0, improve="none", calibration=(0, 100), ece_max=1)
    for _ in range(200):  # equal in truth: with no margin one in forty passes
        shared, *own = generator.normal(size=(3, 600)) + labels
        one, other = (
            Predictions(("click",), ("binary",), score[:, None], labels[:, None], space, space, np.arange(600))
            for score in (1 / (1 + np.exp(-shared - noise)) for noise in own)
        )
        passed += decide(one, other, config).promote
    assert passed <= 12


def test_a_verdict_reads_as_a_table_and_as_tags():
    verdict = decide(model(), model(), CONFIG)
    heading, click, *_, improvement, conclusion = verdict.render().splitlines()
    assert heading.split() == ["check", "task", "measured", "required"]
    assert click.split() == ["auc_change", "click", "+0.0000", "[+0.0000,", "+0.0000]", ">", "-0.0100", "passed"]
    assert improvement.endswith("FAILED")
    assert conclusion == "do not promote"
    tags = verdict.tags()
    assert tags["gate.status"] == "failed"
    assert tags["gate.reason"] == verdict.reason
    assert tags["gate.calibration.like"].startswith("passed: 1.0")
    assert tags["gate.improvement"] == "failed: +0.0000, required > 0.0000"
    assert decide(model(), None, CONFIG).render().endswith("\npromote")
    assert decide(model(), None, CONFIG).tags()["gate.status"] == "passed"


@pytest.mark.parametrize("key", ["tasks", "margins", "floors"])
def test_an_unknown_task_in_the_configuration_is_named(key):
    config = CONFIG.model_copy(update={key: {"clik": 0.5} if key != "tasks" else ("clik",)})
    with pytest.raises(InputError, match=rf"gate\.{key}: unknown task 'clik'; expected one of \['click'"):
        decide(model(), None, config)


@pytest.mark.parametrize(
    "values",
    [{"calibration": (1.2, 0.8)}, {"margin": -0.1}, {"margins": {"click": -1}}, {"margins": {"click": float("nan")}}],
)
def test_requirements_that_make_no_sense_are_refused(values):
    with pytest.raises(ValidationError):
        GateConfig(**values)
