"""Every architecture has an overlay in configs/models/ that fits any run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from ranking.config import load
from ranking.errors import InputError
from ranking.models.zoo import ZOO, build, check
from tests.workspace import Workspace

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs/models"


@pytest.fixture
def conversions(tmp_path: Path) -> Path:
    """An overlay with tasks that every architecture takes."""
    tasks = [{"name": "click", "label": "is_click"}, {"name": "like", "label": "is_click & is_like"}]
    file = tmp_path / "tasks.yaml"
    file.write_text(yaml.safe_dump({"schema": {"tasks": tasks}}))
    return file


def test_no_architecture_is_left_out() -> None:
    assert sorted(file.stem for file in FOLDER.iterdir()) == sorted(ZOO)


@pytest.mark.parametrize("name", ZOO)
def test_an_overlay_replaces_the_model_and_nothing_else(name: str, workspace: Workspace, conversions: Path) -> None:
    file = FOLDER / f"{name}.yaml"
    assert list(yaml.safe_load(file.read_text())) == ["model"]
    base = [workspace.yaml, conversions]
    config = load([*base, file])
    assert config.model.type == name
    assert config.model_dump(exclude={"model"}) == load(base).model_dump(exclude={"model"})
    assert build(config.model, 10, config.schema.tasks)(torch.randn(4, 10)).shape == (4, 2)


@pytest.mark.parametrize("name", ZOO)
def test_what_an_overlay_says_of_its_use_is_so(name: str) -> None:
    (line,) = [line for line in (FOLDER / f"{name}.yaml").read_text().splitlines() if "Lay it over a run: " in line]
    files = line.partition("Lay it over a run: ")[2].split()
    assert files[::2] == ["-c"] * (len(files) // 2)
    assert load([ROOT / file for file in files[1::2]]).model.type == name


def test_all_but_esmm_fit_any_tasks(workspace: Workspace) -> None:
    for name in ZOO:
        if name != "esmm":
            config = load([workspace.yaml, FOLDER / f"{name}.yaml"])
            check(config.model, config.schema.tasks)


def test_esmm_wants_conversions(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="task 'like': given: got 'click'"):
        check((config := load([workspace.yaml, FOLDER / "esmm.yaml"])).model, config.schema.tasks)
