"""A night on one machine: what it asks of a day, what it refuses, and what its pages say."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipelines.champion_challenger import BothVersions
from pipelines.job import Command
from pipelines.nightly import figures
from pipelines.nightly.day import Reference, examine, is_there, manifest, profile, wait
from pipelines.nightly.figures import effective, reading
from pipelines.nightly.html import page
from pipelines.nightly.judge import duels
from pipelines.nightly.night import EXIT_CODES, DayReport, Duel, Night, NightPlan, Score, Stage, nights
from pipelines.nightly.pages import publish
from pipelines.nightly.run import run as go
from pipelines.nightly.stages import Stages
from pipelines.nightly.summary import summarise
from pipelines.nightly.worker import SigtermGuard
from pipelines.offline import ModelOutput
from ranking.config import RunConfig, load
from ranking.data.drift import Drift
from ranking.data.findings import Finding
from ranking.data.transforms import Transforms
from ranking.errors import EXIT_INPUT, EXIT_STOPPED, InputError, ServiceError
from ranking.files import write_atomically
from ranking.metrics import Predictions
from ranking.tracking.figures import PALETTE
from tests.launch import free_port, run
from tests.workspace import content, impressions

DAY, ROWS = date(2022, 5, 4), 1500
BEFORE = tuple(DAY - timedelta(days=back) for back in (3, 2, 1))

Change = Callable[[pa.Table], pa.Table]


class Log:
    """Days of impressions on disk, and a configuration over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        settings = content(folder)
        settings["retrain"] = {"partition": f"{folder}/log/day={{date}}/*.parquet", "window": 4}
        self.yaml = folder / "nightly.yaml"
        self.yaml.write_text(yaml.safe_dump(settings, sort_keys=False))

    def config(self, *overrides: str) -> RunConfig:
        return load([self.yaml], overrides)

    def deliver(self, day: date, table: pa.Table | None = None) -> None:
        file = self.folder / f"log/day={day}/part-0.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(impressions(ROWS, day.day) if table is None else table, file, write_page_checksum=True)

    def reference(self) -> Reference:
        """A champion that was trained on the days before."""
        config = self.config()
        found = manifest(BEFORE, config)
        files = [self.folder / f"log/day={day}/part-0.parquet" for day in BEFORE]
        transforms = Transforms.fit(config.schema, [pq.read_table(file) for file in files])
        return Reference(3, self.folder, True, BEFORE, transforms, profile(found, transforms, config))


@pytest.fixture
def log(tmp_path: Path) -> Log:
    found = Log(tmp_path)
    for day in BEFORE:
        found.deliver(day)
    return found


def with_column(name: str, change: Callable[[pa.ChunkedArray], object]) -> Change:
    return lambda table: table.set_column(table.column_names.index(name), name, pa.array(change(table[name])))


def test_a_day_like_the_others_is_fit(log: Log) -> None:
    log.deliver(DAY)
    report = examine(DAY, BEFORE, log.config(), log.reference())
    assert report.errors == ()
    assert (report.rows, report.usual_rows, report.reference) == (ROWS, ROWS, 3)
    assert {rate.task for rate in report.rates} == {"click", "like", "watch"}
    assert {drift.feature for drift in report.drift} == {"user_id", "video_id", "recent", "tab", "duration", "age"}


@pytest.mark.parametrize(
    ("change", "where", "said"),
    [
        (lambda table: table.slice(0, 300), "rows", "300 rows, 0.20 times the usual 1,500"),
        (with_column("duration", lambda c: np.asarray(c) * 1000), "feature duration", "KS 0.9"),
        (with_column("tab", lambda c: np.minimum(np.asarray(c), 1)), "feature tab", "PSI "),
        (with_column("age", lambda c: pa.nulls(len(c), pa.float64())), "feature age", "100.0% of rows without a value"),
        (
            with_column("is_click", lambda c: np.where(np.arange(len(c)) % 5, 0, np.asarray(c))),
            "task click",
            "mean label",
        ),
        (lambda table: table.drop_columns(["is_like"]), "files", "column 'is_like': missing"),
        (with_column("user_id", lambda c: [f"user {i}" for i in c.to_pylist()]), "files", "expected int64 as in"),
        (with_column("tab", lambda c: np.asarray(c) + 100), "day: feature tab", "expected"),
    ],
    ids=["rows", "unit", "ids", "missing", "labels", "column", "type", "range"],
)
def test_a_bad_day_is_told_by_name_and_size_of_effect(log: Log, change: Change, where: str, said: str) -> None:
    log.deliver(DAY, change(impressions(ROWS, DAY.day)))
    errors = examine(DAY, BEFORE, log.config(), log.reference()).errors
    assert where in {finding.where for finding in errors}
    assert any(said in finding.message for finding in errors if finding.where == where), errors


