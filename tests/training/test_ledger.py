"""The negative-transfer ledger: what one of its lines says, and the cosines of task gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ranking.distributed.world import World
from ranking.metrics import Predictions
from ranking.objective.gradients import task_gradients
from ranking.training.config import CompareConfig
from ranking.training.ledger import Ledger, TaskComparison, compare_task, gradient_cosines
from tests.launch import launch
from tests.ranked import assembly, batch_of, encoded
from tests.workspace import Workspace

CONFIG = CompareConfig(resamples=100)


def predictions(noise: float, seed: int = 1) -> Predictions:
    """Scores around the truth of 800 rows in a random order; `like` is defined on half of them."""
    truth = np.random.default_rng(0)
    logit, draw = truth.normal(size=800), np.random.default_rng(seed)
    click = (truth.random(800) < 1 / (1 + np.exp(-2 * logit))).astype(float)
    seen = logit + noise * draw.normal(size=800)
    space = np.stack([np.ones(800, bool), np.arange(800) % 2 == 0], axis=1)
    order = draw.permutation(800)
    return Predictions(
        names=("click", "watch"),
        kinds=("binary", "regression"),
        scores=np.stack([1 / (1 + np.exp(-seen)), seen], axis=1)[order],
        labels=np.stack([click, logit], axis=1)[order],
        in_space=space[order],
        observed=np.ones((800, 2), bool),
        rows=np.arange(800)[order],
    )


@pytest.mark.parametrize(("task", "metric", "rows"), [("click", "auc", 800), ("watch", "r2", 400)])
def test_a_model_that_sees_more_gains_and_the_other_way_round_loses(task: str, metric: str, rows: int) -> None:
    good, bad = predictions(0.3, 1), predictions(1.5, 2)
    won, lost = compare_task(task, bad, good, CONFIG, (3, 4)), compare_task(task, good, bad, CONFIG, (4, 3))
    assert (won.metric, won.rows, won.alone_step, won.shared_step) == (metric, rows, 3, 4)
    assert (won.verdict, lost.verdict) == ("gain", "loss")
    assert won.gain == pytest.approx(won.shared - won.alone)
    assert won.interval[0] < won.gain < won.interval[1]
    assert lost.gain == pytest.approx(-won.gain)


def test_the_same_model_makes_no_difference() -> None:
    same = compare_task("click", predictions(0.3), predictions(0.3), CONFIG, (1, 1))
    assert (same.gain, same.verdict) == (0, "no difference seen")


def test_other_labels_are_refused() -> None:
    other = predictions(0.3)
    with pytest.raises(ValueError, match="click: the two runs have other rows"):
        compare_task("click", other, replace(other, labels=1 - other.labels), CONFIG, (1, 1))


def test_the_report_holds_every_number_of_the_ledger() -> None:
    line = compare_task("click", predictions(1.5, 2), predictions(0.3), CONFIG, (3, 4))
    unknown = dict.fromkeys(("alone", "shared", "gain", "interval", "p_value"))
    undefined = TaskComparison(task="like", metric="auc", rows=9, positives=0, alone_step=1, shared_step=1, **unknown)
    ledger = Ledger(
        revision="abc",
        model="mmoe",
        split="test",
        confidence=0.95,
        entries=(line, undefined),
        tasks=("click", "like"),
        cosines=((1.0, None), (None, 1.0)),
        gradient_batches=2,
    )
    text = ledger.markdown(["gains"])
    assert f"{line.gain:+.4f} [{line.interval[0]:+.4f}, {line.interval[1]:+.4f}]" in text
    assert line.p_value < 0.0001
    assert "| < 0.0001 | gain |" in text
    assert "| like | auc | 9 | - | - | - | - | undefined |" in text
    assert "![gains](gains.png)" in text
    assert ledger.metrics().keys() == {"gain/click", "alone/click", "shared/click"}


def cosines(world: World, files: list[Path]) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Of two batches, and by hand for the same batches where there is one rank."""
    parts = assembly(world, files)
    step, rows = parts.state(10).model.module, encoded(parts, 192)
    batches = [batch_of(parts, rows.slice(start, start + 96), world) for start in (0, 96)]
    found = gradient_cosines(step, iter(batches), 2, world)
    by_hand = []
    step.eval()
    for batch in batches:
        shares = step.objective.task_losses(
            step.model(batch.sparse, batch.dense), batch.labels, batch.masks, batch.counts
        )
        rows_ = task_gradients(shares, step.model.architecture.shared_layer).double()
        by_hand.append(torch.nn.functional.cosine_similarity(rows_[:, None], rows_[None], dim=2))
    return found, torch.stack(by_hand).mean(0), all(p.grad is None for p in step.parameters())


def test_cosines_are_means_over_global_batches_whatever_the_world(workspace: Workspace) -> None:
    ((alone, by_hand, untouched),) = launch(cosines, 1, [workspace.yaml])
    torch.testing.assert_close(alone, by_hand)
    torch.testing.assert_close(alone.diagonal(), torch.ones(3).double())
    assert untouched
    assert alone[0, 1].abs() < 1
    for found, _, _ in launch(cosines, 2, [workspace.yaml]):
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)
