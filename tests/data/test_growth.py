"""Transforms that grow, and the row of an earlier table that each row of a later one continues."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ranking.data.growth import FRESH, earlier_rows, extended, shifts
from ranking.data.transforms import Transforms
from ranking.errors import InputError
from ranking.schema import Schema
from tests.data.encoding import dense

TASKS = [{"name": "click", "label": "click"}]


def schema_of(*features, **tables):
    return Schema(features=features, tasks=TASKS, tables=tables)


def ids(name="v", encoding="vocabulary", **options):
    return {"kind": "categorical", "name": name, "encoding": {"type": encoding, **options}}


def fit(schema, **columns):
    return Transforms.fit(schema, [pa.table(columns)])


def grown(schema, before, now):
    earlier = fit(schema, **before)
    return extended(schema, fit(schema, **now), earlier), earlier


WORDS = schema_of(ids())


def test_known_keys_keep_their_rows_and_new_ones_follow_by_count_then_value():
    now, earlier = grown(WORDS, {"v": [7, 7, 3]}, {"v": [9, 9, 5, 3, 8, 8, 7]})
    assert earlier.vocabularies["v"].to_pylist() == [7, 3]
    assert now.vocabularies["v"].to_pylist() == [7, 3, 8, 9, 5]


def test_keys_that_are_seen_no_more_stay():
    assert grown(WORDS, {"v": ["a", "b"]}, {"v": ["c"]})[0].vocabularies["v"].to_pylist() == ["a", "b", "c"]


def test_growing_by_nothing_changes_nothing():
    now, earlier = grown(WORDS, {"v": [1, 2, 2]}, {"v": [1, 1, 2]})
    assert now.fingerprint == earlier.fingerprint


def test_growth_ends_at_the_declared_rows():
    schema = schema_of(ids(), v={"rows": 4})
    assert grown(schema, {"v": [1, 2]}, {"v": [5, 6, 6]})[0].vocabularies["v"].to_pylist() == [1, 2, 6]
    with pytest.raises(InputError, match=r"schema\.tables\.v\.rows: got 2; expected >= 3"):
        extended(schema_of(ids(), v={"rows": 2}), fit(WORDS, v=[1]), fit(WORDS, v=[1, 2]))


def test_an_empty_vocabulary_grows_into_keys_of_any_type():
    assert grown(WORDS, {"v": pa.nulls(2)}, {"v": ["x"]})[0].vocabularies["v"].to_pylist() == ["x"]


def test_scaling_and_boundaries_stay_and_the_shift_is_told():
    schema = schema_of(dense("x", scale="standardise"), dense("y"), ids("b", "bucketise", buckets=2))
    before = {"x": [0.0, 2.0], "y": [5.0, 5.0], "b": [0.0, 2.0]}
    after = {"x": [3.0, 7.0], "y": [1.0, 2.0], "b": [9.0, 11.0]}
    now, earlier = grown(schema, before, after)
    assert (now.statistics["x"], now.boundaries) == (earlier.statistics["x"], earlier.boundaries)
    assert [tuple(shift) for shift in shifts(fit(schema, **after), now)] == [("x", 4.0, 2.0), ("y", 0.0, 1.0)]


def test_a_number_that_was_constant_is_scaled_anew():
    now, _ = grown(schema_of(dense("y")), {"y": [5.0, 5.0]}, {"y": [1.0, 2.0]})
    assert (now.statistics["y"].minimum, now.statistics["y"].maximum) == (1.0, 2.0)


def test_a_hashed_column_keeps_the_type_of_its_keys():
    schema = schema_of(ids(encoding="hash"), v={"rows": 5})
    assert grown(schema, {"v": [7]}, {"v": pa.nulls(1)})[0].hashed == {"v": "int64"}
    with pytest.raises(InputError, match="feature 'v': got large_string keys; expected int64, as before"):
        grown(schema, {"v": [7]}, {"v": ["7"]})


def test_a_feature_that_is_new_is_fitted_and_one_that_is_gone_is_dropped():
    earlier = fit(schema_of(ids("old"), dense("x")), old=[1], x=[1.0])
    wide = schema_of(dense("x"), ids("new"))
    now = extended(wide, fit(wide, x=[4.0], new=[3]), earlier)
    assert set(now.vocabularies) == {"new"}


@pytest.mark.parametrize(
    ("schema", "columns", "message"),
    [
        (
            schema_of(ids(encoding="hash"), v={"rows": 5}),
            {"v": [1]},
            "feature 'v': got .*hash.*; expected .*vocabulary",
        ),
        (WORDS, {"v": ["a"]}, "vocabulary of table 'v': got large_string keys; expected int64, as before"),
    ],
)
def test_another_encoding_or_type_of_key_is_refused(schema, columns, message):
    with pytest.raises(InputError, match=message):
        extended(schema, fit(schema, **columns), fit(WORDS, v=[1, 2]))


def rows(schema, now, before, before_schema=None):
    return earlier_rows("v", schema, now, before_schema or schema, before).tolist()


def test_rows_follow_their_keys_whatever_their_order():
    before, now = fit(WORDS, v=[7, 7, 3, 5]), fit(WORDS, v=[5, 9, 9, 7, 7, 7])
    assert now.vocabularies["v"].to_pylist() == [7, 9, 5]
    assert rows(WORDS, now, before) == [0, 1, FRESH, 3]


def test_rows_that_no_key_owns_yet_are_fresh():
    schema = schema_of(ids(), v={"rows": 5})
    assert rows(schema, fit(schema, v=["a"]), fit(WORDS, v=["a", "b"]), WORDS) == [0, 1, FRESH, FRESH, FRESH]


def test_identity_keeps_its_rows_and_may_grow():
    small, large = (schema_of(ids(encoding="identity"), v={"rows": n}) for n in (2, 4))
    assert rows(large, fit(large, v=[1]), fit(small, v=[1]), small) == [0, 1, FRESH, FRESH]
    assert rows(small, fit(small, v=[1]), fit(large, v=[1]), large) == [0, 1]


def test_a_feature_may_be_renamed_or_join_a_table():
    def shared(*names):
        return schema_of(*({**ids(name, "hash"), "table": "v"} for name in names), v={"rows": 3})

    before, now = shared("a"), shared("b", "c")
    assert rows(now, fit(now, b=[1], c=[1]), fit(before, a=[1]), before) == [0, 1, 2]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (schema_of(ids(encoding="hash"), v={"rows": 9}), schema_of(ids(encoding="hash"), v={"rows": 8})),
        (schema_of(ids(encoding="hash", seed=1), v={"rows": 9}), schema_of(ids(encoding="hash"), v={"rows": 9})),
        (WORDS, schema_of(ids(encoding="hash"), v={"rows": 9})),
        (
            schema_of(ids(encoding="identity", out_of_range="modulo"), v={"rows": 9}),
            schema_of(ids(encoding="identity", out_of_range="modulo"), v={"rows": 8}),
        ),
        (
            schema_of(ids(encoding="bucketise", boundaries=[1.0])),
            schema_of(ids(encoding="bucketise", boundaries=[2.0])),
        ),
    ],
)
def test_rows_numbered_by_another_rule_are_refused(one, other):
    with pytest.raises(InputError, match=r"feature 'v': its rows in table 'v' follow .*; expected .*, as before"):
        rows(one, fit(one, v=[1]), fit(other, v=[1]), other)
