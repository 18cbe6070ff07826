"""Many runs at once end where each would end alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ranking.models.base import Architecture
from ranking.models.zoo import build
from ranking.objective.loss import Objective, ObjectiveConfig
from ranking.training.ensemble import Batch, Ensemble, shuffles
from tests.models.conftest import SMALL, TASKS, WIDTH, config

RATES = (1e-2, 1e-2, 1e-3)
ROWS = 16


def make(section: dict[str, Any]) -> Architecture:
    return build(config(section), WIDTH, TASKS)


def ensemble(section: dict[str, Any], rates: tuple[float, ...] = RATES, **settings: Any) -> Ensemble:
    return Ensemble(lambda: make(section), TASKS, rates, seed=1, **settings)


def batches(steps: int, runs: int = len(RATES)) -> list[Batch]:
    """Random rows; the second task's space is empty in every other batch."""
    draw = torch.Generator().manual_seed(3)
    found = []
    for step in range(steps):
        x = torch.randn(runs, ROWS, WIDTH, generator=draw)
        labels = (torch.rand(runs, ROWS, len(TASKS), generator=draw) < 0.5).float()
        masks = (torch.rand(runs, ROWS, len(TASKS), generator=draw) < 0.8).float()
        masks[:, :, 1] *= step % 2
        found.append(Batch((x,), labels, masks))
    return found


def alone(model: Architecture, rate: float, run: int, given: list[Batch]) -> Tensor:
    """The ordinary loop for one run; the losses `[S, T]`."""
    objective, optimizer = Objective(ObjectiveConfig(), TASKS, 1), torch.optim.Adam(model.parameters(), rate)
    losses = []
    for batch in given:
        assert batch.masks is not None
        masks = batch.masks[run]
        logits = model(batch.inputs[0][run])
        shares = objective.task_losses(logits, batch.labels[run], masks, masks.sum(0))
        optimizer.zero_grad()
        objective(shares, 0, 0, model.penalty(), masks.sum(0)).backward()
        optimizer.step()
        losses.append(shares.detach())
    return torch.stack(losses)


@pytest.mark.parametrize("name", SMALL)
def test_every_run_of_every_architecture_ends_where_it_would_end_alone(name) -> None:
    section = SMALL[name] | {"type": name}
    together, given = ensemble(section), batches(5)
    models = [together.member(run).train() for run in range(len(RATES))]
    losses = together.train(given)
    x = torch.randn(ROWS, WIDTH)
    logits = together.predict((x,), shared=True)
    for run, (model, rate) in enumerate(zip(models, RATES, strict=True)):
        torch.testing.assert_close(losses[:, run], alone(model, rate, run, given), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits[run], model(x), rtol=1e-3, atol=1e-4)


def test_runs_start_apart_and_a_seed_fixes_where() -> None:
    section = SMALL["mmoe"] | {"type": "mmoe"}
    first, second = ensemble(section), ensemble(section)
    for name, weight in first.state().items():
        assert not torch.equal(weight[0], weight[1]), name
        torch.testing.assert_close(weight, second.state()[name], rtol=0, atol=0)


def test_drawing_weights_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    ensemble(SMALL["mmoe"] | {"type": "mmoe"})
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_dropout_and_noise_differ_between_runs_of_equal_weights() -> None:
    section = SMALL["mmoe"] | {"type": "mmoe", "dropout": 0.5}
    runs = ensemble(section, (1e-3, 1e-3))
    runs.load({name: weight[:1].expand_as(weight) for name, weight in runs.state().items()})
    x = torch.randn(4, WIDTH)
    torch.testing.assert_close(*runs.predict((x,), shared=True))  # evaluation has neither
    shared = batches(1, runs=1)[0]
    losses = runs.step(Batch((shared.inputs[0][0],), shared.labels[0], shared=True))
    assert not torch.equal(losses[0], losses[1])


def test_the_load_balancing_penalty_is_each_runs_own() -> None:
    section = SMALL["mmoe"] | {"type": "mmoe", "balance": 0.5}
    together, given = ensemble(section), batches(3)
    models = [together.member(run).train() for run in range(len(RATES))]
    losses = together.train(given)
    for run, (model, rate) in enumerate(zip(models, RATES, strict=True)):
        torch.testing.assert_close(losses[:, run], alone(model, rate, run, given), rtol=1e-4, atol=1e-5)


