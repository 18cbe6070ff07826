"""A sample of the fuzz: hostile configurations and Parquet files end in one named line, or in the right rows."""

from collections import Counter

import pytest

from tests.faults.fuzz import Bench, Outcome, fuzz
from tests.faults.mutations import KINDS

COUNT = 600


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return list(fuzz(COUNT, seed=20))


def test_no_input_crashes_hangs_or_passes_for_something_else(outcomes):
    assert [outcome for outcome in outcomes if outcome.end == "failure"] == []


def test_every_class_was_tried_and_both_ends_occur(outcomes):
    ends = Counter((outcome.kind, outcome.end) for outcome in outcomes)
    assert {kind for kind, _ in ends} == {*KINDS}
    assert all(ends[kind, "error"] for kind in KINDS if kind != "parquet_names")
    assert all(ends[kind, "result"] for kind in ("yaml_values", "parquet_flip", "parquet_same", "parquet_cells"))


@pytest.mark.parametrize(("seed", "number"), [(2026, 819), (2026, 997), (2026, 2713), (2027, 1086)])
def test_what_once_failed_ends_as_it_must(tmp_path, seed, number):
    """A name of two lines, a width past 64 bits, an unknown protocol; statistics over which pyarrow aborts."""
    assert Bench(tmp_path).check(seed, number).end != "failure"
