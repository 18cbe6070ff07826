"""Rows of a slice are told by their numbers: what a damaged row group takes away moves no other row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.offline import assess
from pipelines.slicing import slices
from ranking.config import RunConfig, complete
from ranking.data.manifest import Manifest
from ranking.errors import InputError
from ranking.promotion.gate import decide
from ranking.serving.ranker import Ranker
from tests.pipelines.contest import artefact, impressions, schema

TASKS = ("click", "like")
COLUMNS = ["tab", "user", "fair", "trap", "truth", "poor", "is_click", "is_like"]
TABLE, GROUP = impressions(1), 1000

Damage = Callable[[str, int, int], None]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ranker, Ranker]:
    """A challenger that is wrong in tab 1 alone, and the champion."""
    folder = tmp_path_factory.mktemp("models")
    trap, fair = (Ranker.load(artefact(folder / column, column, TASKS)) for column in ("trap", "fair"))
    return trap, fair


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "test.parquet"
    pq.write_table(TABLE.select(COLUMNS), file, row_group_size=GROUP, write_page_checksum=True)
    return file


def config(file: Path, **slice_: object) -> RunConfig:
    data = {"train": str(file), "transforms": "unused", "batch_size": 8, "quarantine": {"max_share": 0.5}}
    gate = {"margin": 0.5, "improve": "none", "ece_max": 1, "slices": {"part": slice_}}
    return complete({"data": data, "schema": schema("truth", *TASKS), "model": {"type": "shared_bottom"}, "gate": gate})


def failed(file: Path, models: tuple[Ranker, Ranker], settings: RunConfig) -> set[tuple[str, str, str]]:
    rows = Manifest.build(str(file), COLUMNS)
    new, old = (assess(model, rows, settings).predictions for model in models)
    verdict = decide(new, old, settings.gate, slices(models[0], rows, settings))
    return {(check.name, check.task, check.part) for check in verdict.checks if not check.passed}


@pytest.mark.parametrize("spoiled", ["", "is_like"], ids=["whole", "a label is damaged"])
@pytest.mark.parametrize("slice_", [{"where": "tab == 1"}, {"column": "tab"}], ids=["where", "column"])
def test_a_slice_that_falls_is_found(
    log: Path, models: tuple[Ranker, Ranker], damage: Damage, slice_: dict, spoiled: str
) -> None:
    if spoiled:
        damage(str(log), 0, COLUMNS.index(spoiled))
    name = "part" if "where" in slice_ else "part=1"
    assert failed(log, models, config(log, **slice_)) == {("auc_change", task, name) for task in TASKS}


def test_where_what_decides_on_it_is_damaged_nothing_passes(
    log: Path, models: tuple[Ranker, Ranker], damage: Damage
) -> None:
    damage(str(log), 0, COLUMNS.index("poor"))  # read by the slice alone
    settings = config(log, where="poor > 0")
    (part,) = slices(models[0], Manifest.build(str(log), COLUMNS), settings)
    assert part.rows.tolist() == list(range(GROUP, TABLE.num_rows))
    np.testing.assert_array_equal(part.mask, TABLE["poor"].to_numpy()[GROUP:] > 0)
    assert failed(log, models, settings) == {("rows", task, "part") for task in TASKS}


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("is_click", 2.0, "task 'click': label 'is_click', row 4500: got 2.0; expected 0 or 1"),
        ("trap", np.inf, "column 'trap', row 4500: got inf; expected a finite number"),
        ("user", 0.5, "column 'user', row 4500: got 0.5; expected whole numbers"),
        ("tab", 0.5, "column 'tab', row 4500: got 0.5; expected whole numbers"),
    ],
    ids=["label", "feature", "slice by a vocabulary", "slice by the ids of data.train"],
)
def test_a_bad_value_is_named_with_its_file(
    log: Path, models: tuple[Ranker, Ranker], column: str, value: float, message: str
) -> None:
    """Of the second file, so that a number counted over both would show; past the first chunk that a model takes."""
    values = TABLE[column].to_numpy().astype(np.float64)
    for file, row in ((log, None), (log.with_name("worse.parquet"), 4500)):
        spoiled = np.where(np.arange(TABLE.num_rows) == row, value, values)
        table = TABLE.select(COLUMNS).set_column(COLUMNS.index(column), column, pa.array(spoiled))
        pq.write_table(table, file, row_group_size=4400)
    settings = config(log.parent, unseen="user" if column == "user" else "tab")
    rows = Manifest.build(str(log.parent), COLUMNS)
    read = slices if column in ("user", "tab") else assess
    with pytest.raises(InputError) as caught:
        read(models[0], rows, settings)
    assert f"/worse.parquet: row group 1: {message}" in str(caught.value)
