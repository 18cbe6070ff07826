"""Promotion as a team uses it: dry run, approval, slices, budgets, and a champion that knows other tasks."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import mlflow
import pyarrow.parquet as pq
import pytest

from pipelines.job import Command
from pipelines.nightly.night import Night as Record
from pipelines.nightly.night import NightPlan
from pipelines.nightly.stages import Stages
from pipelines.run_directory import pinned
from ranking.config import load
from ranking.data.manifest import Manifest
from ranking.errors import EXIT_FAILURE, EXIT_INPUT, EXIT_NOT_PROMOTED, EXIT_WAITING
from ranking.promotion.audit import Audit
from ranking.promotion.registry import Registry
from tests.pipelines.contest import Contest, build_contest, schema

pytestmark = pytest.mark.filterwarnings("ignore")  # of TorchRec, MLflow and SQLAlchemy, about their own code

GATE = {"margin": 0.02}


@pytest.fixture(scope="module")
def contest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contest]:
    before = mlflow.get_tracking_uri()
    yield build_contest(tmp_path_factory.mktemp("contest"))
    mlflow.set_tracking_uri(before)


def story(registry: Registry) -> list[tuple[str, int | None, int]]:
    return [(d.action, d.before, d.version) for d in registry.audit.decisions() if not d.void]


class Night:
    """A night whose version waits for its decision, in a registry that others use too."""

    def __init__(self, contest: Contest, registry: Registry, model: str, folder: Path, **changes: object) -> None:
        retrain = {"partition": f"{contest.folder}/{{date}}.parquet"}
        file = contest.configure(registry, output=str(folder), retrain=retrain, **changes)
        self.stages = Stages(date(2022, 5, 4), load([file], []), Command((file,), ()))
        days = (date(2022, 5, 1), date(2022, 5, 2))
        plan = NightPlan(window=days, train=days, validation=date(2022, 5, 3), judge=date(2022, 5, 5))
        self.version = contest.propose(registry, model, run_id="night")
        self.judged = Record(day=self.stages.day, stage="judged", plan=plan, run_id="night", version=self.version)
        rows = pinned(self.stages.configuration(self.judged))
        rows.parent.mkdir(parents=True)
        shutil.copy(contest.pin, rows)

    def decide(self) -> str | None:
        return self.stages.decide(self.judged).outcome


def test_a_dry_run_tells_the_verdict_and_moves_nothing(contest: Contest) -> None:
    registry = contest.registry("fair")
    for model, code in (("fair", 0), ("poor", EXIT_NOT_PROMOTED)):
        if model == "poor":
            assert contest.run("promote", registry).exit_code == 0
            contest.propose(registry, "poor")
        before = registry.aliases(), registry.audit.decisions(), registry.history()
        done = contest.run("promote", registry, "--dry-run")
        assert done.exit_code == code, done.output
        assert "dry run: nothing is moved" in done.output
        assert (registry.aliases(), registry.audit.decisions(), registry.history()) == before
    waiting = contest.registry("fair")
    assert contest.run("promote", waiting, "--dry-run", gate={"approval": "required"}).exit_code == EXIT_WAITING


def test_a_worse_challenger_is_rejected_and_the_trail_says_on_what_rows(contest: Contest) -> None:
    registry = contest.registry("fair")
    assert contest.run("promote", registry).exit_code == 0
    contest.propose(registry, "poor")
    done = contest.run("promote", registry)
    assert done.exit_code == EXIT_NOT_PROMOTED
    assert story(registry) == [("promoted", None, 1), ("rejected", 1, 2)]
    decision = registry.audit.decisions()[-1]
    digest = json.loads(decision.verdict)["notes"][0].removeprefix("rows: manifest ")
    assert decision.manifest.startswith(digest)
    assert registry.version(2).tags["gate.manifest"] == decision.manifest
    assert "the champion was tested on manifest feedfeedfeed when it was trained" in done.output
    assert "shadow: the score of" in done.output
    assert "rank correlation" in done.output


def test_a_person_approves_what_passed(contest: Contest) -> None:
    registry, gate = contest.registry("poor"), GATE | {"approval": "required"}
    assert contest.run("promote", registry).exit_code == 0
    contest.propose(registry, "fair")
    asked = contest.run("promote", registry, gate=gate)
    assert asked.exit_code == EXIT_WAITING, asked.output
    assert (registry.champion(), registry.candidate(), registry.challenger()) == (1, 2, None)
    assert contest.run("promote", registry, gate=gate).exit_code == EXIT_WAITING, "it still waits"

    nameless = contest.run("promote", registry, "--approve", "2", gate=gate)
    assert (nameless.exit_code, "--by" in nameless.output) == (EXIT_INPUT, True)
    other = contest.run("promote", registry, "--approve", "1", "--by", "Ada", gate=gate)
    assert (other.exit_code, "expected the candidate" in other.output) == (EXIT_INPUT, True)
    assert registry.champion() == 1

    done = contest.run("promote", registry, "--approve", "2", "--by", "Ada", gate=gate)
    assert done.exit_code == 0, done.output
    assert registry.aliases() == {"champion": 2, "previous_champion": 1}
    assert story(registry)[-2:] == [("nominated", 1, 2), ("approved", 1, 2)]
    assert registry.audit.head().by == "Ada"


def test_an_approval_is_judged_against_the_champion_of_the_day(contest: Contest) -> None:
    registry, gate = contest.registry("poor"), GATE | {"approval": "required"}
    assert contest.run("promote", registry).exit_code == 0
    contest.propose(registry, "fair")
    assert contest.run("promote", registry, gate=gate).exit_code == EXIT_WAITING
    contest.propose(registry, "truth")
    assert contest.run("promote", registry).exit_code == 0
    late = contest.run("promote", registry, "--approve", "2", "--by", "Ada", gate=gate)
    assert late.exit_code == EXIT_NOT_PROMOTED, late.output
    assert registry.aliases() == {"champion": 3, "previous_champion": 1}
    assert story(registry)[-1] == ("rejected", 3, 2)


def test_a_person_may_decline(contest: Contest) -> None:
    registry, gate = contest.registry("fair"), GATE | {"approval": "required"}
    assert contest.run("promote", registry, gate=gate).exit_code == EXIT_WAITING
    done = contest.run("promote", registry, "--decline", "1", "--by", "Ada", "--reason", "holiday")
    assert done.exit_code == 0, done.output
    assert registry.aliases() == {}
    decision = registry.audit.decisions()[-1]
    assert (decision.action, decision.by, decision.reason) == ("declined", "Ada", "holiday")
    assert contest.run("promote", registry, "--decline", "1", "--by", "Ada").exit_code == EXIT_INPUT


def test_a_slice_that_falls_blocks_what_is_better_on_the_whole(contest: Contest) -> None:
    registry = contest.registry("poor")
    assert contest.run("promote", registry).exit_code == 0
    contest.propose(registry, "trap")
    slices = {
        "tab": {"column": "tab", "values": 3},
        "new_users": {"unseen": "user", "min_positives": 100},
        "late": {"where": "tab >= 3"},
    }
    assert contest.run("promote", registry, "--dry-run", gate={"margin": 0.03}).exit_code == 0, "better on the whole"
    done = contest.run("promote", registry, gate={"margin": 0.03, "slices": slices})
    assert done.exit_code == EXIT_NOT_PROMOTED, done.output
    lost = {part.split("]")[0].split(": auc_change")[0] for part in registry.version(2).tags["gate.reason"].split("; ")}
    assert lost == {"click @ tab=1", "like @ tab=1"}
    assert "gate.auc_change.click.tab_1" in registry.version(2).tags
    shown = done.output
    assert all(f"click @ {name}" in shown for name in ("tab=other", "new_users", "late"))


@pytest.mark.parametrize("taken", [True, False], ids=["another has the alias", "nobody has the alias"])
def test_a_night_judges_its_own_version_whichever_is_challenger(contest: Contest, tmp_path: Path, taken: bool) -> None:
    """The other one may have trained on the rows that judge this one; it waits for its own job."""
    registry = contest.registry("poor")
    assert contest.run("promote", registry).exit_code == 0
    night = Night(contest, registry, "fair", tmp_path)
    if taken:
        contest.propose(registry, "truth")
    else:
        registry.drop("challenger")
    assert night.decide() == "promoted"
    assert (registry.champion(), registry.challenger()) == (night.version, 3 if taken else None)
    assert night.decide() == "promoted"
    assert story(registry) == [("promoted", None, 1), ("promoted", 1, 2)]


def test_a_night_is_told_what_became_of_its_version(
    contest: Contest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = contest.registry("fair")
    assert contest.run("promote", registry).exit_code == 0
    assert Night(contest, registry, "poor", tmp_path / "poor").decide() == "not_better"
    assert capsys.readouterr().out.count(registry.version(2).tags["gate.reason"]) == 1
    waiting = Night(contest, registry, "truth", tmp_path / "truth", gate=GATE | {"approval": "required"})
    assert waiting.decide() == "waiting"
    assert contest.run("promote", registry, "--decline", "3", "--by", "Ada", "--reason", "holiday").exit_code == 0
    found = waiting.stages.decide(waiting.judged)
    assert (found.outcome, found.reason) == ("not_better", "holiday")
    assert "version 3 was decided on before: holiday" in capsys.readouterr().out
    assert '"promote": true' in found.verdict
    assert story(registry)[1:] == [("rejected", 1, 2), ("nominated", 1, 3), ("declined", 1, 3)]


def test_a_promotion_that_was_cut_short_is_finished_by_the_night(
    contest: Contest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict stands in the tags, and the aliases are where they were."""
    registry = contest.registry("poor")
    assert contest.run("promote", registry).exit_code == 0
    night = Night(contest, registry, "fair", tmp_path)
    for step in ("_change", "_carry_out"):
        with monkeypatch.context() as patch:
            patch.setattr(Registry, step, lambda *_: (_ for _ in ()).throw(OSError("the machine is gone")))
            with pytest.raises(OSError, match="the machine is gone"):
                night.decide()
        assert registry.champion() == 1
    assert night.decide() == "promoted"
    assert registry.champion() == night.version


