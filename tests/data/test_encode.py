"""The encoder of training and serving: every encoding, pooling, scale, label and sample space; errors that name."""

import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from ranking.data.encode import as_table
from ranking.errors import InputError
from tests.data.encoding import dense, encode, encoder_of, ids, lists, numbers

# Hashes and ids


def test_hash_rows_are_known():
    assert encode(ids("f"), [0, 1, -1, None], rows=1000) == ([883, 566, 894, 0], {"f/null": 1})
    assert encode(ids("f"), ["", "a", None], rows=1000) == ([883, 367, 0], {"f/null": 1})


def test_the_same_value_gives_the_same_row_in_features_that_share_a_table():
    encoder = encoder_of(ids("a", table="t"), ids("b", table="t"), ids("c", table="t", multi_hot=True), rows=1000)
    found, (ragged,), _ = encoder.features(pa.table({"a": ["x", "y"], "b": ["y", "x"], "c": [["x"], ["y"]]}))
    assert found[0].tolist() == found[1].flip(0).tolist()
    assert ragged.values.tolist() == found[0].tolist()


def test_another_seed_gives_other_rows():
    values = list(range(100))
    assert encode(ids("f"), values, rows=1000)[0] != encode(ids("f", "hash", {"seed": 1}), values, rows=1000)[0]


INTEGER_TYPES = [
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
    *(pa.float32(), pa.float64(), pa.decimal128(21, 2), pa.dictionary(pa.int8(), pa.int64())),
]


@pytest.mark.parametrize("kind", INTEGER_TYPES, ids=str)
@pytest.mark.parametrize("encoding", ["identity", "hash", "vocabulary"])
def test_whole_numbers_of_any_type_give_the_same_rows(kind, encoding):
    values = pa.array([3, 1, 4, 1, 5])
    fit = {"f": [4, 4, 3, 1]}
    typed = values.dictionary_encode() if pa.types.is_dictionary(kind) else values.cast(kind)
    assert encode(ids("f", encoding), typed, fit=fit)[0] == encode(ids("f", encoding), values, fit=fit)[0]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
@pytest.mark.parametrize("encoding", ["hash", "vocabulary"])
def test_strings_of_any_type_give_the_same_rows(kind, encoding):
    values = pa.array(["b", None, "a", "unseen", "a", "unseen", "unseen", None, "b", "b"])
    typed = values.dictionary_encode() if pa.types.is_dictionary(kind) else values.cast(kind)
    fit = {"f": ["a", "a", "b"]}
    found, counters = encode(ids("f", encoding), typed, fit=fit)
    assert (found, counters) == encode(ids("f", encoding), values, fit=fit)
    assert counters["f/null"] == 2
    assert counters["f/unknown"] == 3 * (encoding == "vocabulary")


@pytest.mark.parametrize("index", [pa.int8(), pa.uint8(), pa.uint32(), pa.int64(), pa.uint64()], ids=str)
@pytest.mark.parametrize("dictionary", [[], ["a"], ["a", "b", "a"], [None, "a"]])
def test_a_dictionary_may_be_empty_repeat_itself_and_hold_null(dictionary, index):
    places = [None] if not dictionary else [0, None, *range(len(dictionary)), 0]
    typed = pa.DictionaryArray.from_arrays(pa.array(places, index), pa.array(dictionary, pa.string()))
    plain = pa.array(typed.to_pylist(), pa.string())
    assert encode(ids("f"), typed, rows=1000) == encode(ids("f"), plain, rows=1000)
    listed = [pa.ListArray.from_arrays(pa.array([0, 1, len(places)], pa.int32()), values) for values in (typed, plain)]
    feature = ids("f", multi_hot=True, pooling="mean")
    assert lists(feature, listed[0], rows=1000) == lists(feature, listed[1], rows=1000)


def test_strings_that_no_row_has_are_not_looked_at():
    unused = pa.array(pd.Categorical([None] * 3, categories=["x"]))
    assert encode(ids("f", "vocabulary"), unused, fit={"f": [1, 2]}) == ([0, 0, 0], {"f/null": 3})


def test_chunks_may_have_different_dictionaries():
    chunks = pa.chunked_array([pa.array(["b", None]).dictionary_encode(), pa.array(["a", "b"]).dictionary_encode()])
    assert encode(ids("f", "vocabulary"), chunks, fit={"f": ["a", "a", "b"]})[0] == [2, 0, 1, 2]


def test_booleans_are_ids_too():
    assert encode(ids("f", "identity"), [True, False])[0] == [1, 0]


def test_nan_in_a_float_column_of_ids_is_null():
    assert encode(ids("f", "vocabulary"), [2.0, float("nan"), None], fit={"f": [2]}) == ([1, 0, 0], {"f/null": 2})


