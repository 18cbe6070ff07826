"""What a schema says, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from ranking.schema import CategoricalFeature, DenseFeature, Schema, Task

USER = {"kind": "categorical", "name": "user"}
CLICK = {"name": "click", "label": "clicked"}


def schema(**parts: Any) -> Schema:
    return Schema.model_validate({"features": [USER], "tasks": [CLICK], **parts})


def test_widths_follow_declared_order_and_dimensions() -> None:
    found = schema(
        features=[
            {"kind": "dense", "name": "age", "indicator": True},
            USER,
            {"kind": "categorical", "name": "video", "table": "videos"},
            {"kind": "dense", "name": "views"},
            {"kind": "categorical", "name": "recent", "table": "videos", "multi_hot": True},
        ],
        tables={"videos": {"dim": 6}},
        embedding_dim=4,
    )
    assert [f.name for f in found.dense] == ["age", "views"]
    assert [f.name for f in found.categorical] == ["user", "video", "recent"]
    assert found.table_names() == ("user", "videos")
    assert (found.embedding_width, found.dense_width, found.input_width) == (4 + 6 + 6, 2 + 1, 19)


def test_columns_are_those_of_features_weights_labels_spaces_and_user_each_once() -> None:
    found = schema(
        features=[
            {"kind": "dense", "name": "age", "column": "years"},
            {"kind": "categorical", "name": "tags", "multi_hot": True, "weights": "tag_weights"},
        ],
        tasks=[
            {"name": "watch", "label": "log1p(play_ms / 1000)", "loss": "mse", "given": {"column": "shown == 1"}},
            {"name": "click", "label": "clicked", "given": "all"},
        ],
        user="uid",
    )
    assert found.feature_columns() == ("years", "tags", "tag_weights")
    assert found.columns() == ("years", "tags", "tag_weights", "play_ms", "shown", "clicked", "uid")


def test_chain_of_sample_spaces_is_nearest_first() -> None:
    tasks = [CLICK, {"name": "like", "label": "l", "given": "click"}, {"name": "share", "label": "s", "given": "like"}]
    found = schema(tasks=tasks)
    assert [task.name for task in found.chain(found.task("share"))] == ["like", "click"]
    assert list(found.chain(found.task("click"))) == []


@pytest.mark.parametrize(("loss", "kind"), [("bce", "binary"), ("mse", "regression"), ("huber", "regression")])
def test_the_loss_decides_what_a_task_predicts(loss: str, kind: str) -> None:
    assert Task.model_validate({"name": "t", "label": "x", "loss": loss}).kind == kind


@pytest.mark.parametrize(
    ("settings", "weighted"),
    [({}, False), ({"multi_hot": True}, False), ({"multi_hot": True, "pooling": "mean"}, True),
     ({"multi_hot": True, "weights": "w"}, True)],
)  # fmt: skip
def test_only_means_and_declared_weights_need_weights(settings: dict[str, Any], weighted: bool) -> None:
    assert CategoricalFeature(name="f", **settings).weighted is weighted


def test_a_section_never_changes() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        DenseFeature(name="age").log1p = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"features": [USER, USER]}, "feature 'user' is declared twice"),
        ({"tasks": [CLICK, CLICK]}, "task 'click' is declared twice"),
        ({"tasks": [CLICK, CLICK | {"name": "click__late"}]}, "tasks: got 'click__late' beside 'click'; expected no"),
        ({"tasks": [CLICK | {"name": "click_"}, CLICK]}, "tasks: got 'click_' beside 'click'; expected no name that"),
        ({"tables": {"video": {}}}, r"tables.video: no feature looks it up; expected one of \['user'\]"),
        ({"tasks": [{**CLICK, "given": "view"}]}, r"task click: given: unknown task 'view'; expected one of .*'all'"),
        ({"tasks": [{**CLICK, "given": "click"}]}, "given: cycle click -> click"),
        (
            {"tasks": [{**CLICK, "given": "like"}, {"name": "like", "label": "l", "given": "click"}]},
            "task click: given: cycle click -> like -> click; expected a chain",
        ),
        (
            {"tasks": [{**CLICK, "given": "watch"}, {"name": "watch", "label": "w", "loss": "mse"}]},
            "'watch' is a regression task",
        ),
        ({"features": [{**USER, "pooling": "mean"}]}, "need `multi_hot: true`"),
        ({"features": [{"kind": "categorical", "name": "type"}]}, "torch reserves that name"),
        ({"features": [{"kind": "categorical", "name": "popitem"}]}, "torch reserves that name"),
        ({"tasks": [{**CLICK, "name": "all"}]}, "tasks: got the name 'all'; expected another one"),
        ({"tasks": [{**CLICK, "name": "score"}]}, "tasks: got the name 'score'; expected another one"),
        ({"features": [{**USER, "encoding": {"type": "bucketise", "boundaries": [math.nan]}}]}, "finite number"),
        ({"features": []}, "at least 1 item"),
        ({"tasks": []}, "at least 1 item"),
        ({"features": [{"kind": "dense", "name": "a b"}]}, "expected a letter, then letters, digits or _"),
        ({"tasks": [{**CLICK, "label": "open('x')"}]}, "is not supported"),
        ({"tasks": [{**CLICK, "weight": -1}]}, "greater than or equal to 0"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_what_a_schema_refuses(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        schema(**parts)
