"""The zoo in real trainings: over two ranks, and by the pipeline that accelerators use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from pipelines.assembly import Assembly
from ranking.config import load
from ranking.data.plan import Position
from ranking.distributed.world import join
from ranking.training.step import EagerPipeline, OverlappedPipeline
from tests.launch import launch
from tests.short_run import assert_same, steady, train_each
from tests.workspace import Workspace

from .conftest import CASES, STACK, TASKS

PLE = {"type": "ple", "bottom": [16, 8], "levels": 2, "shared_experts": 2, "task_experts": 1, "tower": [4]}
NOISY = PLE | {"top_k": 2, "noise": True, "balance": 0.1, "dropout": 0.2}
TABLES = STACK | {"type": "single_task", "share_embeddings": False, "cross_layers": 1, "cross_rank": 3}
LABELS = {"click": "is_click", "like": "is_click & is_like", "buy": "is_click & (play_ms > 9000)"}


@pytest.mark.filterwarnings("ignore")  # TorchRec's own deprecations
def test_a_noisy_sparse_ple_trains_and_resumes_exactly(workspace: Workspace, tmp_path: Path) -> None:
    model = tmp_path / "model.yaml"
    model.write_text(yaml.safe_dump({"model": NOISY}))
    files = [workspace.yaml, model]
    whole, begun, resumed = (steady(tmp_path / run, steps) for run, steps in (("a", 12), ("b", 6), ("b", 12)))
    runs = {"whole": whole, "begun": begun, "resumed": resumed}
    first, second = launch(train_each, 2, files, runs)
    assert_same(second["whole"], first["whole"])
    assert_same(first["resumed"], first["whole"])
    gates = {name.removeprefix("architecture."): mean for name, mean in first["whole"]["gates"].items()}
    assert {name: mean.shape for name, mean in gates.items()} == {
        "levels.0.gates": (3, 5),
        "levels.0.shared_gate": (1, 5),
        "levels.1.gates": (3, 5),
    }
    for mean in gates.values():
        np.testing.assert_allclose(mean.sum(1), 1, rtol=1e-6)
    assert gates["levels.1.gates"][0, 1] == 0  # click's gate does not see like's expert


@pytest.mark.filterwarnings("ignore")  # TorchRec's own deprecations
@pytest.mark.parametrize("section", [*CASES.values(), TABLES], ids=[*CASES, "single_task with its own tables"])
def test_the_overlapped_pipeline_takes_the_eager_ones_steps(
    section: dict[str, Any], workspace: Workspace, tmp_path: Path
) -> None:
    """TorchRec traces the model to overlap its parts, so no forward may depend on a batch's values or shapes."""
    overlay = tmp_path / "overlay.yaml"
    tasks = [task.model_dump(mode="json") | {"label": LABELS[task.name]} for task in TASKS]
    overlay.write_text(yaml.safe_dump({"model": section, "schema": {"tasks": tasks}}))
    config = load([workspace.yaml, overlay], ["--objective.weighting.type=uncertainty"])
    with join("cpu") as world:
        eager, overlapped = (_steps(kind, Assembly(config, world)) for kind in (EagerPipeline, OverlappedPipeline))
    assert eager.keys() == overlapped.keys()
    for name, value in eager.items():
        torch.testing.assert_close(overlapped[name], value, rtol=0, atol=0, msg=name)


def _steps(kind: type[EagerPipeline | OverlappedPipeline], parts: Assembly) -> dict[str, Tensor]:
    """Dense weights after three steps."""
    state, feed = parts.state(6), parts.training_feed(parts.manifest("train"), Position())
    pipeline = kind(state.model, state.optimizers, parts.world)
    validation = parts.manifest("validation")
    for step in range(3):
        pipeline.progress(feed)
        with pipeline.paused():
            assert parts.evaluate(validation, state, step).report.tasks
    pipeline.close()
    feed.close()
    assert parts.evaluate(validation, state, 3).report.tasks
    return {name: v.clone() for name, v in state.model.state_dict().items() if "embedding_bags" not in name}
