"""Labels, which of them are observed, and the sample spaces that mask them."""

import math

import pyarrow as pa
import pytest

from ranking.data.columns import RawRows
from ranking.data.targets import groups, targets
from ranking.errors import InputError
from ranking.schema import NO_USER, Schema

CLICK = {"name": "click", "label": "click"}


def schema_of(*tasks, **options):
    return Schema(features=[{"kind": "dense", "name": "unused"}], tasks=tasks, **options)


def found(tasks, columns):
    """Labels, observed and masks of `tasks` over `columns`, task by task."""
    return [part.T.tolist() for part in targets(schema_of(*tasks), RawRows(pa.table(columns)), lambda *_: None)]


def test_labels_that_are_null_nan_or_infinite_are_not_observed():
    task = {"name": "t", "label": "y", "loss": "mse"}
    values = pa.array([2.5, None, float("nan"), float("inf"), 1e300])
    labels, observed, masks = found([task], {"y": values})
    assert labels == [[2.5, 0.0, 0.0, 0.0, 0.0]]
    assert observed == masks == [[True, False, False, False, False]]


def test_what_follows_from_an_unknown_value_is_not_observed():
    tasks = [
        {"name": "capped", "label": "min(play, 3)", "loss": "mse"},
        {"name": "long", "label": "play > 2"},
        {"name": "like", "label": "like", "given": {"column": "play > 2"}},
    ]
    labels, observed, masks = found(tasks, {"play": [1.0, None, float("nan"), 5.0], "like": [1, 1, 1, 1]})
    assert labels[0] == [1.0, 0.0, 0.0, 3.0]
    assert observed[:2] == masks[:2] == [[True, False, False, True]] * 2
    assert masks[2] == [False, False, False, True]


def test_unobserved_labels_are_counted():
    counts = {}
    targets(schema_of(CLICK), RawRows(pa.table({"click": [1, None]})), counts.__setitem__)
    assert counts == {"click/unobserved": 1}


def test_labels_are_expressions():
    tasks = [
        {"name": "long", "label": "(play > 18) | done"},
        {"name": "log", "label": "log1p(play / 1000)", "loss": "mse"},
        {"name": "tab", "label": "kind == 'feed'"},
    ]
    columns = {"play": [20, 0, None], "done": [0, 1, 0], "kind": pa.array(["feed", "x", None]).dictionary_encode()}
    labels, observed, _ = found(tasks, columns)
    assert labels[0] == [1.0, 1.0, 0.0]
    assert labels[1] == [pytest.approx(math.log1p(0.02)), 0.0, 0.0]
    assert labels[2] == [1.0, 0.0, 0.0]
    assert observed == [[True, True, False]] * 3


def test_binary_labels_are_0_or_1():
    with pytest.raises(InputError, match="task 'click': label 'click', row 1: got 2; expected 0 or 1"):
        found([CLICK], {"click": [1, 2, 3]})
    assert found([CLICK], {"click": [True, False, None]})[0] == [[1.0, 0.0, 0.0]]


def test_a_label_of_a_wrong_type_is_named():
    with pytest.raises(InputError, match="task 'click': label 'click': got type string; expected numbers or booleans"):
        found([CLICK], {"click": ["1"]})
    task = {"name": "t", "label": "play + 1"}
    with pytest.raises(InputError, match=r"task 't': label 'play \+ 1': got play: string; expected [^\n]*$"):
        found([task], {"play": ["1"]})
    with pytest.raises(InputError, match=r"label 'play \+ 1': got play: int64; expected what it can use \(overflow\)$"):
        found([task], {"play": [2**63 - 1]})


def test_a_sample_space_is_the_positives_up_the_chain():
    tasks = [
        {"name": "click", "label": "c"},
        {"name": "like", "label": "l", "given": "click"},
        {"name": "buy", "label": "b", "given": "like"},
    ]
    columns = {"c": [1, 1, 0, None, 1], "l": [1, 0, 1, 1, None], "b": [1, 1, 1, 1, 1]}
    _, observed, masks = found(tasks, columns)
    assert observed[2] == [True] * 5
    assert masks == [
        [True, True, True, False, True],
        [True, True, False, False, False],
        [True, False, False, False, False],
    ]


def test_a_sample_space_by_column_is_true_where_it_says_and_null_is_outside():
    by_number = {"name": "a", "label": "y", "given": {"column": "shown"}}
    by_condition = {"name": "b", "label": "y", "given": {"column": "place < 3"}}
    columns = {"y": [1, 0, 1, None], "shown": [1, 0, None, 1], "place": [5, 2, None, 1]}
    _, _, masks = found([by_number, by_condition], columns)
    assert masks == [[True, False, False, False], [False, True, False, False]]


def test_a_sample_space_by_column_is_0_or_1():
    task = {"name": "a", "label": "y", "given": {"column": "place"}}
    with pytest.raises(InputError, match="task 'a': given 'place', row 1: got 7; expected 0 or 1"):
        found([task], {"y": [1, 1], "place": [1, 7]})


def test_groups_are_user_ids_or_hashes_of_their_names():
    def of(user, column="user"):
        return groups(schema_of(CLICK, user=column), RawRows(pa.table({"user": user}))).tolist()

    assert of([7, None, -1]) == [7, NO_USER, -1]
    assert of(["a", None]) == [0x5E025F9ADE9EAF3E, NO_USER]
    assert of([7, 8], column="") == [0, 0]
