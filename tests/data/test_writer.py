from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ranking.data.manifest import Manifest
from ranking.data.writer import WriterConfig, write_dataset
from ranking.errors import InputError
from ranking.files import replacing

ROWS = pa.table({"day": ["mon", "tue", "mon", "tue", "mon"], "x": [0, 1, 2, 3, 4]})


def read(directory: Path, value: str, part: int = 0) -> list[int]:
    return pq.ParquetFile(directory / f"day={value}" / f"part-{part}.parquet").read()["x"].to_pylist()


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_every_value_of_the_partition_column_gets_its_rows_in_order(tmp_path: Path) -> None:
    write_dataset([ROWS], tmp_path / "set", "day", WriterConfig())
    assert read(tmp_path / "set", "mon") == [0, 2, 4]
    assert read(tmp_path / "set", "tue") == [1, 3]


def test_the_partition_column_comes_back_from_the_path_alone(tmp_path: Path) -> None:
    write_dataset([ROWS], tmp_path / "set", "day", WriterConfig())
    manifest = Manifest.build(str(tmp_path / "set"))
    assert [shard.partition for shard in manifest.shards] == [{"day": "mon"}, {"day": "tue"}]
    assert pq.ParquetFile(tmp_path / "set/day=mon/part-0.parquet").schema_arrow.names == ["x"]


@pytest.mark.parametrize("value", ["a/b", "50 %", "x=y", "ä"])
def test_a_value_that_no_path_can_hold_is_quoted(tmp_path: Path, value: str) -> None:
    write_dataset([pa.table({"day": [value], "x": [1]})], tmp_path / "set", "day", WriterConfig())
    assert Manifest.build(str(tmp_path / "set")).shards[0].partition == {"day": value}


def test_a_value_seen_in_a_later_table_gets_a_further_part(tmp_path: Path) -> None:
    write_dataset([ROWS, ROWS.slice(3)], tmp_path / "set", "day", WriterConfig())
    assert read(tmp_path / "set", "mon", 1) == [4]


def test_row_groups_are_bounded_zstd_and_carry_page_checksums(tmp_path: Path) -> None:
    table = pa.table({"day": ["mon"] * 1000, "x": np.random.default_rng(0).integers(0, 2**62, 1000)})
    write_dataset([table], tmp_path / "set", "day", WriterConfig(row_group_rows=300))
    path = tmp_path / "set/day=mon/part-0.parquet"
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [300, 300, 300, 100]
    assert {group.column(0).compression for group in groups} == {"ZSTD"}

    damaged = bytearray(path.read_bytes())
    damaged[groups[0].column(0).data_page_offset + groups[0].column(0).total_compressed_size // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(path, page_checksum_verification=True).read()


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def tables():
        yield ROWS
        raise RuntimeError("the source broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        write_dataset(tables(), tmp_path / "set", "day", WriterConfig())
    assert names(tmp_path) == []


def test_a_failure_leaves_the_data_set_that_was_there(tmp_path: Path) -> None:
    write_dataset([ROWS], tmp_path / "set", "day", WriterConfig())
    with pytest.raises(InputError, match="partition column 'day': missing"):
        write_dataset(
            [ROWS.slice(1), ROWS.drop_columns(["day"])], tmp_path / "set", "day", WriterConfig(overwrite=True)
        )
    assert read(tmp_path / "set", "mon") == [0, 2, 4]
    assert names(tmp_path) == ["set"]


def test_a_data_set_is_replaced_only_on_request_and_as_a_whole(tmp_path: Path) -> None:
    write_dataset([ROWS], tmp_path / "set", "day", WriterConfig())
    with pytest.raises(InputError, match=r"set: not empty; expected a new directory, or `overwrite: true`"):
        write_dataset([ROWS], tmp_path / "set", "day", WriterConfig())
    write_dataset([ROWS.slice(1, 1)], tmp_path / "set", "day", WriterConfig(overwrite=True))
    assert names(tmp_path / "set") == ["day=tue"]
    assert names(tmp_path) == ["set"]


def test_an_empty_directory_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write_dataset([ROWS], tmp_path / "set", "day", WriterConfig())
    assert read(tmp_path / "set", "tue") == [1, 3]


def test_of_two_jobs_the_first_to_finish_wins(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not empty"), replacing(tmp_path / "set"):
        write_dataset([ROWS], tmp_path / "set", "day", WriterConfig())
    assert read(tmp_path / "set", "mon") == [0, 2, 4]
    assert names(tmp_path) == ["set"]


def test_a_row_without_a_partition_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="partition column 'day': got 1 nulls"):
        write_dataset([pa.table({"day": ["mon", None], "x": [0, 1]})], tmp_path / "set", "day", WriterConfig())
    assert names(tmp_path) == []


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").write_text("")
    with pytest.raises(InputError, match="got a file; expected a directory"):
        write_dataset([ROWS], tmp_path / "set", "day", WriterConfig(overwrite=True))
