"""Decoding pieces of row groups, and never believing damaged ones."""

import os
from uuid import uuid4

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.data.columns import RawRows
from ranking.data.manifest import Manifest
from ranking.data.parquet import Decoder
from ranking.data.storage import DamageError
from ranking.errors import InputError


def decode(manifest, *pieces, **settings):
    return Decoder(manifest, **settings).read(np.array(pieces))


def test_pieces_come_one_after_another(write_shards):
    manifest = Manifest.build(write_shards([[5, 3], [], [7]]))
    table = decode(manifest, (2, 1, 3), (0, 0, 5), (1, 2, 3), (1, 0, 1))
    assert table["row"].to_pylist() == [9, 10, 0, 1, 2, 3, 4, 7, 5]
    assert table["user"].to_pylist() == ["u2", "u3", "u0", "u1", "u2", "u3", "u4", "u0", "u5"]
    assert table["tags"].to_pylist()[:3] == [[], [10], []]


def test_only_the_columns_of_the_manifest_are_read(write_shards):
    manifest = Manifest.build(write_shards([[5]]), ["x", "row"])
    assert decode(manifest, (0, 0, 5)).column_names == ["x", "row"]


def test_every_file_gives_the_types_of_the_manifest(tmp_path):
    kinds = [
        (pa.int32(), pa.large_string(), pa.list_(pa.int16())),
        (pa.int64(), pa.string(), pa.large_list(pa.int64())),
    ]
    for number, (integer, text, several) in enumerate(kinds):
        columns = {
            "i": pa.array([1, None], integer),
            "s": pa.array(["a", None], text),
            "l": pa.array([[1], []], several),
        }
        columns["s"] = columns["s"].dictionary_encode() if number else columns["s"]
        pq.write_table(pa.table(columns), tmp_path / f"{number}.parquet")
    manifest = Manifest.build(str(tmp_path))
    table = decode(manifest, (0, 0, 2), (1, 0, 2))
    assert table.schema == manifest.columns
    assert table["i"].to_pylist() == [1, None, 1, None]
    assert table["s"].to_pylist() == ["a", None, "a", None]
    assert table["l"].to_pylist() == [[1], [], [1], []]


SAME = {
    "i": [pa.int8(), pa.int32(), pa.int64(), pa.uint16(), pa.decimal128(18, 0), pa.dictionary(pa.int8(), pa.int64())],
    "s": [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    "l": [pa.list_(pa.int16()), pa.large_list(pa.int64()), pa.list_(pa.int32(), 2)],
    "f": [pa.float32(), pa.float64(), pa.float16()],
    "w": [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string(), 2)],
}


@given(st.lists(st.tuples(*map(st.sampled_from, SAME.values())), min_size=1, max_size=4), st.booleans())
@settings(max_examples=40, deadline=None)
def test_files_of_any_types_in_any_order_give_the_same_rows(kinds, dictionaries):
    folder = f"memory://{uuid4().hex}"
    plain = {"i": [1, None, 100], "s": ["a", None, "é"], "l": [[1, 2], [3, 4], [5, 6]], "f": [0.5, None, -2.0]}
    plain["w"] = [["a", "b"], [None, "a"], ["a", "a"]]
    for number, types in enumerate(kinds):
        columns = {}
        for (name, values), kind in zip(plain.items(), types, strict=True):
            stored = pa.array(values, kind.value_type) if pa.types.is_dictionary(kind) else pa.array(values, kind)
            columns[name] = stored.dictionary_encode() if pa.types.is_dictionary(kind) else stored
        with fsspec.open(f"{folder}/{number}.parquet", "wb") as file:
            pq.write_table(pa.table(columns), file, write_page_checksum=True)
    manifest = Manifest.build(folder)
    decoder = Decoder(manifest, dictionaries=dictionaries)
    for group in range(len(kinds)):
        table = decoder.read(np.array([[group, 0, 3], [0, 1, 3]]))
        assert dictionaries or table.schema == manifest.columns
        assert table.cast(manifest.columns).equals(decode(manifest, (group, 0, 3), (0, 1, 3)))
        assert table.to_pydict() == {name: values + values[1:] for name, values in plain.items()}


