"""The textfile for Prometheus: whole, shared by jobs, and never in the way."""

import math
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from ranking.tracking.textfile import MetricsConfig, Textfile, Watched


@pytest.fixture
def config(tmp_path):
    return MetricsConfig(textfile=tmp_path / "deep" / "ranking.prom")


def samples(config) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(config.textfile.read_text())
    return {(s.name.removeprefix("ranking_"), *s.labels.values()): s.value for f in families for s in f.samples}


def test_what_a_run_tells_is_in_the_file(config):
    class Run:
        said: tuple = ()

        def log_metrics(self, values, step):
            self.said += (("metrics", step),)

        def log_checkpoint(self, step, uri, metrics):
            self.said += (("checkpoint", step),)

    run = Run()
    watched = Watched(run, Textfile(config, "ranker"), target=90)
    watched.log_metrics({"train/loss/click": 0.5, "train/rows_per_second": 9.0, "train/input_wait_share": 0.25}, 30)
    watched.log_checkpoint(30, "file:x", {"validation/click/auc": 0.7, "validation/watch/r2": 0.1, "other": 1.0})
    assert run.said == (("metrics", 30), ("checkpoint", 30))
    found = samples(config)
    assert found.pop(("checkpoint_timestamp_seconds", "ranker")) == pytest.approx(time.time(), abs=60)
    assert found == {
        ("step", "ranker"): 30,
        ("step_target", "ranker"): 90,
        ("loss", "ranker", "click"): 0.5,
        ("rows_per_second", "ranker"): 9,
        ("input_wait_ratio", "ranker"): 0.25,
        ("auc", "ranker", "click"): 0.7,
        ("r2", "ranker", "watch"): 0.1,
    }


def test_an_auc_that_became_undefined_is_no_longer_shown(config):
    Textfile(config, "ranker").checkpoint({"validation/click/auc": 0.7})
    Textfile(config, "other").checkpoint({"validation/click/auc": 0.6})
    Textfile(config, "ranker").checkpoint({"validation/like/auc": 0.8})
    assert {key: value for key, value in samples(config).items() if key[0] == "auc"} == {
        ("auc", "other", "click"): 0.6,
        ("auc", "ranker", "like"): 0.8,
    }


def test_a_failure_leaves_the_last_success_and_the_other_jobs_alone(config):
    for job, code in (("train", 0), ("promote", 3), ("train", 1)):
        record = Textfile(config, "ranker")
        record.begin(job)
        record.end(job, code)
        found = samples(config)
        if code == 0:
            succeeded = found["job_last_success_timestamp_seconds", "ranker", "train"]
    assert found["job_exit_code", "ranker", "train"] == 1
    assert found["job_exit_code", "ranker", "promote"] == 3
    assert found["job_last_success_timestamp_seconds", "ranker", "train"] == succeeded
    assert found["job_end_timestamp_seconds", "ranker", "train"] > succeeded
    assert ("job_last_success_timestamp_seconds", "ranker", "promote") in found, "a verdict against is work done"


def test_the_file_appears_whole_and_can_be_read_by_others(config):
    Textfile(config, "ranker").end("train", 0)
    assert config.textfile.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in config.textfile.parent.iterdir()] == ["ranking.prom"]


def test_a_damaged_file_is_written_anew(config):
    config.textfile.parent.mkdir()
    config.textfile.write_text('ranking_step{model="x" nonsense\n')
    Textfile(config, "ranker").observe({"train/loss/click": math.nan}, 1, 2)
    assert samples(config)["step", "ranker"] == 1


def test_a_place_that_cannot_be_written_stops_nobody(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    Textfile(MetricsConfig(textfile=tmp_path / "file" / "ranking.prom"), "ranker").end("train", 0)
    assert "metrics are not written" in caplog.text


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Textfile(MetricsConfig(), "ranker").end("train", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_the_collector_would_not_read_is_refused():
    with pytest.raises(ValidationError, match=r"expected a name ending in \.prom"):
        MetricsConfig(textfile="metrics.txt")
