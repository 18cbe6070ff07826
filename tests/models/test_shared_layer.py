"""Where the gradients of several tasks meet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ranking.config import load
from ranking.errors import InputError
from ranking.models.zoo import shares
from ranking.objective.gradients import task_gradients
from tests.workspace import Workspace

from .conftest import CASES, TASKS, config, inputs, network

SEPARATE = {"single_task", "l2_constrained", "esmm"}  # ESMM's towers share embeddings only, unless it has a bottom


@pytest.mark.parametrize("section", [*CASES.values(), CASES["esmm"] | {"bottom": [8]}], ids=[*CASES, "esmm, bottom"])
def test_every_task_has_a_gradient_there(section: dict[str, Any]) -> None:
    model = network(section)
    separate = section["type"] in SEPARATE and not (section["type"] == "esmm" and section.get("bottom"))
    assert shares(config(section), TASKS) == (not separate)
    if separate:
        assert not model.shared_layer()
        return
    found = task_gradients(model(inputs()).mean(0), model.shared_layer)
    assert (found.norm(dim=1) > 0).all()
    assert len(found[0]) == sum(parameter[part].numel() for parameter, part in model.shared_layer())


def test_of_cgc_only_the_shared_experts_count() -> None:
    model = network(CASES["cgc"])
    weight, bias = (parameter[part] for parameter, part in model.shared_layer())
    assert (len(weight), len(bias)) == (2, 2)  # of five


def test_gradnorm_needs_one(workspace: Workspace, tmp_path: Path) -> None:
    over = tmp_path / "over.yaml"
    over.write_text("{model: {type: single_task}, objective: {weighting: {type: gradnorm}}}")
    with pytest.raises(InputError, match=r"weighting\.type: got 'gradnorm' with model\.type 'single_task'"):
        load([workspace.yaml, over])