@pytest.mark.parametrize("step", [(Registry, "_settle"), (Audit, "settle")])
def test_a_promotion_that_was_cut_short_after_the_alias_moved_is_finished_too(
    contest: Contest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: tuple[type, str]
) -> None:
    registry = contest.registry("poor")
    assert contest.run("promote", registry).exit_code == 0
    night = Night(contest, registry, "fair", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(*step, lambda *_: (_ for _ in ()).throw(OSError("the machine is gone")))
        with pytest.raises(OSError, match="the machine is gone"):
            night.decide()
    assert registry.champion() == night.version
    assert night.decide() == "promoted"
    assert all(decision.settled for decision in registry.audit.decisions())


def test_rows_that_one_of_both_could_not_read_fail_the_gate(
    contest: Contest, rivals: Registry, damage: Callable[[str, int, int], None], tmp_path: Path
) -> None:
    """A column of the champion's is damaged, within the quarantine."""
    table, file, pin = pq.read_table(contest.folder / "test.parquet"), tmp_path / "test.parquet", tmp_path / "pin.json"
    pq.write_table(table, file, row_group_size=2500, write_page_checksum=True)
    damage(str(file), 0, table.column_names.index("fair"))
    pin.write_text(Manifest.build(str(file), ["tab", "user", "truth", "is_click", "is_like"]).model_dump_json())
    data = {"train": "unused", "transforms": "unused", "batch_size": 8, "quarantine": {"max_share": 0.5}}
    changes = {"data": data, "schema": schema("truth", "click", "like")}
    done = contest.run("promote", rivals, "--dry-run", "--manifest", str(pin), **changes)
    assert done.exit_code == EXIT_NOT_PROMOTED, done.output
    assert "required the same rows (challenger scored on 6000, champion on 3500)" in done.output


def test_any_version_can_be_judged_by_its_number(contest: Contest, rivals: Registry) -> None:
    """Version 1 is champion, 2 the challenger, and 3 has no alias."""
    number = rivals.register(contest.models["poor"])
    before = rivals.aliases()
    done = contest.run("promote", rivals, "--dry-run", "--challenger", str(number))
    assert (done.exit_code, f"version {number} against champion 1" in done.output) == (EXIT_NOT_PROMOTED, True)
    assert rivals.aliases() == before


def test_a_version_that_lost_its_alias_before_it_was_judged_is_named(contest: Contest) -> None:
    registry = contest.registry("fair")
    registry.drop("challenger")
    done = contest.run("promote", registry)
    assert (done.exit_code, done.output.count("\n")) == (EXIT_INPUT, 1)
    assert "; version 1 was proposed and never judged: promote --challenger 1" in done.output
    assert contest.run("promote", registry, "--challenger", "1").exit_code == 0
    contest.propose(registry, "truth")
    registry.drop("challenger")
    done = contest.run("promote", registry)
    assert (done.exit_code, done.output.count("\n")) == (0, 1)
    assert "version 1 stays champion; version 2 was proposed and never judged: promote --challenger 2" in done.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--challenger", "1"], "version 1 has been champion; expected a new version"),
        (["--challenger", "99"], "no version 99"),
        (["--challenger", "2", "--approve", "2", "--by", "Ada"], "got several; expected one of them"),
    ],
)
def test_a_version_that_cannot_be_judged_is_named(
    contest: Contest, rivals: Registry, options: list[str], said: str
) -> None:
    done = contest.run("promote", rivals, *options)
    assert (done.exit_code, said in done.output) == (EXIT_INPUT, True), done.output


