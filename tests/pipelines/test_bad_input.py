"""Bad input ends in one line that names the thing, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ranking.errors import EXIT_FAILURE, EXIT_INPUT
from ranking.training.commits import read_commits
from tests.launch import Ended, free_port, run
from tests.pipelines.test_train import OFFLINE, contents
from tests.workspace import SCHEMA, Workspace

Change = Callable[[pa.Table], pa.Table]


def only_error(ended: list[Ended], code: int = EXIT_INPUT) -> str:
    """The one line a user reads: rank 0's; the others stop with the same code, without a word."""
    assert [rank.code for rank in ended] == [code] * len(ended), [rank.err for rank in ended]
    lines = [line for rank in ended for line in rank.errors]
    assert len(lines) == 1, lines
    assert ended[0].errors == lines
    assert not any("Traceback" in rank.err for rank in ended)
    return lines[0]


@pytest.fixture
def spoiled(workspace: Workspace, tmp_path: Path) -> Callable[[Change], str]:
    """Copies the training shards, changes one of them, and returns their URL as an override."""

    def written(change: Change, shards: tuple[int, ...] = (2,)) -> str:
        folder = tmp_path / "spoiled"
        shutil.copytree(workspace.folder / "data" / "train", folder)
        for shard in shards:
            file = folder / f"part-{shard}.parquet"
            pq.write_table(change(pq.read_table(file)), file, row_group_size=100, write_page_checksum=True)
        return f"--data.train={folder}/*.parquet"

    return written


def column(name: str, values: Callable[[pa.Table], pa.Array]) -> Change:
    return lambda table: table.set_column(table.schema.names.index(name), name, values(table))


def replace_at(name: str, row: int, value: object) -> Change:
    def values(table: pa.Table) -> pa.Array:
        entries = table[name].to_pylist()
        entries[row] = value
        return pa.array(entries)

    return column(name, values)


def tasks(**given: str) -> list[dict]:
    return [{**task, **({"given": given[task["name"]]} if task["name"] in given else {})} for task in SCHEMA["tasks"]]


@pytest.mark.parametrize(
    ("overlay", "overrides", "message"),
    [
        ({"training": {"epoch": 3}}, (), "training.epoch: unknown key"),
        ({}, ("--model.experts=many",), "model.experts: got 'many'; expected a valid integer, "),
        ({"schema": {"tasks": tasks(like="view")}}, (), "task like: given: unknown task 'view'; expected one of"),
        ({"schema": {"tasks": tasks(click="like")}}, (), "given: cycle click -> like -> click; expected a chain"),
        ({}, ("--device=cuda",), "device: got 'cuda' "),
        ({}, ("--data.train=nowhere/*.parquet",), "data.train: got 'nowhere/*.parquet', which matches no file in /"),
        ({}, ("--data.test=",), "data.test: "),
        ({}, ("--data.transforms=nowhere",), "transforms.json: no such file; expected the transforms that `prepare`"),
    ],
)
def test_a_wrong_configuration(workspace, tmp_path, overlay, overrides, message) -> None:
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    options = workspace.arguments("-c", str(tmp_path / "overlay.yaml"), f"--output={tmp_path / 'run'}", *overrides)
    assert message in only_error(run(tmp_path, "pipelines.train", options))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "shards", "message"),
    [
        (lambda table: table.drop_columns("duration"), (2,), "part-2.parquet: column 'duration': missing"),
        (
            column("duration", lambda table: table["duration"].cast(pa.string())),
            (2,),
            "part-2.parquet: column 'duration': got string; expected double as in",
        ),
        (lambda table: table.slice(0, 0), (0, 1, 2, 3), "data.train: got 4 files without a row"),
    ],
    ids=["missing column", "wrong type", "zero rows"],
)
def test_data_that_footers_betray(workspace, tmp_path, spoiled, change, shards, message) -> None:
    options = workspace.arguments(*OFFLINE, f"--output={tmp_path / 'run'}", spoiled(change, shards))
    assert message in only_error(run(tmp_path, "pipelines.train", options, size=2))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            replace_at("is_click", 117, 2),
            "part-2.parquet: row group 1: task 'click': label 'is_click', row 117: got 2; expected 0 or 1",
        ),
        (replace_at("tab", 3, -1), "column 'tab', row 3: got -1; expected an id in [0, 5)"),
        (replace_at("tab", 3, 5), "column 'tab', row 3: got 5; expected an id in [0, 5)"),
    ],
    ids=["label", "negative id", "id past the table"],
)
def test_values_that_only_reading_finds(workspace, tmp_path, spoiled, change, message) -> None:
    output = tmp_path / "run"
    options = workspace.arguments(*OFFLINE, f"--output={output}", spoiled(change))
    assert message in only_error(run(tmp_path, "pipelines.train", options))
    assert not (output / "checkpoints").exists()
    assert not (output / "report.json").exists()


