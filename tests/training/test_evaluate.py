"""Contract 3, and exact metrics at any world size."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ranking.distributed.world import World
from ranking.training.evaluate import AbandonedError, Evaluation
from ranking.training.feed import Stop
from tests.launch import launch
from tests.ranked import assembly, batch_of, encoded, step
from tests.workspace import Workspace


def evaluated(world: World, files: list[Path]) -> tuple[Evaluation, dict]:
    """An evaluation between two steps, and what it must not disturb."""
    parts = assembly(world, files, ["--model.dropout=0", "--evaluation.batch_size=96"])
    manifest, state = parts.manifest("validation"), parts.state(10)
    step(state, batch_of(parts, encoded(parts, 96), world))
    before, rng = state.model.training, torch.get_rng_state()
    found = parts.evaluate(manifest, state, 1)
    rows = encoded(parts, manifest.rows, "validation")
    undisturbed = state.model.training == before and torch.equal(rng, torch.get_rng_state())
    return found, {
        "undisturbed": undisturbed,
        "masks": rows.masks.float(),
        "labels": rows.labels,
        "groups": rows.groups,
    }


def abandoned(world: World, files: list[Path]) -> bool:
    """One rank is asked to stop while all evaluate; whether the model is left as it was."""
    parts = assembly(world, files, ["--evaluation.batch_size=96"])
    state, stop = parts.state(10), Stop(asked=world.rank == world.size - 1)
    before = state.model.training
    with pytest.raises(AbandonedError):
        parts.evaluate(parts.manifest("validation"), state, 1, stop)
    return stop.asked and state.model.training == before


@pytest.fixture(scope="module")
def found(workspace: Workspace) -> dict[int, list]:
    return {size: launch(evaluated, size, [workspace.yaml]) for size in (1, 2)}


def flat(value: object, path: str = "") -> dict[str, object]:
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{path}.{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, inner in enumerate(value) for k, v in flat(inner, f"{path}.{i}").items()}
    return {path: value}


def test_numbers_are_the_same_at_any_world_size_and_on_every_rank(found) -> None:
    expected = flat(found[1][0][0].report.model_dump())
    assert sum(isinstance(value, float) for value in expected.values()) > 20
    for evaluation, _ in found[2]:
        numbers = flat(evaluation.report.model_dump())
        assert numbers.keys() == expected.keys()
        for key, value in expected.items():
            if isinstance(value, float):
                assert numbers[key] == pytest.approx(value, abs=1e-6, nan_ok=True), key
            else:
                assert numbers[key] == value, key


def test_every_row_is_scored_once_on_rank_0_only(found) -> None:
    for answers in found.values():
        assert sorted(answers[0][0].predictions.rows) == list(range(400))
        assert all(evaluation.predictions is None for evaluation, _ in answers[1:])


def test_the_mask_that_trains_is_the_mask_that_scores(found) -> None:
    for answers in found.values():
        evaluation, truth = answers[0]
        order = np.argsort(evaluation.predictions.rows)
        np.testing.assert_array_equal(evaluation.predictions.in_space[order], truth["masks"].numpy() == 1)
        np.testing.assert_array_equal(evaluation.predictions.labels[order], truth["labels"].numpy())
        np.testing.assert_array_equal(evaluation.predictions.groups[order], truth["groups"].numpy())
        for place, name in enumerate(evaluation.predictions.names):
            assert evaluation.report.tasks[name].sample_space.rows == truth["masks"][:, place].sum()


def test_scores_are_probabilities_and_values(found) -> None:
    assert found[2][0][0].predictions.scores.dtype == np.float64  # where probabilities near 1 still differ
    predictions = found[1][0][0].predictions
    binary = [place for place, kind in enumerate(predictions.kinds) if kind == "binary"]
    assert (predictions.scores[:, binary] > 0).all()
    assert (predictions.scores[:, binary] < 1).all()


def test_gate_means_are_those_of_real_rows_whatever_the_world(found) -> None:
    (name,) = found[1][0][0].gates
    expected = found[1][0][0].gates[name]
    assert expected.shape == (3, 3)
    np.testing.assert_allclose(expected.sum(1), 1, atol=1e-6)
    for answers in found.values():
        for evaluation, _ in answers:
            np.testing.assert_allclose(evaluation.gates[name], expected, atol=1e-6)


def test_training_goes_on_as_if_nothing_had_been_evaluated(found) -> None:
    assert all(rest["undisturbed"] for answers in found.values() for _, rest in answers)


@pytest.mark.parametrize("size", [1, 2])
def test_a_stop_on_one_rank_abandons_the_evaluation_on_all(workspace: Workspace, size: int) -> None:
    assert launch(abandoned, size, [workspace.yaml]) == [True] * size


def test_a_checkpoint_is_ranked_by_the_chosen_tasks(found, workspace: Workspace) -> None:
    evaluation = found[1][0][0]
    auc = {name: task.sample_space.auc for name, task in evaluation.report.tasks.items() if name != "watch"}
    config = workspace.config().evaluation
    assert evaluation.score(config) == pytest.approx(sum(auc.values()) / 2)
    assert evaluation.score(config.model_copy(update={"tasks": ("like",)})) == pytest.approx(auc["like"])
    assert math.isfinite(evaluation.score(config.model_copy(update={"best": "gauc", "tasks": ("click",)})))