@pytest.fixture(scope="module")
def rivals(contest: Contest) -> Registry:
    """A champion and a better challenger, for dry runs."""
    registry = contest.registry("fair")
    assert contest.run("promote", registry).exit_code == 0
    contest.propose(registry, "truth")
    return registry


def test_what_is_new_is_what_training_has_not_seen(contest: Contest, rivals: Registry) -> None:
    """Users by the challenger's vocabulary, of which every sixth row's is outside; tabs by the training data."""
    slices = {name: {"unseen": name, "min_positives": 2} for name in ("user", "tab")}
    done = contest.run("promote", rivals, "--dry-run", gate=GATE | {"slices": slices})
    assert done.exit_code == 0, done.output
    ends = {name: line for line in done.output.splitlines() for name in slices if f"click @ {name}" in line}
    assert ends["user"].endswith("passed")
    assert ends["tab"].endswith("not judged")


def test_a_budget_that_is_exceeded_blocks(contest: Contest, rivals: Registry) -> None:
    def run(latency: float, size: float, moved: float, correlation: float) -> tuple[int, list[str]]:
        timed = {"p95_ms": latency, "ratio": latency, "requests": 20, "rows": 64}
        shadow = {"max_moved": moved, "min_correlation": correlation}
        gate = GATE | {"latency": timed, "max_artefact_mib": size, "shadow": shadow}
        done = contest.run("promote", rivals, "--dry-run", gate=gate)
        return done.exit_code, [line.split()[0] for line in done.output.splitlines() if line.endswith("FAILED")]

    assert run(1e6, 1e6, 1.0, -1.0) == (0, [])
    failed = ["shadow_moved", "shadow_correlation", "latency", "latency_ratio", "size"]
    assert run(1e-6, 1e-6, 0.001, 0.9999) == (EXIT_NOT_PROMOTED, failed)


