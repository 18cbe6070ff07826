"""Label expressions: a small language over columns."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from ranking.expression import Expression

COLUMNS = {
    "a": pa.array([1, 2, None, 4]),
    "b": pa.array([2.0, 0.0, 3.0, None]),
    "flag": pa.array([True, False, None, True]),
    "s": pa.array(["x", "y", None, "x"]),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", [1, 2, None, 4]),
        ("a + 1", [2, 3, None, 5]),
        ("a - b * 2", [-3.0, 2.0, None, None]),
        ("a / 2", [0.5, 1.0, None, 2.0]),
        ("-a", [-1, -2, None, -4]),
        ("log1p(b)", [math.log(3), 0.0, math.log(4), None]),
        ("max(a, 2)", [2, 2, None, 4]),
        ("min(a, b)", [1.0, 0.0, None, None]),
        ("coalesce(a, 0)", [1, 2, 0, 4]),
        ("max(coalesce(a, 0), 2)", [2, 2, 2, 4]),
        ("a >= 2", [False, True, None, True]),
        ("s == 'x'", [True, False, None, True]),
        ("~flag", [False, True, None, False]),
        ("(a > 1) & flag", [False, False, None, True]),
        ("(a > 1) | flag", [True, True, None, True]),
        ("a & b", [True, False, None, None]),  # numbers count as true unless they are 0; Kleene's logic for null
        ("sqrt(abs(-4))", 2.0),
    ],
)
def test_values(text: str, expected: object) -> None:
    result = Expression(text)(COLUMNS)
    assert (result.as_py() if isinstance(result, pa.Scalar) else result.to_pylist()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n", [1.0, None, 0.0]),
        ("n > 0.5", [True, None, False]),
        ("n != 0", [True, None, False]),
        ("max(n, 0)", [1.0, None, 0.0]),
        ("~n", [False, None, True]),
        ("n | t", [True, True, False]),
        ("n & t", [False, None, False]),
        ("coalesce(n, 7.0)", [1.0, 7.0, 0.0]),
        ("log(n - 2) > 0", [None, None, None]),  # NaN on the way is unknown, too
    ],
)
def test_nan_is_null(text: str, expected: object) -> None:
    columns = {"n": pa.array([1.0, math.nan, 0.0]), "t": pa.array([False, True, False])}
    assert Expression(text)(columns).to_pylist() == expected


@pytest.mark.parametrize("text", ["u - v", "-u", "i + i", "i * i", "-i - i - 1", "abs(-i - i)"])
def test_integers_never_wrap(text: str) -> None:
    columns = {"u": pa.array([1], pa.uint64()), "v": pa.array([3], pa.uint64()), "i": pa.array([2**62])}
    with pytest.raises(pa.ArrowException):
        Expression(text)(columns)


@pytest.mark.parametrize("kind", [pa.uint8(), pa.int8(), pa.uint32(), pa.int32(), pa.int64()])
def test_integers_of_few_bits_have_room(kind: pa.DataType) -> None:
    columns = {"a": pa.array([3, 100], kind), "b": pa.array([5, 100], kind)}
    assert Expression("a - b")(columns).to_pylist() == [-2, 0]
    assert Expression("-(a * b) * b")(columns).to_pylist() == [-75, -1_000_000]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ts / 1000000000", 1651363200.123456789),
        ("ts * 0.5", 1651363200123456789 * 0.5),
        ("0.5 + ts", 1651363200123456789.5),
        ("log1p(ts)", math.log1p(1651363200123456789)),
        ("max(ts, 1.5)", 1651363200123456789.0),
        ("ts > 1.5", True),
        ("ts - 1651363200000000000", 123456789),  # of integers alone: exact
    ],
)
def test_large_integers_are_rounded_where_doubles_are_wanted(text: str, expected: object) -> None:
    found = Expression(text)({"ts": pa.array([1651363200123456789, None], pa.int64())}).to_pylist()
    assert found == [expected, None]


def test_columns_are_named_once_in_order_of_use() -> None:
    assert Expression("log1p(play_ms / 1000) + min(b, play_ms)").columns == ("play_ms", "b")


def test_division_of_integers_by_zero_is_infinite_not_an_error() -> None:
    assert Expression("a / 0")({"a": pa.array([1])}).to_pylist() == [math.inf]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.floats(-100, 100))
def test_arithmetic_agrees_with_numpy(values: list[float], shift: float) -> None:
    found = Expression(f"abs(x * 2 - {shift!r}) + 1")({"x": pa.array(values)}).to_numpy()
    np.testing.assert_array_equal(found, np.abs(np.array(values) * 2 - shift) + 1)


@pytest.mark.parametrize(
    "text",
    [
        "", "  ", "a +", "__import__('os')", "a.b", "a[0]", "lambda: a", "a if b else c", "[a]", "a ** 2", "a % 2",
        "a and b", "not a", "a < b < c", "a in b", "abs(x=1)", "f(a)", "abs()", "None", "a := 1", "1j", "abs(*a)",
        f"a > {2**63}", "+".join(5_000 * ["a"]),
    ],
)  # fmt: skip
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|is not supported"):
        Expression._validate(text)


@pytest.mark.parametrize("text", ["log(a, b)", "abs(a, b)", "sqrt(a, 1)"])
def test_functions_of_one_argument_take_one(text: str) -> None:
    with pytest.raises(ValueError, match="one argument"):
        Expression(text)


def test_in_a_section_it_is_a_string_that_round_trips() -> None:
    class Section(BaseModel):
        label: Expression

    section = Section.model_validate({"label": "a / 2"})
    assert section.model_dump(mode="json") == {"label": "a / 2"}
    assert Section.model_validate(section.model_dump()) == section
    assert hash(section.label) == hash(Expression("a / 2")) != hash(Expression("a/2"))
    assert Section.model_json_schema()["properties"]["label"] == {"minLength": 1, "type": "string", "title": "Label"}
    with pytest.raises(ValidationError, match="expected a column name"):
        Section.model_validate({"label": 3})
