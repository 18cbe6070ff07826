"""The study of warm starts: what every arm trains on and goes on from, and how days become a mean."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from pipelines.studies.record import Record
from pipelines.studies.warm_start.config import WarmStartStudyConfig
from pipelines.studies.warm_start.report import draw, markdown, mean_of, summary
from ranking.config import read
from ranking.errors import InputError

FILE = Path(__file__).parents[3] / "configs/kuairand/warm_start.yaml"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WarmStartStudyConfig:
    monkeypatch.chdir(FILE.parents[2])
    return read(WarmStartStudyConfig, [FILE], [f"--output={tmp_path}"])


def test_a_warm_arm_goes_on_from_its_own_day_before_and_grows(config, tmp_path: Path) -> None:
    run = config.run("warm_day", date(2022, 5, 3), date(2022, 5, 4))
    assert [url[-20:-10] for url in run.data.train] == ["2022-05-03"]
    assert "2022-05-04" in run.data.validation[0]
    assert run.warm_start.run == str(tmp_path / "warm_day/2022-05-02")
    assert (run.data.extends, run.data.transforms) == (
        str(tmp_path / "warm_day/2022-05-02/transforms"),
        str(tmp_path / "warm_day/2022-05-03/transforms"),
    )
    assert len(config.window_of(run, date(2022, 5, 3)).data.train) == config.window


def test_on_the_first_day_every_arm_has_the_reference_s_model(config) -> None:
    runs = [config.run(arm, config.first, date(2022, 5, 2)) for arm in config.arms]
    assert len({run.output for run in runs}) == 1
    assert runs[0].warm_start.run == ""
    assert len(runs[0].data.train) == config.window


def test_what_stays_as_it_was_stays(config) -> None:
    still = config.run("still", date(2022, 5, 6), date(2022, 5, 7))
    fixed = config.run("warm_day_fixed", date(2022, 5, 6), date(2022, 5, 7))
    first = config.folder("scratch", config.first)
    assert still.output == first
    assert (fixed.data.transforms, fixed.data.extends) == (str(first / "transforms"), "")


def test_an_arm_cannot_be_compared_with_nobody(config, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("arms: {still: {against: nobody}}")
    with pytest.raises(InputError, match=r"arms\.still\.against: got 'nobody'; expected one of"):
        read(WarmStartStudyConfig, [FILE, overlay])


def day(arm: str, number: int, gain: float | None) -> dict:
    found = {"part": "days", "arm": arm, "day": f"2022-05-0{number}", "slice": "all", "rows": 10, "share": 1.0}
    found |= {"wall_s": 3.0, "cpu_s": 2.0, "trained": 50}
    for task in ("click", "long_view", "like"):
        for name, value in ((f"{task}_auc", 0.7), (f"{task}_gain", gain)):
            reach = [None, None] if value is None else [value - 0.03, value + 0.03]
            found |= {name: value, f"{name}_low": reach[0], f"{name}_high": reach[1]}
        found[f"{task}_positives"] = 10
    return found


def test_days_become_a_mean_whose_interval_narrows_with_their_number() -> None:
    rows = [day("a", number, gain) for number, gain in ((3, 0.01), (4, 0.03), (5, None), (6, 0.02), (7, 0.02))]
    mean = mean_of(rows, "click_gain")
    assert (mean.value, mean.days) == (pytest.approx(0.02), 4)
    np.testing.assert_allclose([mean.low, mean.high], [0.005, 0.035])
    assert mean_of(rows[2:3], "click_gain") is None


def test_the_report_and_its_figures_need_the_rows_alone(config) -> None:
    rows = [day(arm, number, 0.0) for arm in config.arms for number in (2, 3, 4)]
    rows = [*rows, *summary(rows, config)]
    tables = {"part": "tables", "day": "2022-05-01", "user_keys": 1000, "video_keys": 5}
    rows.append({**tables, "farthest": "age", "mean_shift": 0.5, "spread": 1.0})
    record = Record(command="study warm_start", revision="r", machine="m", rows=tuple(rows))
    text = markdown(record, config)
    assert "| `warm_day` | `scratch` | 0.7000 | +0.0 [-21.2, +21.2] |" in text
    assert "| 2022-05-01 | 1,000 | 5 | age +0.50 (x1.00) |" in text
    assert set(draw(record.rows, config)) == {"days", "gains"}
