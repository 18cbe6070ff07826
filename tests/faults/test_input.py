"""Damaged, changed and faulty inputs of whole jobs on real ranks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from ranking.errors import EXIT_INPUT
from tests.faults.proxy import Fault, Proxy
from tests.launch import Ended, run
from tests.pipelines.test_train import OFFLINE
from tests.workspace import Workspace, build


def only_error(ended: list[Ended]) -> str:
    assert [rank.code for rank in ended] == [EXIT_INPUT] * len(ended), [rank.err for rank in ended]
    (line,) = [line for rank in ended for line in rank.errors]
    return line


def flip(file: Path, group: int) -> None:
    chunk = pq.read_metadata(file).row_group(group).column(0)
    content = bytearray(file.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start + chunk.total_compressed_size - 1] ^= 1
    file.write_bytes(content)


@pytest.fixture
def train(workspace: Workspace, tmp_path: Path) -> Callable[..., list[Ended]]:
    """Trains on a copy of the shards in `tmp_path / "train"`."""
    shutil.copytree(workspace.folder / "data" / "train", tmp_path / "train")

    def start(*overrides: str, size: int = 2) -> list[Ended]:
        own = (f"--data.train={tmp_path / 'train'}", f"--output={tmp_path / 'run'}", "--training.epochs=1")
        return run(tmp_path, "pipelines.train", workspace.arguments(*OFFLINE, *own, *overrides), size=size)

    return start


def test_under_the_bound_training_goes_on_and_reports_what_it_left_out(train, tmp_path) -> None:
    flip(tmp_path / "train" / "part-2.parquet", 1)
    leader, follower = train("--data.quarantine.max_share=0.1", "--training.log_every=2")
    assert (leader.code, follower.code) == (0, 0), leader.err
    assert "quarantined 100 rows: " in leader.err
    assert follower.err == ""
    (found,) = json.loads((tmp_path / "run" / "report.json").read_text())["quarantined"]
    assert found["url"].endswith("part-2.parquet")
    assert (found["row_group"], found["rows"]) == (1, 100)
    spooled = "".join(file.read_text() for file in (tmp_path / "run" / "tracking").rglob("*.jsonl"))
    assert '"data/quarantined_rows": 100' in spooled or '"data/quarantined_rows":100' in spooled


def test_above_the_bound_all_ranks_stop_with_one_line(train, tmp_path) -> None:
    for shard in (1, 2):
        flip(tmp_path / "train" / f"part-{shard}.parquet", 1)
    line = only_error(train("--data.quarantine.max_share=0.15"))
    assert "data.quarantine.max_share: got 200 damaged rows of 1000, the last in " in line
    assert "part-2.parquet: row group 1: " in line
    assert not (tmp_path / "run" / "report.json").exists()


def test_a_run_resumes_on_the_files_it_began_with_or_not_at_all(train, tmp_path) -> None:
    assert train(size=1)[0].code == 0
    file = tmp_path / "train" / "part-3.parquet"
    table = pq.read_table(file)
    shuffled = table.take(list(reversed(range(table.num_rows))))
    pq.write_table(shuffled, file, row_group_size=100, write_page_checksum=True, compression="none")
    line = only_error(train(size=1))
    assert "part-3.parquet: changed since it was pinned: got size " in line


@pytest.fixture
def remote(s3, tmp_path: Path) -> tuple[Workspace, str]:
    """A workspace whose data lie in the bucket alone."""
    own = build(tmp_path / "workspace")
    system = fsspec.filesystem("s3", **s3)
    system.put(str(own.folder / "data"), f"ranking/{tmp_path.name}", recursive=True)
    shutil.rmtree(own.folder / "data")
    return own, f"s3://ranking/{tmp_path.name}"


def test_prepare_doctor_and_train_read_a_store_on_a_bad_day(remote, s3, tmp_path) -> None:
    workspace, url = remote
    host, port = s3["endpoint_url"].removeprefix("http://").split(":")
    with Proxy(host, int(port)) as proxy:
        faults = [Fault("status", times=2), Fault("cut", times=1, path="part-1"), Fault("reset", path="part-2")]
        options = {**s3, "endpoint_url": proxy.url, "config_kwargs": {"read_timeout": 2}}
        data = [f"--data.{split}={url}/{split}/*.parquet" for split in ("train", "validation", "test")]
        own = workspace.arguments(*data, f"--data.storage_options={json.dumps(options)}")
        for job, more in (("prepare", ()), ("doctor", ()), ("train", (*OFFLINE, "--training.epochs=1"))):
            with proxy.failing(*(Fault(f.kind, times=f.times, path=f.path) for f in faults)) as met:
                (ended,) = run(tmp_path, f"pipelines.{job}", [*own, *more])
            assert ended.code == 0, ended.err
            assert sum(fault.met for fault in met) >= 3
    assert json.loads((workspace.folder / "run" / "report.json").read_text())["tasks"].keys() == {
        "click",
        "like",
        "watch",
    }