def test_a_champion_with_other_tasks_and_features_is_judged_on_what_both_have(contest: Contest) -> None:
    registry = contest.registry("poor click share")
    old = {"schema": schema("poor", "click", "share")}
    assert contest.run("promote", registry, **old).exit_code == 0
    contest.propose(registry, "fair")
    refused = contest.run("promote", registry, "--dry-run", gate=GATE | {"dropped": "refuse"})
    assert refused.exit_code == EXIT_NOT_PROMOTED
    assert "share: task undefined, required a task of the challenger (the champion has it)" in refused.output
    done = contest.run("promote", registry)
    assert done.exit_code == 0, done.output
    assert "the champion does not predict like: held to the floors alone" in done.output
    assert "the challenger does not predict share, which the champion does" in done.output
    names = [(line.split()[0], line.split()[1]) for line in done.output.splitlines() if line.endswith("passed")]
    assert ("auc_change", "click") in names
    assert ("auc", "like") in names


def test_without_the_tasks_of_the_configuration_there_is_nothing_to_promote(contest: Contest) -> None:
    done = contest.run("promote", contest.registry("poor click share"))
    assert done.exit_code == EXIT_INPUT
    assert "schema.tasks: version 1 does not predict ['like']" in done.output


def test_a_champion_whose_columns_are_gone_is_named(contest: Contest) -> None:
    registry = contest.registry("poor")
    assert contest.run("promote", registry).exit_code == 0
    contest.propose(registry, "fair")
    file = contest.folder / "narrow.parquet"
    pq.write_table(pq.read_table(contest.folder / "test.parquet").drop_columns(["poor"]), file)
    pin = contest.folder / "narrow.json"
    pin.write_text(Manifest.build(str(file), ["tab", "user", "fair", "is_click", "is_like"]).model_dump_json())
    done = contest.run("promote", registry, "--manifest", str(pin))
    assert done.exit_code == EXIT_INPUT
    assert done.output.splitlines()[-1] == (
        f"error: registry {registry.name}: champion version 1 reads columns that the pinned rows lack: 'poor'; "
        "expected rows with them, or another registry.name, which keeps models of different data apart"
    )
    assert registry.champion() == 1


