"""What a data set consists of, from its footers alone."""

import os
import re

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ranking.data.columns import RowError
from ranking.data.manifest import Manifest
from ranking.errors import InputError


def write(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def test_shards_row_groups_and_columns_are_listed_in_order(tmp_path, write_shards):
    manifest = Manifest.build(write_shards([[5, 3], [], [7]], str(tmp_path)))
    assert [shard.url.rsplit("/")[-1] for shard in manifest.shards] == [f"part-00{n}.parquet" for n in range(3)]
    assert [shard.row_groups for shard in manifest.shards] == [(5, 3), (), (7,)]
    assert manifest.shards[0].size == os.path.getsize(tmp_path / "part-000.parquet")
    assert manifest.row_groups.tolist() == [5, 3, 7]
    assert manifest.rows == 15
    assert [manifest.locate(group) for group in range(3)] == [(0, 0), (0, 1), (2, 0)]
    assert manifest.columns.names == ["row", "user", "tags", "x"]


@pytest.mark.parametrize(("row", "place"), [(0, (0, 0, 0)), (7, (0, 1, 7)), (8, (2, 0, 0)), (14, (2, 0, 6))])
def test_an_error_over_a_row_names_its_file_and_its_number_there(write_shards, row, place):
    found = Manifest.build(write_shards([[5, 3], [], [7]])).located(RowError("column 'x'", row, "got inf"))
    file, group, number = place
    assert found.endswith(f"/part-00{file}.parquet: row group {group}: column 'x', row {number}: got inf")


def test_files_come_from_files_globs_and_directories_in_the_order_given(tmp_path):
    for name in ("b/2.parquet", "b/1.parquet", "b/_SUCCESS", "b/.hidden.parquet", "a.parquet", "c/deep/3.parquet"):
        write(tmp_path / name, x=[1])
    urls = [f"{tmp_path}/b/*", f"file://{tmp_path}/a.parquet", f"{tmp_path}/c", f"{tmp_path}/b/1.parquet"]
    manifest = Manifest.build(urls)
    assert [shard.url.removeprefix(f"file://{tmp_path}/") for shard in manifest.shards] == [
        "b/1.parquet",
        "b/2.parquet",
        "a.parquet",
        "c/deep/3.parquet",
    ]


def test_json_gives_the_manifest_back(tmp_path):
    write(tmp_path / "day=1/x.parquet", x=[1.5, None], s=["a", "b"], tags=[[1], [2, 3]])
    manifest = Manifest.build(str(tmp_path))
    again = Manifest.model_validate_json(manifest.model_dump_json())
    assert again == manifest
    assert again.digest == manifest.digest


def test_the_digest_is_that_of_the_content_not_of_place_or_time(tmp_path, write_shards):
    layout = [[5, 3], [7]]
    digest = Manifest.build(write_shards(layout, f"{tmp_path}/here")).digest
    write_shards(layout, f"{tmp_path}/there")
    os.utime(tmp_path / "there/part-000.parquet", (1, 1))
    assert Manifest.build(f"{tmp_path}/there").digest == digest
    assert Manifest.build(write_shards(layout)).digest == digest
    assert Manifest.build(write_shards([[5, 3], [8]])).digest != digest
    assert Manifest.build(write_shards([[3, 5], [7]])).digest != digest


def test_the_digest_knows_the_day_even_of_a_single_partition(tmp_path):
    digests = {Manifest.build(str(write(tmp_path / f"day={day}/0.parquet", x=[1]))).digest for day in (1, 2)}
    assert len(digests) == 2


def test_hive_directories_are_columns(tmp_path):
    for path in ("day=2022-05-02/hour=1", "day=2022-05-01/hour=12", "day=a%20b/hour=__HIVE_DEFAULT_PARTITION__"):
        write(tmp_path / path / "0.parquet", x=[1])
    manifest = Manifest.build(str(tmp_path), ["x", "day", "hour"])
    assert manifest.columns == pa.schema([("x", pa.int64()), ("day", pa.large_string()), ("hour", pa.int64())])
    assert [tuple(shard.partition.values()) for shard in manifest.shards] == [
        ("2022-05-01", "12"),
        ("2022-05-02", "1"),
        ("a b", None),
    ]


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.uint8(), pa.int16(), pa.int64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.float32(), pa.float32(), pa.float32()),
        (pa.string(), pa.dictionary(pa.int32(), pa.string()), pa.large_string()),
        (pa.large_string(), pa.string(), pa.large_string()),
        (pa.list_(pa.int32()), pa.large_list(pa.int64()), pa.list_(pa.int64())),
        (pa.null(), pa.list_(pa.float32()), pa.list_(pa.float32())),
        (pa.timestamp("us"), pa.null(), pa.timestamp("us")),
    ],
)
def test_types_that_mean_the_same_become_one(tmp_path, one, other, common):
    write(tmp_path / "0.parquet", x=pa.nulls(1, one))
    write(tmp_path / "1.parquet", x=pa.nulls(1, other))
    assert Manifest.build(str(tmp_path)).columns.field("x").type == common


def test_columns_nobody_asked_for_may_differ(tmp_path):
    write(tmp_path / "0.parquet", x=[1], y=["a"])
    write(tmp_path / "1.parquet", x=[2], y=[3], z=[4])
    assert Manifest.build(str(tmp_path), ["x"]).columns.names == ["x"]


def test_a_pattern_without_files_is_named_with_its_config_key():
    for pattern in ("memory://nothing/*.parquet", "memory://nothing/0.parquet"):
        with pytest.raises(InputError) as caught:
            Manifest.build(pattern, key="data.validation")
        expected = f"data.validation: got {pattern!r}, which matches no file; expected Parquet files"
        assert str(caught.value) == expected