def test_prepare_and_doctor_name_the_file_too(workspace, tmp_path, spoiled) -> None:
    option = spoiled(replace_at("duration", 117, math.inf))
    options = workspace.arguments(option, f"--data.transforms={tmp_path / 'new'}")
    where = "part-2.parquet: row group 1: column 'duration', row 117: got inf; expected a finite number"
    assert where in only_error(run(tmp_path, "pipelines.prepare", options))
    assert not (tmp_path / "new").exists()
    (found,) = run(tmp_path, "pipelines.doctor", workspace.arguments(option))
    assert found.code == EXIT_INPUT
    assert where in found.out


def test_a_corrupt_shard_stops_all_ranks_with_its_name_and_row_group(workspace, tmp_path, spoiled) -> None:
    option = spoiled(lambda table: table)
    file = tmp_path / "spoiled" / "part-2.parquet"
    page = pq.ParquetFile(file).metadata.row_group(1).column(4)
    content = bytearray(file.read_bytes())
    content[page.data_page_offset + page.total_compressed_size // 2] ^= 0x10
    file.write_bytes(content)
    output = tmp_path / "run"
    options = workspace.arguments(*OFFLINE, f"--output={output}", option)
    assert "part-2.parquet: row group 1: " in only_error(run(tmp_path, "pipelines.train", options, size=2))
    assert not (output / "checkpoints").exists()


def test_a_loss_that_is_not_finite_stops_all_ranks_at_its_step(workspace, tmp_path) -> None:
    rate = ("--optimizer.dense.type=sgd", "--optimizer.dense.learning_rate=1e30")
    options = workspace.arguments(*OFFLINE, f"--output={tmp_path / 'run'}", *rate)
    line = only_error(run(tmp_path, "pipelines.train", options, size=2))
    assert line.startswith("error: step 1: the loss is not finite")
    assert re.search(r"first in \S+/part-\d\.parquet: row group \d\)", line)


def test_a_world_size_that_does_not_divide_the_lanes(workspace, tmp_path) -> None:
    options = workspace.arguments(*OFFLINE, f"--output={tmp_path / 'run'}")
    line = only_error(run(tmp_path, "pipelines.train", options, size=3))
    assert "data.lanes: got 4 in a world of 3 ranks; expected a multiple of 3" in line
    assert not (tmp_path / "run").exists()


def test_a_busy_port(workspace, tmp_path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        ended = run(tmp_path, "pipelines.train", workspace.arguments(), RANK="0", WORLD_SIZE="2", **place)
    assert f"MASTER_PORT: cannot use 127.0.0.1:{place['MASTER_PORT']}" in only_error(ended)


def test_null_and_nan_labels_are_left_out_and_every_weight_stays_finite(workspace, tmp_path, spoiled) -> None:
    def unlabelled(table: pa.Table) -> pa.Table:
        rows = table.num_rows
        table = column("play_ms", lambda _: pa.array(np.full(rows, np.nan)))(table)
        return column("is_click", lambda _: pa.nulls(rows, pa.int64()))(table)

    output = tmp_path / "run"
    options = workspace.arguments(*OFFLINE, f"--output={output}", "--training.epochs=1", spoiled(unlabelled, (1, 2)))
    assert [rank.code for rank in run(tmp_path, "pipelines.train", options, size=2)] == [0, 0]
    tensors, progress = contents(output, read_commits(output / "checkpoints")[-1])
    assert progress["step"] == 8
    assert all(value.isfinite().all() for value in tensors.values())


def test_the_stack_is_shown_only_on_demand(workspace, tmp_path) -> None:
    options = workspace.arguments("--data.train=nowhere/*.parquet", f"--output={tmp_path / 'run'}")
    (ended,) = run(tmp_path, "pipelines.train", [*options, "--debug"])
    assert ended.code == EXIT_INPUT
    assert "Traceback" in ended.err
    assert len(ended.errors) == 1


def test_what_nobody_foresaw_is_one_line_too(workspace, tmp_path) -> None:
    options = workspace.arguments(*OFFLINE, f"--output={tmp_path / 'run'}")
    ended = run(tmp_path, "tests.faulty", ["0:fail:input:2", *options])
    assert only_error(ended, EXIT_FAILURE).startswith("error: KeyError: 'injected' (stack in ")


@pytest.mark.parametrize("job", ["train", "tune", "compare"])
@pytest.mark.parametrize("below", ["", "run"])
def test_an_output_that_cannot_be_made_is_named(workspace, tmp_path, job, below) -> None:
    (tmp_path / "file").touch()
    output = tmp_path / "file" / below
    space = json.dumps({"model.experts": {"low": 2, "high": 3}})
    options = workspace.arguments(*OFFLINE, f"--output={output}", f"--tune.space={space}")
    line = only_error(run(tmp_path, f"pipelines.{job}", options, size=2))
    assert line.startswith(f"error: output: cannot make {output}")
    assert line.endswith("; expected a directory to write to")


def test_a_store_out_of_reach_is_no_bad_input_on_any_rank(workspace, tmp_path) -> None:
    away = json.dumps({"key": "k", "secret": "s", "endpoint_url": f"http://127.0.0.1:{free_port()}"})
    options = ["--data.train=s3://log/", f"--data.storage_options={away}", "--data.retry.deadline_s=0"]
    ended = run(tmp_path, "pipelines.train", workspace.arguments(*OFFLINE, *options, f"--output={tmp_path}"), size=2)
    assert "s3://log/: got 'Could not connect to the endpoint" in only_error(ended, EXIT_FAILURE)


@pytest.mark.parametrize("job", ["doctor", "evaluate", "promote", "rollback", "score", "prepare", "report"])
def test_every_job_explains_itself_and_a_wrong_key(workspace, tmp_path, job) -> None:
    required = ["--input", "x", "--output", str(tmp_path / "scores")] if job == "score" else []
    (ended,) = run(tmp_path, f"pipelines.{job}", [*workspace.arguments("--nothing=1"), *required])
    assert "command line: --nothing: unknown key; " in only_error([ended])
    (ended,) = run(tmp_path, f"pipelines.{job}", ["--help"])
    assert ended.code == os.EX_OK
    assert "--config" in ended.out
    assert "--section.key=value" in ended.out
    assert job != "doctor" or "2 where training or promotion would fail" in " ".join(ended.out.split())


@pytest.mark.parametrize("job", ["promote", "rollback", "registry", "evaluate", "score", "report"])
def test_a_registry_that_is_not_there_is_not_created(workspace, tmp_path, job) -> None:
    missing, output = tmp_path / "nowhere" / "mlflow.db", tmp_path / "run"
    output.mkdir()
    shutil.copy(Path(__file__).parents[2] / "docs" / "quickstart" / "report.json", output)
    required = {"score": ["--input", "x", "--output", str(tmp_path / "scores")], "evaluate": ["--model", "1"]}
    options = workspace.arguments(f"--output={output}", f"--tracking.uri=sqlite:///{missing}", *required.get(job, []))
    ended = run(tmp_path, f"pipelines.{job}", ["history", *options] if job == "registry" else options)
    expected = f"tracking.uri: sqlite:///{missing}: no such database; expected one that `train` wrote"
    assert only_error(ended) == f"error: {expected}"
    assert ended[0].out == ""
    assert not missing.parent.exists()


def test_a_registry_out_of_reach_is_told_once(workspace, tmp_path) -> None:
    options = workspace.arguments(f"--tracking.uri=http://127.0.0.1:{free_port()}")
    ended = run(tmp_path, "pipelines.promote", options, MLFLOW_HTTP_REQUEST_MAX_RETRIES="1")
    assert "registry ranker at http://127.0.0.1:" in only_error(ended, EXIT_FAILURE)
    assert len(ended[0].err.splitlines()) == 1