def test_bounds_are_the_configurations(log: Log) -> None:
    log.deliver(DAY, with_column("duration", lambda c: np.asarray(c) * 1000)(impressions(ROWS, DAY.day).slice(0, 300)))
    easy = log.config("--retrain.checks.rows=[0, 9]", '--retrain.checks.ignore=["duration"]')
    assert examine(DAY, BEFORE, easy, log.reference()).errors == ()


def test_a_damaged_file_is_bad_data(log: Log) -> None:
    log.deliver(DAY)
    file = log.folder / f"log/day={DAY}/part-0.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    (error,) = examine(DAY, BEFORE, log.config(), None).errors
    assert str(file) in error.message


def test_a_store_out_of_reach_is_no_bad_data(log: Log) -> None:
    options = {"key": "k", "secret": "s", "endpoint_url": f"http://127.0.0.1:{free_port()}"}
    away = log.config(
        "--retrain.partition=s3://log/{date}/",
        f"--data.storage_options={json.dumps(options)}",
        "--data.retry.deadline_s=0",
    )
    with pytest.raises(ServiceError, match="s3://log/2022-05-04/"):
        examine(DAY, (), away, None)


def test_a_day_is_waited_for(log: Log) -> None:
    config = log.config("--retrain.wait_s=20", "--retrain.poll_s=0.05")
    assert not is_there(DAY, config)
    threading.Timer(0.2, log.deliver, [DAY]).start()
    assert wait(DAY, config)


def test_a_day_without_its_marker_is_not_complete(log: Log) -> None:
    log.deliver(DAY)
    config = log.config(f"--retrain.marker={log.folder}/log/day={{date}}/_SUCCESS")
    assert not wait(DAY, config)
    (log.folder / f"log/day={DAY}/_SUCCESS").touch()
    assert wait(DAY, config)


def plan(log: Log, day: date, *overrides: str, reference: Reference | None = None) -> NightPlan:
    stages = Stages(day, log.config(*overrides), Command((log.yaml,), overrides))
    return stages.plan(stages.usable(), reference)


def test_the_next_day_judges_where_it_is_there(log: Log) -> None:
    log.deliver(DAY)
    assert (plan(log, BEFORE[-1]).window, plan(log, BEFORE[-1]).validation) == (BEFORE[:-1], BEFORE[-1])
    assert plan(log, BEFORE[-1]).judge == DAY


def test_else_the_date_itself_judges_and_trains_no_model(log: Log) -> None:
    log.deliver(DAY)
    found = plan(log, DAY)
    assert (found.train, found.validation, found.judge) == (BEFORE[:-1], BEFORE[-1], DAY)


def test_a_bad_day_neither_trains_nor_judges(log: Log) -> None:
    log.deliver(DAY)
    Night(day=BEFORE[0], outcome="bad_data").save(log.folder / "run" / str(BEFORE[0]))
    log.deliver(DAY + timedelta(days=1), impressions(10, 1))
    found = plan(log, DAY)
    assert (found.train, found.judge) == ((BEFORE[1],), DAY)


def test_a_warm_start_trains_on_the_window_or_on_what_the_champion_has_not_seen(log: Log) -> None:
    log.deliver(DAY)
    champion = log.reference()._replace(trained=BEFORE[:1])
    whole = plan(log, DAY, "--retrain.scratch_every=0", reference=champion)
    unseen = plan(log, DAY, "--retrain.scratch_every=0", "--retrain.warm_days=unseen", reference=champion)
    assert (whole.train, unseen.train, unseen.window) == (BEFORE[:2], BEFORE[1:2], BEFORE[:2])
    assert whole.origin == unseen.origin == str(log.folder)
    assert plan(log, DAY, "--retrain.scratch_every=1", reference=champion).origin == ""
    assert "are gone" in plan(log, DAY, "--retrain.scratch_every=0", reference=champion._replace(checkpoints=False)).why


