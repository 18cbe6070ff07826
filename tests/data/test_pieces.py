"""Numbers in piecewise-linear pieces: where the pieces end, and how a value fills them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ranking.data.encode import Encoder
from ranking.data.transforms import Transforms
from ranking.errors import InputError
from ranking.schema import Schema


def schema_of(pieces: int, **options: Any) -> Schema:
    feature = {"kind": "dense", "name": "x", "scale": "piecewise", "pieces": pieces, **options}
    return Schema.model_validate({"features": [feature], "tasks": [{"name": "click", "label": "click"}]})


def column(values: list[float | None]) -> pa.Table:
    return pa.table({"x": pa.array(values, pa.float64())})


def ends(values: list[float | None], pieces: int = 4, **options: Any) -> tuple[float, ...]:
    return Transforms.fit(schema_of(pieces, **options), [column(values)]).boundaries["x"]


def encoded(values: list[float | None], fit: list[float | None], pieces: int, **options: Any) -> list[list[float]]:
    schema = schema_of(pieces, **options)
    _, _, dense = Encoder(schema, Transforms.fit(schema, [column(fit)])).features(column(values))
    return dense.tolist()  # type: ignore[no-any-return]


def test_they_end_at_quantiles_of_what_the_schema_compresses() -> None:
    found = ends([float(i) for i in range(101)], log1p=True)
    np.testing.assert_allclose(found, np.log1p([0, 25, 50, 75, 100]), rtol=1e-6)


def test_a_value_that_fills_a_piece_ends_one_and_the_others_share_the_rest() -> None:
    assert ends([0.0] * 900 + [float(i) for i in range(1, 101)]) == (0, 1, 34, 67, 100)


@pytest.mark.parametrize(("values", "found"), [([None, None], ()), ([3.0, None], (3.0,)), ([1.0, 2.0, 2.0], (1, 2))])
def test_few_values_make_few_pieces(values, found) -> None:
    assert ends(values) == found


def test_they_fill_up_one_after_the_other() -> None:
    found = encoded([-5.0, 0.0, 1.0, 3.0, 15.0, 99.0, None], fit=[0.0, 2.0, 10.0, 20.0], pieces=3, indicator=True)
    empty, full = [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]
    assert found == [empty, empty, [0.5, 0, 0, 0], [1, 0.125, 0, 0], [1, 1, 0.5, 0], full, [1, 0.75, 0, 1]]


def test_those_that_ties_left_out_are_0() -> None:
    assert encoded([1.5, 9.0], fit=[1.0, 2.0], pieces=3) == [[0.5, 0, 0], [1, 0, 0]]
    assert encoded([1.5, None], fit=[1.0], pieces=2) == [[0, 0], [0, 0]]


def test_another_number_of_pieces_is_another_fit(tmp_path) -> None:
    Transforms.fit(schema_of(4), [column([1.0, 2.0])]).save(str(tmp_path))
    with pytest.raises(InputError, match=r"feature 'x': got .*'pieces': 8.*; expected .*'pieces': 4"):
        Transforms.load(str(tmp_path), schema_of(8))