def test_unsigned_ids_above_63_bits_hash():
    assert len(set(encode(ids("f"), pa.array([2**64 - 1, 2**63, 1], pa.uint64()), rows=10_000)[0])) == 3


# Errors of types and columns


@pytest.mark.parametrize("encoding", ["hash", "vocabulary"])
def test_timestamps_are_no_ids(encoding):
    when = pa.array([0], pa.timestamp("s"))
    with pytest.raises(
        InputError, match=r"column 'f': got type timestamp\[s\]; expected integers or strings; store it"
    ):
        encode(ids("f", encoding), when)


def test_a_fractional_id_is_an_error():
    with pytest.raises(InputError, match=r"column 'f', row 2: got 1.5; expected whole numbers"):
        encode(ids("f"), [1.0, None, 1.5])


def test_strings_are_no_identity():
    with pytest.raises(InputError, match="column 'f': got type string; expected integers"):
        encode(ids("f", "identity"), ["1"])


def test_a_vocabulary_of_integers_takes_no_strings():
    with pytest.raises(InputError, match="column 'f': got type string; expected int64, as the vocabulary of table 'f'"):
        encode(ids("f", "vocabulary"), ["1"], fit={"f": [1]})


def test_a_list_column_needs_multi_hot_and_the_reverse():
    with pytest.raises(InputError, match=r"column 'f': got type list<[^\n]*; expected integers or strings"):
        encode(ids("f"), [[1]])
    with pytest.raises(InputError, match="column 'f': got type int64; expected lists"):
        lists(ids("f", multi_hot=True), [1])


def test_strings_are_no_numbers():
    with pytest.raises(InputError, match=r"column 'x': got type string; expected numbers or booleans$"):
        numbers(dense("x"), ["1"], fit=[1.0])


@pytest.mark.parametrize("kind", [pa.timestamp("us", "UTC"), pa.date32(), pa.duration("s")], ids=str)
def test_times_are_no_numbers_but_can_be_stored_as_such(kind):
    what = f"column 'x': got type {kind}; expected numbers or booleans; store it as a number, such as seconds"
    with pytest.raises(InputError, match=f"^{re.escape(what)}$"):
        numbers(dense("x"), pa.array([0], kind), fit=[1.0])


def test_a_missing_column_is_named():
    with pytest.raises(InputError, match=r"column 'f': missing or repeated; expected once, got 'g'"):
        encoder_of(ids("f")).features(pa.table({"g": [1]}))


def test_rows_in_messages_are_those_of_the_manifest():
    encoder = encoder_of(ids("f", "identity"))
    with pytest.raises(InputError, match="column 'f', row 702: got 99"):
        encoder.rows(pa.table({"f": [1, 2, 99], "click": [0, 0, 0]}), torch.arange(700, 703))


# Encodings


def test_identity_rejects_what_is_outside():
    with pytest.raises(InputError, match=r"column 'f', row 1: got 10; expected an id in \[0, 10\)"):
        encode(ids("f", "identity"), [9, 10, -1])
    with pytest.raises(InputError, match=r"column 'f', row 0: got 18446744073709551615; expected an id in \[0, 10\)"):
        encode(ids("f", "identity"), pa.array([2**64 - 1], pa.uint64()))


def test_identity_wraps_by_the_mathematical_modulo_and_counts():
    wrap = ids("f", "identity", {"out_of_range": "modulo"})
    assert encode(wrap, [9, 10, -1, -21]) == ([9, 0, 9, 9], {"f/out_of_range": 3})
    assert encode(wrap, pa.array([2**64 - 1], pa.uint64()))[0] == [(2**64 - 1) % 10]


def test_identity_has_no_row_for_null():
    with pytest.raises(InputError, match=r"column 'f', row 1: got None; expected an id: .* use hash or vocabulary"):
        encode(ids("f", "identity"), [1, None])


def test_vocabulary_gives_row_0_to_unknown_and_null():
    found = encode(ids("f", "vocabulary"), ["b", "zzz", None, "a"], fit={"f": ["a", "a", "b"]})
    assert found == ([2, 0, 0, 1], {"f/null": 1, "f/unknown": 1})


def test_an_all_null_column_encodes_to_row_0():
    for encoding in ("hash", "vocabulary", "bucketise"):
        assert encode(ids("f", encoding), pa.nulls(2), fit={"f": [1, 2]})[0] == [0, 0]


def test_buckets_are_closed_below_and_null_is_row_0():
    feature = ids("f", "bucketise", {"boundaries": [1.0, 5.0]})
    values = [0.9, 1.0, 4.9, 5.0, float("inf"), None, float("nan")]
    assert encode(feature, values) == ([1, 2, 2, 3, 3, 0, 0], {"f/null": 2})