def test_too_few_days_are_a_matter_of_configuration(log: Log) -> None:
    log.deliver(DAY)
    with pytest.raises(InputError, match=r"retrain\.window: got 1 usable days"):
        plan(log, DAY, "--retrain.window=2")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--date", "yesterday"], "--date, --backfill: got 'yesterday'; expected YYYY-MM-DD"),
        (["--date", "2022-05-04", "--backfill", "2022-05-04:2022-05-05"], "got both; expected one of them"),
        (["--backfill", "2022-05-05:2022-05-04"], "expected FIRST:LAST with FIRST not after LAST"),
        (["--retrain.partition="], "retrain.partition: missing"),
        (["--retrain.partition=s3://log/today"], "retrain.partition: 's3://log/today'; expected {date} in it"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(log: Log, options: list[str], said: str) -> None:
    (ended,) = run(log.folder, "pipelines.retrain", ["-c", str(log.yaml), *options])
    assert ended.code == EXIT_INPUT
    assert said in ended.errors[0]


def test_a_night_survives_its_file(tmp_path: Path) -> None:
    night = judged()
    night.save(tmp_path)
    assert Night.load(tmp_path) == night
    assert Night.load(tmp_path / "nowhere") is None
    (tmp_path / "night.json").write_text("{}")
    with pytest.raises(InputError, match="not the record of a night"):
        Night.load(tmp_path)


@dataclass(frozen=True)
class Idle(Stages):
    """Stages that do nothing, the last one but promote."""

    def after(self, stage: Stage) -> tuple[Stage, Callable[[Night], Night]]:
        following, _ = super().after(stage)
        return following, lambda night: night.model_copy(update={"outcome": "promoted"} if stage == "judged" else {})


def test_a_night_that_is_stopped_during_a_commit_ends_as_stopped_and_goes_on(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(path: Path, content: bytes) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        write_atomically(path, content)

    stages, stop = Idle(DAY, log.config(), Command((log.yaml,), ())), SigtermGuard()
    monkeypatch.setattr("pipelines.nightly.night.write_atomically", slow)
    with stop.heard():
        night = go(stages, stop)
    assert (night.stage, night.outcome, night.exit_code) == ("examined", "stopped", EXIT_STOPPED)
    assert night.reason == "prepared: stopped by SIGTERM; run the same command again to resume"
    assert Night.load(stages.folder) == night
    monkeypatch.undo()
    assert go(stages, SigtermGuard()).outcome == "promoted"


def test_every_outcome_has_an_exit_code_of_its_own() -> None:
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)


def judged(**changes: object) -> Night:
    better = Score(value=0.01, low=0.005, high=0.015)
    duels = (
        Duel(task="click", metric="auc", judged=True, rows=900, challenger=Score(value=0.71), champion=Score(value=0.7),
             change=better),
        Duel(task="like", metric="auc", judged=False, rows=40, challenger=Score(value=None)),
    )  # fmt: skip
    found = Night(
        day=DAY,
        stage="decided",
        outcome="promoted",
        plan=NightPlan(window=BEFORE[:2], train=BEFORE[:2], validation=BEFORE[2], judge=DAY, why="from scratch"),
        version=4,
        champion=3,
        duels=duels,
        gates={"architecture.gates": [[0.9, 0.1], [0.5, 0.5]]},
        seconds={"trained": 12.0},
        data=DayReport(rows=1500, usual_rows=1500),
    )
    return found.model_copy(update=changes)


def test_the_report_begins_with_the_verdict_and_needs_no_other_file(log: Log) -> None:
    html = publish(judged(), log.config(), Command((log.yaml,), ())).read_text()
    body = html.split("<main>")[1]
    assert body.index("Promoted: version 4 is the new champion.") < body.index("Quality") < body.index("For the record")
    assert "Clearly better on click." in body
    assert body.count('src="data:image/png;base64,') == body.count("<img") == 2
    assert "<script" not in html


def test_the_report_numbers_experts_from_0_and_says_whose_change_it_shows(log: Log) -> None:
    text = publish(judged(gates={"g": [[1.0, 0.0], [1.0, 0.0]]}), log.config(), Command((log.yaml,), ()))
    body = text.with_suffix(".md").read_text()
    assert "Unused: 1.\n" in body
    assert "![Change of every task that the gate judges, with its interval](figures/changes.png)" in body
    legend = figures.experts([[0.5, 0.5]], ["click"]).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["0", "1"]


def test_a_day_that_was_not_compared_says_so_where_its_drift_would_be() -> None:
    compared = DayReport(
        rows=9, reference=3, drift=(Drift(split="day", feature="a", psi=0.5, ks=None, psi_noise=0.1, ks_noise=0),)
    )
    rows, moved = figures.data([judged(), judged(data=compared)]).axes
    assert [(text.get_text(), text.xy) for text in moved.texts] == [("not compared", (0, 0))]
    assert not rows.texts


def test_a_task_has_one_colour_by_night_and_in_its_run() -> None:
    axes = figures.gates([judged()]).axes[0]
    assert [(line.get_label(), line.get_color()) for line in axes.lines] == [
        ("click", PALETTE[0]),
        ("like", PALETTE[1]),
    ]


def test_a_bad_day_s_report_says_what_and_what_to_do(log: Log) -> None:
    found = Finding(level="error", where="feature a|b", message="<b>KS 0.9</b>")
    night = Night(day=DAY, outcome="bad_data", reason="feature a|b: KS 0.9", data=DayReport(findings=(found,)))
    html = publish(night, log.config(), Command((log.yaml,), ())).read_text()
    assert "No training: the data of 2022-05-04 is not fit." in html
    assert "&lt;b&gt;KS 0.9&lt;/b&gt;" in html  # what data says is text, never markup
    assert f"pipelines.retrain -c {log.yaml} --date 2022-05-04" in html


def test_the_summary_lists_every_night(log: Log) -> None:
    config = log.config()
    assert summarise(config) is None
    for back, changes in enumerate(({}, {"outcome": "not_better", "reason": "click: auc_change -0.1"})):
        night = judged(day=DAY + timedelta(days=back), **changes)
        night.save(config.output / str(night.day))
    Night(day=BEFORE[0], outcome="infrastructure", reason="registry away").save(config.output / str(BEFORE[0]))
    assert [night.day for night in nights(config.output)] == [BEFORE[0], DAY, DAY + timedelta(days=1)]
    path = summarise(config)
    assert path is not None
    text = path.with_suffix(".md").read_text()
    assert "3 nights, 2022-05-01 to 2022-05-05: 1 promoted, 1 without a model." in text
    assert "click: auc_change -0.1" in text


def test_markup_in_a_report_is_shown_not_obeyed(tmp_path: Path) -> None:
    html = page("# t\n\n<img src=x onerror=alert(1)> [x](javascript:alert(1))", tmp_path, "<t>", "good")
    assert "<img" not in html
    assert 'href="javascript' not in html
    assert "<title>&lt;t&gt;</title>" in html


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.1, 0.2, "better"), (-0.2, -0.1, "worse"), (-0.1, 0.1, "no clear difference")]
)
def test_an_interval_says_what_it_allows_to_say(low: float, high: float, expected: str) -> None:
    duel = Duel(task="t", metric="auc", judged=True, rows=1, challenger=Score(value=0.5), champion=Score(value=0.5),
                change=Score(value=(low + high) / 2, low=low, high=high))  # fmt: skip
    assert reading(duel) == expected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8).filter(lambda weights: sum(weights) > 0.1))
