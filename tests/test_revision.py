"""Settings changed by path: one mapping that revises a configuration and, as YAML, does the same to its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ranking.config import complete, load, overlay, revise, setting
from ranking.errors import InputError
from tests.workspace import Workspace

CHANGES: dict[str, Any] = {
    "optimizer.dense.learning_rate": 0.5,
    "model.bottom": [4, 3],
    "schema.tasks.like.weight": 9.0,
    "schema.tasks.click.weight": 3.0,
    "schema.tables.videos.learning_rate": 0.1,
    "objective.weighting": {"type": "dwa", "temperature": 3.0},
}


def test_a_revision_changes_what_it_names_and_nothing_else(workspace: Workspace) -> None:
    before = workspace.config()
    after = revise(before, CHANGES)
    assert {path: setting(after, path) for path in CHANGES} == CHANGES | {
        "objective.weighting": {"type": "dwa", "interval": 0, "temperature": 3.0}
    }
    back = {path: setting(before, path) for path in CHANGES}
    assert revise(after, back) == revise(before, {})


def test_its_overlay_does_the_same_to_the_files(workspace: Workspace, tmp_path: Path) -> None:
    over = tmp_path / "over.yaml"
    over.write_text(yaml.safe_dump(overlay(workspace.config(), CHANGES)))
    assert load([workspace.yaml, over]).model_dump() == revise(workspace.config(), CHANGES).model_dump()


def test_the_environment_is_read_once(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKING_MODEL__EXPERTS", "7")
    config = workspace.config()
    assert config.model.experts == 7
    assert revise(config, {"model.experts": 5}).model.experts == 5
    assert complete(config.model_dump(mode="json")).model_dump() == config.model_dump()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("optimizer.dens.learning_rate", 1, "optimizer.dens: unknown key"),
        ("model.experts", 0, "model.experts: got 0; expected a number greater than or equal to 1"),
        ("schema.tasks.view.weight", 1, r"schema.tasks.view.weight: no entry 'view' .*\['click', 'like', 'watch'\]"),
        ("schema.tasks.like", 1, "schema.tasks.like: no entry 'like' with a key below it"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(workspace: Workspace, path: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        revise(workspace.config(), {path: value})
    assert setting(workspace.config(), "optimizer.dens.learning_rate") is None
