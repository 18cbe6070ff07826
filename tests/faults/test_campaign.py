"""A short campaign: real training jobs, a fault in each, and an end as if there had been none.

The long one is `make faults`; `tests/faults/processes.py`, `inputs.py` and `stores.py` say what each fault is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.campaign import BY_NAME, KINDS, attempt, schedule
from tests.faults.report import Report
from tests.faults.trial import QUICK, Lab, Outcome, Trial, difference, rows_apart

SEED = 20
TWICE = {"kill -9 of a rank, or of all", "kill -9 inside a save", "damaged Parquet shard", "damaged checkpoint"}
TWICE |= {"schema drift, missing column", "loss that is not finite", "ids negative or past the table", "SIGTERM"}
TWICE |= {"disk full at a save", "a lease taken over"}
CASES = [(kind.name, number) for kind in KINDS for number in range(2 if kind.name in TWICE else 1)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"), quick=True)
    with lab.stack:
        yield lab


@pytest.mark.parametrize(("name", "number"), CASES, ids=[f"{name}-{number}" for name, number in CASES])
def test_a_fault_costs_no_row_and_no_bit(lab: Lab, name: str, number: int) -> None:
    outcome = attempt(lab, BY_NAME[name], SEED, number)
    assert (outcome.why, outcome.lost_rows, outcome.silent) == ("", 0, False), outcome.what


def test_a_campaign_tries_every_class_and_all_of_five_hundred_at_least_five_times() -> None:
    for count, least in ((20, 1), (500, 5)):
        tried = [kind.name for kind in schedule(count)]
        assert len(tried) == count
        assert min(tried.count(kind.name) for kind in KINDS) >= least
    assert {kind.name for kind in schedule(500)[:20]} == BY_NAME.keys(), "one that is cut short has tried all of them"


def test_a_comparison_sees_a_bit_a_metric_and_a_row(lab: Lab, tmp_path: Path) -> None:
    reference = lab.reference()
    assert difference(reference / "run", reference / "run") == ""
    other = lab.reference(settings=(*QUICK, "--seed=1"))
    assert "differs from the uninterrupted run in" in difference(other / "run", reference / "run")
    one = {0: [{"rows": [1, 2]}, {"rows": [3]}], 1: [{"rows": [4]}]}
    assert rows_apart(one, one) == 0
    assert rows_apart(one, {0: [{"rows": [3, 2]}, {"rows": [1]}], 1: [{"rows": [4]}]}) == 0, "whichever rank took it"
    assert rows_apart(one, {0: [{"rows": [1, 2, 2]}, {"rows": [3]}]}) == 2


def test_who_resumes_at_a_step_replaces_all_from_there_on(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    for launch, steps in ((1, [0, 1, 2]), (2, [2, 3])):
        lines = [json.dumps({"step": step, "rows": [10 * launch + step]}) for step in steps]
        (tmp_path / "steps" / f"{launch:03}-000-0.jsonl").write_text("\n".join([*lines, '{"step": 9, "ro']))
    found = Trial(lab, tmp_path, None).lineage()  # type: ignore[arg-type]
    assert {step: [record["rows"] for record in records] for step, records in found.items()} == {
        0: [[10]],
        1: [[11]],
        2: [[22]],
        3: [[23]],
    }


def test_a_campaign_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    file, names = tmp_path / "reliability.json", [kind.name for kind in KINDS]
    report = Report.open(file, seed=1, count=60)
    report.add(0, names[0], Outcome("a kill"))
    report.add(7, names[1], Outcome("a fault", why="other bits", lost_rows=3, silent=True, recovery=2.0))
    report.write(file, names)
    content = json.loads(file.read_text())
    assert content["classes"] == [
        {"class": names[0], "tried": 1, "survived": 1, "lost_rows": 0, "silent_corruptions": 0},
        {"class": names[1], "tried": 1, "survived": 0, "lost_rows": 3, "silent_corruptions": 1},
    ]
    assert {"machine", "revision", "command", "seed", "figures"} <= content.keys()
    assert Report.open(file, seed=1, count=60).done == {0, 7}
    assert Report.open(file, seed=2, count=60).done == set()
