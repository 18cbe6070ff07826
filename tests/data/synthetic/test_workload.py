"""The benchmark workload "20x100k"."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ranking.data.manifest import Manifest
from ranking.data.synthetic.workload import WorkloadConfig, workload, write_workload


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    return pa.concat_tables(workload(WorkloadConfig(rows=50_000)))


def test_a_million_rows_make_eight_files_of_row_groups_of_65536(tmp_path: Path) -> None:
    config = WorkloadConfig()
    assert config.rows / config.file_rows == 8
    small = config.model_copy(update={"rows": 20_000, "file_rows": 2500, "row_group_rows": 2000})
    write_workload(tmp_path / "set", small)
    manifest = Manifest.build(str(tmp_path / "set"))
    assert [shard.row_groups for shard in manifest.shards] == [(2000, 500)] * 8
    assert config.row_group_rows == 65_536


def test_it_has_20_id_features_13_numbers_and_two_labels(rows: pa.Table) -> None:
    kinds = [str(kind) for kind in rows.drop_columns(["shard"]).schema.types]
    assert kinds == ["int64"] * 18 + ["list<item: int64>"] * 2 + ["float"] * 13 + ["int8"] * 2


def test_ids_are_zipf_modulo_100000(rows: pa.Table) -> None:
    ids = rows["id_0"].to_numpy()
    assert 0 <= ids.min() < ids.max() < 100_000
    assert (ids == 1).mean() == pytest.approx(1 / 3.93, abs=0.01)  # 1 / zeta(1.3)


def test_lists_hold_0_to_9_ids(rows: pa.Table) -> None:
    lengths = np.bincount(pc.list_value_length(rows["list_0"]).to_numpy())
    assert lengths.size == 10
    assert lengths / rows.num_rows == pytest.approx([0.1] * 10, abs=0.01)


def test_a_tenth_is_clicked_and_a_fifth_of_that_liked(rows: pa.Table) -> None:
    click, like = rows["click"].to_numpy(), rows["like"].to_numpy()
    assert click.mean() == pytest.approx(0.1, abs=0.006)
    assert like[click == 1].mean() == pytest.approx(0.2, abs=0.025)
    assert not like[click == 0].any()


def test_a_larger_workload_begins_with_the_smaller_one(rows: pa.Table) -> None:
    config = WorkloadConfig(rows=20_000, file_rows=10_000)
    larger = pa.concat_tables(workload(config.model_copy(update={"rows": 30_000})))
    assert larger.slice(0, 20_000).equals(pa.concat_tables(workload(config)))