def test_the_effective_number_of_experts_lies_between_one_and_all(weights: list[float]) -> None:
    shares = [weight / sum(weights) for weight in weights]
    assert 1 - 1e-9 <= effective(shares) <= len(shares) + 1e-9


def test_models_are_compared_task_by_task_in_the_sample_space(log: Log) -> None:
    """The champion lacks a task; the rows outside a sample space would turn the verdict round."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, (400, 2)).astype(float)
    inside = np.ones((400, 2), bool)
    inside[200:, 0] = False
    good, bad = labels + draw.normal(0, 1, (400, 2)), draw.normal(0, 1, (400, 2))
    good[200:, 0] = -labels[200:, 0]

    def said(scores: np.ndarray, names: tuple[str, ...]) -> ModelOutput:
        kept = [("click", "like").index(name) for name in names]
        columns = (scores[:, kept], labels[:, kept], inside[:, kept], np.ones((400, len(kept)), bool))
        return ModelOutput(Predictions(names, ("binary",) * len(names), *columns, np.arange(400)), scores[:, 0], (), ())

    champion = said(bad, ("click",))
    both = BothVersions(None, None, None, said(good, ("click", "like")), champion)  # type: ignore[arg-type]
    click, like = duels(both, log.config('--gate.tasks=["like"]'))
    assert (click.rows, click.judged, reading(click)) == (200, False, "better")
    assert click.champion is not None
    assert click.champion.value == pytest.approx(0.5, abs=0.1)
    assert (like.champion, like.change, like.judged) == (None, None, True)
    elsewhere = champion._replace(predictions=replace(champion.predictions, rows=np.arange(400) + 1))
    assert [duel.change for duel in duels(both._replace(champion_output=elsewhere), log.config())] == [None, None]