def test_a_relative_pattern_without_files_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = f"data.test: got 'log/*.parquet', which matches no file in {tmp_path}; expected Parquet files"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        Manifest.build("log/*.parquet", key="data.test")
    with pytest.raises(InputError, match="which matches no file; expected"):
        Manifest.build(f"{tmp_path}/log/*.parquet")


def test_a_relative_path_is_named_the_same_from_the_root_directory(tmp_path, monkeypatch):
    write(tmp_path / "0.parquet", x=[1])
    monkeypatch.chdir("/")
    for path in (f"{tmp_path}"[1:], f"{tmp_path}/*.parquet"[1:], f"{tmp_path}/0.parquet"[1:]):
        assert [shard.url for shard in Manifest.build(path).shards] == [f"file://{tmp_path}/0.parquet"]


def test_a_data_set_without_rows_is_refused(write_shards):
    url = write_shards([[], []])
    with pytest.raises(
        InputError, match=r"^data\.train: got 2 files without a row, first memory://.*part-000.parquet;"
    ):
        Manifest.build(url)


def test_a_missing_column_is_named_with_its_file_and_the_columns_there_are(tmp_path):
    write(tmp_path / "0.parquet", x=[1], y=[1])
    write(tmp_path / "1.parquet", x=[1], z=[1])
    with pytest.raises(InputError, match=r"1\.parquet: column 'y': missing; got columns 'x', 'z'$"):
        Manifest.build(str(tmp_path), ["x", "y"])


def test_a_column_of_another_type_is_named_with_its_file(tmp_path):
    write(tmp_path / "0.parquet", x=[1])
    write(tmp_path / "1.parquet", x=["a"])
    with pytest.raises(InputError, match=r"1\.parquet: column 'x': got string; expected int64 as in .*0\.parquet$"):
        Manifest.build(str(tmp_path))


def test_a_type_that_no_feature_can_have_is_refused(tmp_path):
    write(tmp_path / "0.parquet", x=[{"a": 1}])
    with pytest.raises(InputError, match=r"0\.parquet: column 'x': got struct<a: int64>; expected numbers, strings"):
        Manifest.build(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"text", b"x" * 1000, "truncated"])
def test_a_file_that_is_no_parquet_or_was_cut_off_is_named(write_shards, content):
    url = write_shards([[50], [50]])
    system, path = fsspec.core.url_to_fs(f"{url}/part-001.parquet")
    system.pipe_file(path, system.cat_file(path)[:-100] if content == "truncated" else content)
    with pytest.raises(
        InputError, match=r"^memory://.*part-001\.parquet: got '.*'; expected an undamaged Parquet file$"
    ):
        Manifest.build(url)


def test_a_column_that_stands_twice_in_a_file_is_named(tmp_path):
    both = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["x", "x"])
    pq.write_table(both, tmp_path / "0.parquet")
    with pytest.raises(InputError, match=r"0\.parquet: column 'x': stands there 2 times; expected once"):
        Manifest.build(str(tmp_path), ["x"])


def test_files_without_page_checksums_are_warned_of_once_or_refused(tmp_path, write_shards, caplog):
    Manifest.build(write_shards([[5], [5]], f"{tmp_path}/good"))
    assert caplog.text == ""
    for number in range(2):
        write(tmp_path / f"bare/{number}.parquet", x=list(range(20_000)))
    Manifest.build(f"{tmp_path}/bare")
    assert caplog.text.count("data.train: 2 of 2 files carry no page checksums, first ") == 1
    with pytest.raises(
        InputError, match=r"data\.train: 2 of 2 files .*0\.parquet; expected them, as data\.require_check"
    ):
        Manifest.build(f"{tmp_path}/bare", require_checksums=True)


def test_a_footer_longer_than_what_is_read_at_once_is_read_whole(tmp_path):
    wide = {f"column_{number:05}": [number] for number in range(1500)}
    assert write(tmp_path / "0.parquet", **wide).stat().st_size > 100_000
    assert Manifest.build(str(tmp_path)).columns.names == list(wide)


def changed(tmp_path, change):
    """What `require` says of a data set of two files that was changed after it was pinned."""
    for number in range(2):
        write(tmp_path / f"{number}.parquet", x=[number, 2, 3])
    pinned = Manifest.build(str(tmp_path))
    change(tmp_path)
    Manifest.build(str(tmp_path)).require(Manifest.model_validate_json(pinned.model_dump_json()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: write(folder / "1.parquet", x=[1, 2, 3, 4]),
            r"1\.parquet: changed since it was pinned: got size",
        ),
        (
            lambda folder: write(folder / "1.parquet", x=[1, 2, 9]),
            r"1\.parquet: changed since it was pinned: got footer",
        ),
        (lambda folder: (folder / "1.parquet").unlink(), r"1\.parquet: missing now; expected the file that was pinned"),
        (
            lambda folder: write(folder / "2.parquet", x=[1]),
            r"2\.parquet: new; expected only the files that were pinned",
        ),
    ],
    ids=["size", "content", "gone", "new"],
)
def test_another_data_set_than_the_pinned_one_is_named_by_file(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        changed(tmp_path, change)


def test_the_pinned_data_set_written_anew_is_warned_of(tmp_path, caplog):
    changed(tmp_path, lambda folder: os.utime(folder / "1.parquet", (1, 1)))
    assert "1.parquet: written anew since it was pinned, with the same footer" in caplog.text
