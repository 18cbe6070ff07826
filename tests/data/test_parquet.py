"""Decoding pieces of row groups, and never believing damaged ones."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ranking.data.manifest import Manifest
from ranking.data.parquet import Decoder
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


def attempt(manifest, *pieces):
    """The table, or the error that was raised for it."""
    try:
        return decode(manifest, *pieces)
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
    with pytest.raises(InputError, match=r"part-000\.parquet: got 2 row groups of 9 rows; expected 2 of 8, as when"):
        decode(manifest, (0, 0, 5))


def test_a_file_that_vanished_since_the_manifest_is_named(tmp_path, write_shards):
    manifest = Manifest.build(write_shards([[5]], str(tmp_path)))
    (tmp_path / "part-000.parquet").unlink()
    with pytest.raises(InputError, match=r"part-000\.parquet: got no such file; expected a Parquet file$"):
        decode(manifest, (0, 0, 5))
