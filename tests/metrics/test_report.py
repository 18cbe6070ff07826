"""The evaluation report: the mask that trains is the mask that scores, and the entire space stands beside it."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ranking.metrics import (
    EvaluationReport,
    Predictions,
    delong,
    evaluate_predictions,
    gauc,
    r2,
    reliability_curve,
)

ROWS = 3000
CLICK, LIKE, WATCH = range(3)


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    """A click, a like that trains among clicks, and a watch time labelled only where there was a click."""
    generator = np.random.default_rng(9)
    logits = generator.normal(-1, 1, (ROWS, 2))
    scores = 1 / (1 + np.exp(-logits))
    labels = (generator.random((ROWS, 2)) < scores).astype(np.float32)
    labels[:, LIKE] *= labels[:, CLICK]
    watch = generator.normal(10, 3, ROWS)
    clicked, every = labels[:, CLICK] == 1, np.ones(ROWS, bool)
    return Predictions(
        names=("click", "like", "watch"),
        kinds=("binary", "binary", "regression"),
        scores=np.column_stack([scores, watch + generator.normal(0, 1, ROWS)]).astype(np.float32),
        labels=np.column_stack([labels, np.where(clicked, watch, np.nan)]),
        in_space=np.column_stack([every, clicked, clicked]),
        observed=np.column_stack([every, every, clicked]),
        rows=np.arange(ROWS) * 7,
        groups=np.arange(ROWS) // 20,
    )


@pytest.fixture(scope="module")
def report(predictions) -> EvaluationReport:
    return evaluate_predictions(predictions, step=200)


def changed(predictions: Predictions, task: int, rows, score: float) -> Predictions:
    """The predictions with some scores of one task replaced."""
    scores = predictions.scores.copy()
    scores[rows, task] = score
    return dataclasses.replace(predictions, scores=scores)


def test_each_space_is_scored_on_its_own_rows(predictions, report):
    like = report.tasks["like"]
    for space, mask in ((like.sample_space, predictions.in_space), (like.entire_space, predictions.observed)):
        own = mask[:, LIKE]
        scores, labels = predictions.scores[own, LIKE], predictions.labels[own, LIKE]
        assert (space.rows, space.positives) == (own.sum(), labels.sum())
        assert space.auc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        assert space.auc_interval == pytest.approx(delong(scores, labels)[1:])
        grouped = gauc(scores, labels, predictions.groups[own])
        assert (space.gauc, space.gauc_groups, space.gauc_rows) == pytest.approx(grouped)
        assert space.ece == pytest.approx(
            np.average(abs((c := reliability_curve(scores, labels)).mean_score - c.mean_label), weights=c.rows)
        )
    assert like.sample_space.rows < like.entire_space.rows
    assert like.sample_space.calibration < like.entire_space.calibration


def test_a_regression_task_has_errors_and_no_ranking(predictions, report):
    watch, own = report.tasks["watch"].sample_space, predictions.observed[:, WATCH]
    assert watch.r2 == pytest.approx(r2(predictions.scores[own, WATCH], predictions.labels[own, WATCH]))
    assert watch.rmse == pytest.approx(watch.mse**0.5)
    for name in ("positives", "auc", "auc_interval", "gauc", "log_loss", "normalised_entropy", "calibration", "ece"):
        assert getattr(watch, name) is None
    assert watch.undefined is None


def test_the_order_of_the_rows_changes_no_bit(predictions, report):
    shuffled = np.random.default_rng(1).permutation(ROWS)
    tables = ("scores", "labels", "in_space", "observed", "rows", "groups")
    columns = {name: getattr(predictions, name)[shuffled] for name in tables}
    assert evaluate_predictions(dataclasses.replace(predictions, **columns), step=200) == report


def test_too_few_of_either_class_is_undefined_with_the_reason(predictions):
    positives = int(predictions.labels[:, CLICK].sum())
    scarce = evaluate_predictions(predictions, 1, min_positives=positives + 1).tasks["click"].sample_space
    assert scarce.undefined == f"{positives} positives in {ROWS} rows, {positives + 1} needed"
    for name in ("auc", "auc_interval", "gauc", "r2", "normalised_entropy", "calibration", "ece"):
        assert getattr(scarce, name) is None
    assert scarce.log_loss > 0
    assert scarce.mean_label == pytest.approx(positives / ROWS)
    assert evaluate_predictions(predictions, 1, min_positives=positives).tasks["click"].sample_space.auc > 0.5

    flipped = dataclasses.replace(predictions, labels=1 - predictions.labels)
    few = evaluate_predictions(flipped, 1, min_positives=positives + 1).tasks["click"].sample_space
    assert few.undefined == f"{positives} negatives in {ROWS} rows, {positives + 1} needed"


def test_one_class_is_undefined_even_when_no_minimum_is_asked(predictions):
    labels = predictions.labels.copy()
    labels[:, CLICK] = 0
    alone = evaluate_predictions(dataclasses.replace(predictions, labels=labels), 1, min_positives=0)
    assert alone.tasks["click"].sample_space.undefined == f"0 positives in {ROWS} rows, 1 needed"
    assert alone.tasks["click"].sample_space.auc is None


def test_an_empty_space_is_undefined_beside_a_defined_one(predictions):
    nowhere = dataclasses.replace(predictions, in_space=np.zeros_like(predictions.in_space))
    like = evaluate_predictions(nowhere, 1).tasks["like"]
    assert (like.sample_space.rows, like.sample_space.undefined) == (0, "no rows")
    assert like.entire_space.auc > 0.5


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("task", ["click", "watch"])
def test_predictions_that_are_not_finite_are_undefined_with_the_count(predictions, task, broken):
    index = predictions.names.index(task)
    rows = np.flatnonzero(predictions.in_space[:, index])[:3]
    space = evaluate_predictions(changed(predictions, index, rows, broken), 1).tasks[task].sample_space
    assert space.undefined == f"a prediction or label is not finite in 3 of {space.rows} rows"
    assert set(space.metrics()) <= {"rows", "positives"}


def test_a_constant_regression_label_has_errors_and_no_r2(predictions):
    labels = predictions.labels.copy()
    labels[:, WATCH] = 0.1
    watch = evaluate_predictions(dataclasses.replace(predictions, labels=labels), 1).tasks["watch"].sample_space
    assert (watch.undefined, watch.r2) == ("constant label", None)
    assert watch.mae > 0


def test_the_json_round_trip_keeps_every_bit_and_writes_undefined_as_null(predictions):
    report = evaluate_predictions(changed(predictions, LIKE, 0, np.nan), 7)
    text = report.model_dump_json()
    assert EvaluationReport.model_validate_json(text) == report
    assert "NaN" not in text
    assert '"auc":null' in text


def test_flat_metrics_name_the_space_and_leave_undefined_out(report):
    flat = report.metrics()
    assert flat["like/auc"] == report.tasks["like"].sample_space.auc
    assert flat["like/entire_space/auc"] == report.tasks["like"].entire_space.auc
    assert (flat["click/auc_low"], flat["click/auc_high"]) == report.tasks["click"].sample_space.auc_interval
    assert flat["click/rows"] == ROWS
    assert flat["watch/r2"] == report.tasks["watch"].sample_space.r2
    assert "watch/auc" not in flat
    assert {type(value) for value in flat.values()} == {float}


def test_the_objective_is_the_mean_over_binary_tasks_in_their_sample_space(report):
    click, like = (report.tasks[name].sample_space for name in ("click", "like"))
    assert report.objective() == pytest.approx((click.auc + like.auc) / 2)
    assert report.objective("log_loss", ["like"]) == like.log_loss
    assert report.objective("r2", ["watch"]) == report.tasks["watch"].sample_space.r2
    assert report.objective("auc", ["watch"]) is None


def test_the_objective_leaves_out_a_task_without_support_but_never_one_that_broke(predictions, report):
    rare = predictions.in_space.copy()
    rare[np.flatnonzero(predictions.labels[:, LIKE] == 1)[3:], LIKE] = False
    unsupported = evaluate_predictions(dataclasses.replace(predictions, in_space=rare), 1)
    assert unsupported.tasks["like"].sample_space.undefined.startswith("3 positives")
    assert unsupported.objective() == report.tasks["click"].sample_space.auc
    clicked = np.flatnonzero(predictions.in_space[:, LIKE])[0]
    broke = evaluate_predictions(changed(predictions, LIKE, clicked, np.nan), 1)
    assert broke.objective() is None
    assert broke.objective("auc", ["click"]) == report.tasks["click"].sample_space.auc


@pytest.mark.parametrize(("metric", "tasks"), [("acu", None), ("auc_interval", None), ("auc", ["share"])])
def test_the_objective_refuses_what_does_not_exist(report, metric, tasks):
    with pytest.raises(ValueError, match=r"no metric '(acu|auc_interval)'|no task 'share' among"):
        report.objective(metric, tasks)


def test_without_groups_there_is_no_gauc(predictions):
    space = evaluate_predictions(dataclasses.replace(predictions, groups=None), 1).tasks["click"].sample_space
    assert (space.gauc, space.gauc_groups, space.gauc_rows) == (None, None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.zeros((ROWS, 2))}, "scores: expected"),
        ({"kinds": ("binary",)}, "kinds: expected 3, got 1"),
        ({"groups": np.zeros(5)}, "groups: expected"),
        ({"rows": np.arange(ROWS) - 1}, "padding"),
        ({"rows": np.arange(ROWS) // 2}, "every row must come once"),
        ({"observed": np.zeros((ROWS, 3), bool)}, "in_space: a row of a sample space has no label"),
    ],
)
def test_predictions_that_would_spoil_a_metric_are_refused(predictions, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(predictions, **change)


def test_a_logit_in_place_of_a_probability_is_refused_by_task(predictions):
    with pytest.raises(ValueError, match=r"task like: scores must be probabilities in \[0, 1\]; got 2"):
        evaluate_predictions(changed(predictions, LIKE, slice(None), 2.0), 1)
