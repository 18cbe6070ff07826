"""The example alerts name metrics that jobs write, and are rules that Prometheus would load."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ranking.tracking.textfile import GAUGES

FILE = Path(__file__).parents[2] / "docker" / "prometheus" / "alerts.yaml"
RULES: list[dict[str, Any]] = [rule for group in yaml.safe_load(FILE.read_text())["groups"] for rule in group["rules"]]
DURATION = re.compile(r"^\d+[smhd]$")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_has_what_prometheus_asks_for(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert DURATION.match(rule.get("for", "1m"))
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    expression = rule["expr"]
    assert all(expression.count(a) == expression.count(b) for a, b in ("()", "{}"))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_uses_metrics_and_labels_that_exist(rule: dict[str, Any]) -> None:
    used = set(re.findall(r"\branking_\w+", rule["expr"]))
    assert used
    assert used <= set(GAUGES)
    shared = set.intersection(*(set(GAUGES[name][0]) for name in used))
    told = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    assert told <= shared
    assert set(re.findall(r"[{,]\s*(\w+)\s*[=!]", rule["expr"])) <= shared


def test_a_missed_night_is_among_them() -> None:
    (missed,) = (rule for rule in RULES if rule["alert"] == "RankingNightMissed")
    assert "ranking_job_last_success_timestamp_seconds" in missed["expr"]
    assert missed["labels"]["severity"] == "page"