# Multi-hot


def test_null_lists_are_empty_and_nulls_inside_are_dropped():
    feature = ids("f", "identity", multi_hot=True)
    assert lists(feature, [[1, None, 2], None, [], [None], [3]]) == ([1, 2, 3], [2, 0, 0, 0, 1], None)


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.int64()), pa.list_(pa.int64(), 2)], ids=str)
def test_lists_of_any_type_sliced_or_chunked(kind):
    values = pa.array([[9, 9], [1, 2], None, [3, 4], [5, 6], [9, 9]], kind)
    chunked = pa.chunked_array([values[1:3], values[3:5]])
    assert lists(ids("f", "identity", multi_hot=True), chunked) == ([1, 2, 3, 4, 5, 6], [2, 0, 2, 2], None)


def test_lists_of_dictionary_strings():
    kind = pa.list_(pa.dictionary(pa.int32(), pa.string()))
    feature = ids("f", "vocabulary", multi_hot=True)
    assert lists(feature, pa.array([["a", "b"], ["b"]], kind), fit={"f": [["b", "b", "a"]]})[0] == [2, 1, 1]


def test_an_all_null_column_of_lists_is_all_empty():
    assert lists(ids("f", multi_hot=True), pa.nulls(2)) == ([], [0, 0], None)
    assert lists(ids("f", multi_hot=True), [[], []]) == ([], [0, 0], None)


def test_pooling_is_folded_into_the_weights():
    values = [[1, 2, 3, None, 4], [], [5]]

    def weights(pooling):
        return lists(ids("f", "identity", multi_hot=True, pooling=pooling), values)[2]

    assert weights("sum") is None
    assert weights("mean") == [0.25] * 4 + [1.0]
    assert weights("sqrtn") == [0.5] * 4 + [1.0]


def test_declared_weights_are_pooled_too():
    values, extra = [[1, 2], [3, None], [4]], {"w": [[3.0, 4.0], [2.0, 7.0], [0.0]]}

    def weights(pooling):
        return lists(ids("f", "identity", multi_hot=True, pooling=pooling, weights="w"), values, extra)[2]

    assert weights("sum") == [3.0, 4.0, 2.0, 0.0]
    assert weights("mean") == pytest.approx([3 / 7, 4 / 7, 1.0, 0.0])
    assert weights("sqrtn") == pytest.approx([0.6, 0.8, 1.0, 0.0])


def test_one_weighted_feature_makes_all_weighted():
    encoder = encoder_of(ids("a", multi_hot=True), ids("b", multi_hot=True, pooling="mean"))
    _, (first, second), _ = encoder.features(pa.table({"a": [[1, 2]], "b": [[1, 2]]}))
    assert (first.weights.tolist(), second.weights.tolist()) == ([1.0, 1.0], [0.5, 0.5])
    assert first.weights.dtype == torch.float32


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[1.0], [1.0]], "column 'w', row 1: got 1 weights; expected 2, one for each id in column 'f'"),
        ([[1.0], [1.0, None]], "column 'w', row 1: got None; expected a number"),
        ([[1.0], [1.0, float("inf")]], "column 'w', row 1: got inf; expected a finite number"),
        ([1.0, 2.0], "column 'w': got type double; expected lists"),
    ],
)
def test_weights_must_match_the_ids(weights, message):
    with pytest.raises(InputError, match=re.escape(message)):
        lists(ids("f", multi_hot=True, weights="w"), [[1], [1, 2]], {"w": weights})


def test_only_a_mean_needs_weights_of_one_sign():
    def weights(pooling):
        feature = ids("f", "identity", multi_hot=True, pooling=pooling, weights="w")
        return lists(feature, [[1], [1, 2]], {"w": [[1.0], [0.3, -0.4]]})[2]

    assert weights("sum") == pytest.approx([1.0, 0.3, -0.4])
    assert weights("sqrtn") == pytest.approx([1.0, 0.6, -0.8])
    with pytest.raises(InputError, match=r"column 'w', row 1: got -0.4; expected a weight >= 0, as `pooling: mean`"):
        weights("mean")


def test_the_weight_of_a_null_id_is_dropped_with_it():
    feature = ids("f", "identity", multi_hot=True, weights="w")
    assert lists(feature, [[1, None, 2]], {"w": [[0.5, None, 2.0]]}) == ([1, 2], [2], [0.5, 2.0])
    with pytest.raises(InputError, match="column 'w', row 0: got None; expected a number"):
        lists(feature, [[1, None, 2]], {"w": [[0.5, 1.0, None]]})


