"""Contract 2: whatever the ranks' masks, several ranks take the step that one process takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from ranking.distributed.world import World
from ranking.rows import Rows
from tests.launch import launch
from tests.ranked import Tensors, assembly, batch_of, encoded, masked, step, whole_model
from tests.workspace import SCHEMA, Workspace

ROWS = 96
OVERLAY = {
    "schema": {
        "tasks": [
            *SCHEMA["tasks"],
            {"name": "quick", "label": "play_ms / 1000", "loss": "huber", "gamma": 3.0, "weight": 0.2},
        ],
        "tables": {"videos": {"sharding": "column_wise"}, "tab": {"sharding": "data_parallel"}},
    },
    "optimizer": {
        "sparse": {"type": "sgd", "learning_rate": 1.0},
        "dense": {"type": "sgd", "learning_rate": 1.0},
        "schedule": {"type": "constant", "warmup_steps": 0},
    },
    "objective": {"weighting": {"type": "static", "interval": 2}, "huber_delta": 0.5},
}


CASES = (
    "as drawn",
    "few on rank 1",
    "none on rank 0",
    "none of any task on rank 1",
    "one task empty everywhere",
    "padding on rank 1",
    "all empty",
)


def cases(rows: Rows) -> dict[str, Rows]:
    half = len(rows) // 2
    nothing = replace(rows, masks=torch.zeros_like(rows.masks))
    padded = Rows.cat([rows.slice(0, half + 5), rows.padding(half - 5)])
    alone = rows
    for task in range(rows.masks.shape[1]):
        alone = masked(alone, task, slice(0, half))
    return {
        "as drawn": rows,
        "few on rank 1": masked(masked(rows, 1, slice(0, half + 3)), 2, slice(0, half + 3)),
        "none on rank 0": masked(rows, 1, slice(half, None)),
        "none of any task on rank 1": alone,
        "one task empty everywhere": masked(rows, 3, slice(0, 0)),
        "padding on rank 1": padded,
        "all empty": nothing,
    }


def updates(world: World, files: list[Path]) -> dict[str, tuple[float, Tensors]]:
    """What one step changes, and its loss, by case."""
    parts = assembly(world, files, ["--model.dropout=0"])
    found = {}
    for name, rows in cases(encoded(parts, ROWS)).items():
        state = parts.state(10)
        before = whole_model(state)
        loss = step(state, batch_of(parts, rows, world, step=4, epoch=1))  # t = 2 of the weights' schedule
        after = whole_model(state)
        found[name] = loss, {key: after[key] - before[key] for key in before}
    return found


@pytest.fixture(scope="module")
def by_world_size(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory):
    overlay = tmp_path_factory.mktemp("gradients") / "overlay.yaml"
    overlay.write_text(yaml.safe_dump(OVERLAY))
    return {size: launch(updates, size, [workspace.yaml, overlay]) for size in (1, 2)}


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_take_the_step_of_one(by_world_size, case: str) -> None:
    loss, alone = by_world_size[1][0][case]
    for rank_loss, together in (found[case] for found in by_world_size[2]):
        assert rank_loss == pytest.approx(loss, abs=1e-6)
        assert together.keys() == alone.keys()
        for name, delta in alone.items():
            torch.testing.assert_close(together[name], delta, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_the_step_reaches_dense_parameters_and_rows_of_every_table(by_world_size) -> None:
    _, deltas = by_world_size[2][0]["as drawn"]
    assert all(delta.abs().max() > 0 for delta in deltas.values()), {n: float(d.abs().max()) for n, d in deltas.items()}
    assert sum("embedding_bags" in name for name in deltas) == 3


def test_nothing_moves_where_all_spaces_are_empty(by_world_size) -> None:
    loss, deltas = by_world_size[2][0]["all empty"]
    assert loss == 0
    assert all((delta == 0).all() for delta in deltas.values())