def test_strings_stay_dictionaries_where_they_repeat(tmp_path, monkeypatch):
    monkeypatch.setattr("ranking.data.parquet._FEW", 0)
    words = {"often": ["a", "b"] * 8, "seldom": [str(i) for i in range(16)], "lists": [["a", "b"], []] * 8}
    for number in range(2):
        pq.write_table(pa.table(words), tmp_path / f"{number}.parquet", row_group_size=8, write_page_checksum=True)
    manifest = Manifest.build(str(tmp_path))
    decoder = Decoder(manifest, dictionaries=True)
    strings = pa.dictionary(pa.int32(), pa.string())
    for group in range(4):
        table = decoder.read(np.array([[group, 0, 8]]))
        kinds = [kind if kind != pa.list_(strings) else "lists" for kind in table.schema.types]
        assert kinds == [strings, pa.large_string(), "lists"]
        rows = slice(0, 8) if group % 2 == 0 else slice(8, 16)
        assert table.to_pydict() == {name: values[rows] for name, values in words.items()}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.int64(), 2**63 - 1),
        (pa.uint64(), 2**64 - 1),
        (pa.decimal128(18, 0), 10**18 - 1),
        (pa.float64(), 2.0**53 - 1),
    ],
)
def test_large_ids_keep_every_bit(tmp_path, kind, value):
    pq.write_table(pa.table({"x": pa.array([value], kind)}), tmp_path / "0.parquet", write_page_checksum=True)
    keys = RawRows(decode(Manifest.build(str(tmp_path)), (0, 0, 1))).column("x").keys()
    assert keys.to_pylist() == [value - 2**64 if value >= 2**63 else value]


@pytest.mark.parametrize(
    ("kind", "value"),
    [(pa.float64(), 2.0**53 + 2), (pa.float32(), 2.0**24), (pa.decimal128(38, 0), 2**60 + 1), (pa.float64(), 1e300)],
)
def test_an_id_that_may_have_been_another_is_refused(tmp_path, kind, value):
    pq.write_table(pa.table({"x": pa.array([value], kind)}), tmp_path / "0.parquet", write_page_checksum=True)
    with pytest.raises(InputError, match=r"column 'x', row 0: got .*; expected whole numbers below \d+, from where"):
        RawRows(decode(Manifest.build(str(tmp_path)), (0, 0, 1))).column("x").keys()


def test_the_directories_give_their_columns(tmp_path):
    for day in (1, 2):
        (tmp_path / f"day={day}").mkdir()
        pq.write_table(pa.table({"x": [day * 10.0, None]}), tmp_path / f"day={day}/0.parquet")
    table = decode(Manifest.build(str(tmp_path), ["day", "x"]), (0, 0, 2), (1, 1, 2))
    assert table.to_pydict() == {"day": [1, 1, 2], "x": [10.0, None, None]}


def test_a_row_group_two_readers_share_is_decoded_once_when_kept(write_shards, monkeypatch):
    reads, read = [], pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda *a, **k: reads.append(a[1]) or read(*a, **k))
    decoder = Decoder(Manifest.build(write_shards([[9]])), keep=1)
    rows = [decoder.read(np.array([piece]))["row"].to_pylist() for piece in ((0, 0, 4), (0, 4, 9))]
    assert rows == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    assert reads == [0]


def attempt(manifest, *pieces, **settings):
    """The table, or the error that was raised for it."""
    try:
        return decode(manifest, *pieces, **settings)
    except InputError as error:
        return error


def test_a_flipped_bit_is_an_error_or_harmless_but_never_other_rows(tmp_path, write_shards):
    manifest = Manifest.build(write_shards([[300, 300]], str(tmp_path)))
    path = tmp_path / "part-000.parquet"
    whole, expected = path.read_bytes(), decode(manifest, (0, 0, 300), (1, 0, 300))
    generator, errors = np.random.default_rng(0), []
    for place in generator.integers(4, len(whole) - 8, 200):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << generator.integers(8)
        path.write_bytes(damaged)
        result = attempt(manifest, (0, 0, 300), (1, 0, 300))
        if isinstance(result, InputError):
            errors.append(str(result))
        else:
            assert result.equals(expected)
    assert len(errors) > 100
    assert all(error.startswith(f"file://{path}: ") and "\n" not in error for error in errors)


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", "PLAIN"])
def test_strings_that_no_dictionary_can_be_made_of_are_read_plain(tmp_path, encoding):
    words = {"s": ["a", None, "b"] * 5, "l": [["a", "b"], [], ["c"]] * 5}
    leaves = {"s": encoding, "l.list.element": encoding}
    settings = {"use_dictionary": False, "column_encoding": leaves, "row_group_size": 5}
    pq.write_table(pa.table(words), tmp_path / "0.parquet", write_page_checksum=True, **settings)
    decoder = Decoder(Manifest.build(str(tmp_path)), dictionaries=True)
    assert decoder.read(np.array([[0, 0, 5], [1, 0, 5], [2, 0, 5]])).to_pydict() == words


