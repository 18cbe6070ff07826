"""One schedule over fused and dense optimizers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from ranking.distributed.world import World
from ranking.training.config import ScheduleConfig
from ranking.training.optimizer import factor
from tests.launch import launch
from tests.ranked import assembly, batch_of, encoded, step, whole, whole_model
from tests.workspace import Workspace

BAG = "embedding_bags."


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1, 1, 1, 1, 1]),
        ({"warmup_steps": 4}, [0.25, 0.5, 0.75, 1, 1]),
        ({"type": "linear"}, [1, 0.75, 0.5, 0.25, 0]),
        ({"type": "linear", "final_factor": 0.2}, [1, 0.8, 0.6, 0.4, 0.2]),
        ({"type": "cosine"}, [(1 + math.cos(math.pi * i / 4)) / 2 for i in range(5)]),
        ({"type": "linear", "warmup_steps": 2}, [0.5, 1, 1, 0.5, 0]),
    ],
)
def test_the_schedule_warms_up_and_decays_to_its_final_factor(settings, expected) -> None:
    config = ScheduleConfig.model_validate(settings)
    assert [factor(config, i, 4) for i in range(5)] == pytest.approx(expected)


def test_past_its_end_the_schedule_stays_there_and_warm_up_may_be_the_whole_run() -> None:
    assert factor(ScheduleConfig(type="cosine", final_factor=0.1), 99, 10) == pytest.approx(0.1)
    assert factor(ScheduleConfig(type="linear", warmup_steps=10), 9, 10) == 1


PLAIN = ["--model.dropout=0", "--optimizer.schedule.type=constant", "--optimizer.sparse.type=sgd"]
DENSE = ["--optimizer.dense.type=sgd", "--optimizer.dense.learning_rate=1", "--optimizer.sparse.learning_rate=1"]
TABLES = {
    "users": {"learning_rate": 3.0},
    "videos": {"rows": 40, "sharding": "data_parallel", "learning_rate": 5.0},
    "tab": {"rows": 5, "dim": 4},
}


def first_updates(world: World, files: list[Path]) -> dict:
    """Size of the first update under several settings, and the names of the optimizers' state."""

    def update(number: int, *settings: str):
        parts = assembly(world, files, [*PLAIN, *DENSE, *settings])
        rows, state = encoded(parts, 96), parts.state(10)
        before = whole_model(state)
        step(state, batch_of(parts, rows, world, number))
        after = whole_model(state)
        return {name: after[name] - before[name] for name in before}

    whole_rate, quarter = "--optimizer.schedule.warmup_steps=0", "--optimizer.schedule.warmup_steps=4"
    found = {
        "whole": update(0, whole_rate),
        "quarter": update(0, quarter),
        "three quarters": update(2, quarter),
        "rates": update(0, whole_rate, f"--schema.tables={json.dumps(TABLES)}"),
        "clipped": update(0, whole_rate, "--optimizer.dense.clip_norm=0.001"),
        "unclipped": update(0, whole_rate, "--optimizer.dense.clip_norm=1000"),
    }
    names = {}
    for dense, settings in {
        "adam": [],
        "sgd": ["--optimizer.dense.type=sgd", "--optimizer.dense.momentum=0.9"],
    }.items():
        parts = assembly(world, files, [*settings, f"--schema.tables={json.dumps(TABLES)}"])
        state, rows = parts.state(10), encoded(parts, 96)
        fresh = {name: tuple(value.shape) for name, value in whole(state.optimizers.tensors(), world).items()}
        step(state, batch_of(parts, rows, world))
        used = {name: tuple(value.shape) for name, value in whole(state.optimizers.tensors(), world).items()}
        names[dense] = fresh, used, set(whole_model(state))
    return found | {"names": names}


@pytest.fixture(scope="module")
def found(workspace: Workspace) -> dict[int, dict]:
    return {size: launch(first_updates, size, [workspace.yaml])[0] for size in (1, 2)}


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(("step_name", "scale"), [("quarter", 0.25), ("three quarters", 0.75)])
def test_warm_up_reaches_fused_tables_and_dense_parameters_alike(found, size, step_name, scale) -> None:
    for name, delta in found[size]["whole"].items():
        assert delta.abs().max() > 0
        torch.testing.assert_close(found[size][step_name][name], delta * scale, rtol=1e-3, atol=3e-7)


@pytest.mark.parametrize("size", [1, 2])
def test_a_table_may_have_a_rate_of_its_own_wherever_it_lives(found, size) -> None:
    for table, rate in (("users", 3.0), ("videos", 5.0), ("tab", 1.0)):
        (name,) = (name for name in found[size]["whole"] if name.endswith(f"{BAG}{table}.weight"))
        expected = found[size]["whole"][name] * rate
        torch.testing.assert_close(found[size]["rates"][name], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2])
def test_clipping_bounds_the_global_norm_of_dense_gradients_only(found, size) -> None:
    def norm(deltas) -> float:
        return math.sqrt(sum(float(d.double().square().sum()) for name, d in deltas.items() if BAG not in name))

    assert norm(found[size]["unclipped"]) == pytest.approx(norm(found[size]["whole"]))
    assert norm(found[size]["whole"]) > 0.01
    assert norm(found[size]["clipped"]) == pytest.approx(0.001, rel=1e-2)
    for name in (name for name in found[size]["whole"] if BAG in name):
        torch.testing.assert_close(found[size]["clipped"][name], found[size]["whole"][name])


@pytest.mark.parametrize("dense", ["adam", "sgd"])
def test_state_has_the_same_names_and_shapes_before_and_after_a_step_at_any_world_size(found, dense) -> None:
    reference, _, parameters = found[1]["names"][dense]
    for size in (1, 2):
        fresh, used, _ = found[size]["names"][dense]
        assert fresh == used == reference
    assert {name.rsplit("/", 1)[0] for name in reference} == parameters
    expected = {"adam": {"exp_avg", "exp_avg_sq", "step"}, "sgd": {"momentum_buffer"}}[dense]
    assert {name.rsplit("/", 1)[1] for name in reference if BAG not in name} == expected