def test_errors_inside_lists_name_the_row():
    with pytest.raises(InputError, match="column 'f', row 2: got 98"):
        lists(ids("f", "identity", multi_hot=True), [[1], [None], [98, 3], [4, 5]])
    with pytest.raises(InputError, match="column 'f', row 3: got 99"):
        lists(ids("f", "identity", multi_hot=True), [[1], [None], [2, 3], [4, 99]])


# Whole rows


def test_rows_carry_their_index():
    rows = encoder_of().rows(pa.table({"unused": [0, 0], "click": [0, 1]}), torch.tensor([40, 2]))
    assert (rows.index.tolist(), rows.real.tolist()) == ([40, 2], [True, True])
    assert (rows.ids.shape, rows.lists, rows.dense.shape) == ((0, 2), (), (2, 1))


@pytest.mark.parametrize("order", [[2, 0, 1], [1], [0, 0], []], ids=str)
def test_rows_come_in_the_order_asked_for(order):
    encoder = encoder_of(ids("f"), ids("v", "identity"), ids("m", multi_hot=True), dense("x"), fit={"x": [0.0, 9.0]})
    columns = {"f": ["a", None, "b"], "v": [3, 1, 2], "m": [[1, 2], None, [3]], "x": [1.0, None, 3.0]}
    table, index, places = pa.table(columns | {"click": [0, None, 1]}), torch.arange(7, 10), torch.tensor(order).long()
    found, expected = encoder.rows(table, index, places), encoder.rows(table, index).take(places)
    assert found.index.tolist() == [7 + place for place in order]
    assert torch.equal(found.ids, expected.ids)
    assert found.ids[1].tolist() == [columns["v"][place] for place in order]
    assert torch.equal(found.dense, expected.dense)
    assert torch.equal(found.lists[0].values, expected.lists[0].values)


def test_an_order_of_rows_that_are_not_there_is_refused():
    encoder = encoder_of(ids("v", "identity"))
    for place in (1, -1):
        with pytest.raises(IndexError):
            encoder.rows(pa.table({"v": [3], "click": [0]}), torch.arange(1), torch.tensor([place]))


def test_an_empty_table_encodes():
    encoder = encoder_of(
        ids("f", "identity"), ids("m", multi_hot=True, pooling="mean"), ids("v", "vocabulary"), dense("x")
    )
    columns = {"f": pa.int64(), "m": pa.list_(pa.string()), "v": pa.string(), "x": pa.float32(), "click": pa.int8()}
    rows = encoder.rows(pa.schema(columns.items()).empty_table(), torch.arange(0))
    assert len(rows) == 0
    assert rows.lists[0].weights.shape == (0,)


# Requests


def test_a_data_frame_a_mapping_and_a_table_encode_alike():
    encoder = encoder_of(ids("f"), ids("m", multi_hot=True), dense("x", scale="none"))
    columns = {"f": ["a", None, "b"], "m": [[1, 2], None, []], "x": [1.0, None, 3.0]}
    frame = pd.DataFrame(columns)
    frame["m"] = [np.array([1, 2]), None, np.array([], int)]
    expected, (lists_expected,), dense_expected = encoder.features(pa.table(columns))
    for request in (frame, columns):
        found, (ragged,), numbers_found = encoder.features(as_table(request))
        assert torch.equal(found, expected)
        assert torch.equal(ragged.values, lists_expected.values)
        assert torch.equal(ragged.lengths, lists_expected.lengths)
        assert torch.equal(numbers_found, dense_expected)


def test_a_request_that_mixes_types_is_an_input_error():
    with pytest.raises(
        InputError, match=r"column f [^\n]*; expected numbers, strings or lists of them, one type a column"
    ):
        as_table(pd.DataFrame({"f": ["a", 1]}))


@pytest.mark.parametrize(
    "columns",
    [
        pd.DataFrame({"f": [2**70, None]}),
        {"f": [[2**70]]},
        {"f": ["\ud800"]},
        pd.DataFrame([[1, 2]], columns=["f", "f"]),
        {"f": [1], "g": [1, 2]},
    ],
    ids=["large", "large in a list", "surrogate", "twice", "lengths"],
)
def test_a_request_that_arrow_cannot_hold_is_an_input_error(columns):
    with pytest.raises(InputError, match=r"^[^\n]*; expected numbers, strings or lists of them, one type a column$"):
        as_table(columns)


def test_serving_needs_no_labels():
    found, lists, dense = encoder_of(ids("f"), user="user").features(pa.table({"f": [1]}))
    assert (found.shape, lists, dense.shape) == ((1, 1), (), (1, 0))