def test_damage_without_checksums_is_found_by_dictionaries_where_plain_strings_find_it(tmp_path):
    words = {"s": [f"word {number % 7}" for number in range(300)], "l": [["a", "b"], ["c"]] * 150}
    path = tmp_path / "0.parquet"
    pq.write_table(pa.table(words), path, compression="none", write_page_checksum=False)
    manifest, whole = Manifest.build(str(tmp_path)), path.read_bytes()
    generator, found = np.random.default_rng(0), set()
    for place in generator.integers(4, len(whole) - pq.read_metadata(path).serialized_size - 8, 300):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << generator.integers(8)
        path.write_bytes(damaged)
        plain, kept = (attempt(manifest, (0, 0, 300), dictionaries=wanted) for wanted in (False, True))
        if isinstance(plain, InputError):
            assert isinstance(kept, DamageError), (plain, kept)
        else:
            assert kept.cast(manifest.columns).equals(plain)
        found.add(type(plain))
    assert found == {DamageError, pa.Table}


def test_a_damaged_page_is_named_with_file_and_row_group(tmp_path, write_shards):
    manifest = Manifest.build(write_shards([[300, 300]], str(tmp_path)))
    path = tmp_path / "part-000.parquet"
    content = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(1).column(0)
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    path.write_bytes(content)
    decode(manifest, (0, 0, 300))
    with pytest.raises(
        InputError, match=r"part-000\.parquet: row group 1: got '.*CRC.*'; expected an undamaged Parquet file$"
    ):
        decode(manifest, (1, 0, 300))


def test_a_file_that_changed_since_the_manifest_is_refused(tmp_path, write_shards):
    manifest = Manifest.build(write_shards([[5, 3]], str(tmp_path)))
    write_shards([[5, 4]], str(tmp_path))
    with pytest.raises(
        InputError, match=r"part-000\.parquet: changed since the manifest .*: got \d+ bytes; expected \d+$"
    ):
        decode(manifest, (0, 0, 5))


def test_a_file_that_vanished_since_the_manifest_is_named(tmp_path, write_shards):
    manifest = Manifest.build(write_shards([[5]], str(tmp_path)))
    (tmp_path / "part-000.parquet").unlink()
    with pytest.raises(InputError, match=r"part-000\.parquet: got no such file; expected a Parquet file$"):
        decode(manifest, (0, 0, 5))


def test_a_file_rewritten_with_the_same_footer_is_the_same_copy(tmp_path, write_shards):
    manifest = Manifest.build(write_shards([[5, 3]], str(tmp_path)))
    os.utime(tmp_path / "part-000.parquet", (1, 1))
    assert decode(manifest, (0, 0, 5)).num_rows == 5


def test_a_file_rewritten_while_it_is_read_is_named(tmp_path, write_shards):
    decoder = Decoder(Manifest.build(write_shards([[5, 3]], str(tmp_path))))
    decoder.read(np.array([[0, 0, 5]]))
    os.utime(tmp_path / "part-000.parquet", (1, 1))
    with pytest.raises(
        InputError, match=r"part-000\.parquet: changed since the manifest was read: it was replaced while"
    ):
        decoder.read(np.array([[1, 0, 3]]))


def test_a_cell_that_no_type_of_the_manifest_holds_is_named(tmp_path):
    for number, values in enumerate(([1], [2**40])):
        kind = pa.int32() if number == 0 else pa.int64()
        pq.write_table(pa.table({"x": pa.array(values, kind)}), tmp_path / f"{number}.parquet")
    manifest = Manifest.build(str(tmp_path))
    narrow = manifest.model_copy(update={"columns": pa.schema([("x", pa.int32())])})
    with pytest.raises(InputError, match=r"1\.parquet: row group 0: column 'x': got int64; expected values that int32"):
        decode(narrow, (1, 0, 1))