def test_a_run_that_diverges_harms_no_other() -> None:
    section = SMALL["shared_bottom"] | {"type": "shared_bottom"}
    healthy, mixed = ensemble(section), ensemble(section)
    given = batches(4)
    spoilt = [batch._replace(inputs=(batch.inputs[0].clone(),)) for batch in given]
    spoilt[1].inputs[0][2] = torch.nan
    expected, found = healthy.train(given), mixed.train(spoilt)
    torch.testing.assert_close(found[:, :2], expected[:, :2])
    assert found[2:, 2].isnan().any()


def test_shared_rows_are_the_same_rows_for_every_run() -> None:
    section = SMALL["cgc"] | {"type": "cgc"}
    copied, shared = ensemble(section), ensemble(section)
    own = batches(2, runs=1)[1]
    repeated = Batch(*(part.expand(3, -1, -1) for part in (own.inputs[0], own.labels, own.masks)))
    once = Batch((own.inputs[0][0],), own.labels[0], own.masks[0], shared=True)
    repeated = repeated._replace(inputs=(own.inputs[0].expand(3, -1, -1),))
    torch.testing.assert_close(shared.step(once), copied.step(repeated))
    x = torch.randn(9, WIDTH)
    in_pieces = shared.predict((x,), shared=True, rows=4)
    torch.testing.assert_close(in_pieces, copied.predict((x.expand(3, -1, -1),)), rtol=1e-4, atol=1e-5)


class Looked(nn.Module):
    """Embedding look-ups under an architecture: what a study of a table of columns trains."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, 4))
        self.architecture = build(config({"type": "l2_constrained", "bottom": [6], "tower": [4]}), 4 + WIDTH, TASKS)

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        logits: Tensor = self.architecture(torch.cat([self.table[ids], dense], dim=1))
        return logits


def test_a_table_of_columns_with_look_ups_and_batches_of_indices_for_every_run() -> None:
    draw = torch.Generator().manual_seed(4)
    ids, dense = torch.randint(0, 5, (40,), generator=draw), torch.randn(40, WIDTH, generator=draw)
    labels = (ids[:, None] > torch.tensor([0, 1, 2])).float()
    table = Batch((ids, dense), labels, torch.ones_like(labels), shared=True)
    runs = Ensemble(Looked, TASKS, [1e-2] * 4, seed=1, weight_decay=1e-4)
    rows = shuffles(40, runs=4, batch=8, seed=2)
    losses = runs.train(table.take(next(rows)) for _ in range(150))
    assert (losses[-5:].mean((0, 2)) < 0.3 * losses[:5].mean((0, 2))).all()
    assert runs.predict(table.inputs, shared=True).shape == (4, 40, 3)


def test_each_run_keeps_the_weights_of_its_own_best_step() -> None:
    runs = ensemble(SMALL["shared_bottom"] | {"type": "shared_bottom"})
    x = torch.randn(4, WIDTH)
    best, before = runs.state(), runs.predict((x,), shared=True)
    runs.train(batches(2))
    after = runs.predict((x,), shared=True)
    runs.save(best, torch.tensor([False, True, False]))
    runs.train(batches(2))
    runs.load(best)
    torch.testing.assert_close(runs.predict((x,), shared=True), torch.stack([before[0], after[1], before[2]]))


def test_a_schedule_scales_every_rate() -> None:
    runs = ensemble(SMALL["shared_bottom"] | {"type": "shared_bottom"})
    start = runs.state()
    for batch in batches(2):
        runs.step(batch, factor=0.0)
    for name, weight in runs.state().items():
        torch.testing.assert_close(weight, start[name], rtol=0, atol=0)


def test_an_epoch_shows_each_run_every_row_once_in_its_own_order() -> None:
    rows = shuffles(9, runs=2, batch=3, seed=1)
    first, second = (torch.cat([next(rows) for _ in range(3)], dim=1) for _ in range(2))
    for epoch in (first, second):
        assert epoch.sort(dim=1).values.tolist() == [list(range(9))] * 2
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("batch", [0, 4])
def test_an_order_that_fills_no_batch_is_refused(batch: int) -> None:
    with pytest.raises(ValueError, match=rf"batch: got {batch}; expected from 1 to 3"):
        next(shuffles(3, runs=2, batch=batch, seed=0))


def test_weights_that_follow_the_losses_are_refused() -> None:
    objective = ObjectiveConfig.model_validate({"weighting": {"type": "dwa"}})
    with pytest.raises(ValueError, match=r"objective\.weighting\.type: got 'dwa'; expected 'static'"):
        ensemble(SMALL["mmoe"] | {"type": "mmoe"}, objective=objective)