def test_without_mlflow_promotion_fails_closed_in_one_line(contest: Contest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    registry = contest.registry("fair")
    try:
        done = contest.run("promote", registry, tracking={"uri": address})
    finally:
        mlflow.set_tracking_uri(contest.uri)
    assert done.exit_code == EXIT_FAILURE
    (line,) = [line for line in done.output.splitlines() if line]
    assert line.startswith(f"error: RegistryError: registry {registry.name} at {address}: ")
    assert registry.aliases() == {"challenger": 1}


def test_the_history_is_read_back_by_people_and_programs(contest: Contest) -> None:
    registry = contest.registry("poor")
    assert contest.run("registry", registry, "history").output.split() == ["#", *"at what from to by".split(), *TAIL]
    for model in (None, "fair", "poor"):
        if model:
            contest.propose(registry, model)
        contest.run("promote", registry, "--by", "nightly")
    back = contest.run("rollback", registry, "--by", "Ada", "--reason", "config_errors")
    assert back.exit_code == 0, back.output

    table = contest.run("registry", registry, "history").output.splitlines()
    assert [line.split()[2:6] for line in table[1:]] == [
        ["promoted", "-", "1", "nightly"],
        ["promoted", "1", "2", "nightly"],
        ["rolled_back", "2", "1", "Ada"],
    ]
    assert table[-1].endswith("config_errors")
    everything = json.loads(contest.run("registry", registry, "history", "--all", "--json").output)
    assert [d["action"] for d in everything] == ["promoted", "promoted", "rejected", "rolled_back"]
    assert everything[1]["verdict"]["promote"] is True
    shown = contest.run("registry", registry, "show", "3").output
    assert f"{registry.name} version 3" in shown
    assert "rejected by nightly" in shown
    assert "do not promote" in shown
    detail = json.loads(contest.run("registry", registry, "show", "2", "--json").output)
    assert (detail["version"], detail["replaces"], bool(detail["rolled_back_at"])) == (2, 1, True)
    missing = contest.run("registry", registry, "show", "9")
    assert (missing.exit_code, "no version 9" in missing.output) == (EXIT_INPUT, True)


TAIL = ["manifest", "reason"]
