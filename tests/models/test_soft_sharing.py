"""L2-Constrained, Cross-Stitch and Tensor-Factorization: each can be Single-Task, and how far it is from it."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ranking.models.ranker import RankingModel
from ranking.nn.tensor_factors import TuckerLinear

from .conftest import STACK, TASKS, WIDTH, assert_equal, config, give, inputs, network

SINGLE = STACK | {"type": "single_task"}


class Vectors(nn.Module):
    """Embeddings that are looked up already."""

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors.unsqueeze(1)


def test_tasks_on_their_own_share_no_crosses() -> None:
    model = RankingModel(Vectors(), network(SINGLE | {"cross_layers": 2, "cross_rank": 3}))
    logits = model(inputs()[:, :8], inputs()[:, 8:])
    weights = list(model.cross.parameters())
    for task in range(3):
        slopes = torch.autograd.grad(logits[:, task].sum(), weights, retain_graph=True)
        assert all([part.abs().sum() > 0 for part in slope] == [k == task for k in range(3)] for slope in slopes)


def test_without_a_tie_l2_constrained_is_single_task() -> None:
    tied, single = network(STACK | {"type": "l2_constrained", "alpha": 0}), network(SINGLE)
    give(single, tied)
    assert_equal(tied, single)
    assert tied.penalty() is None


def test_the_tie_is_the_squared_distance_of_every_pair() -> None:
    tied = network(STACK | {"type": "l2_constrained", "alpha": 0.3})
    networks = [torch.cat([theta[k].flatten() for theta in tied.parameters()]) for k in range(3)]
    pairs = sum((a - b).square().sum() for a, b in combinations(networks, 2))
    torch.testing.assert_close(tied.penalty(), 0.3 * pairs)


def test_the_tie_pulls_networks_together() -> None:
    tied = network(STACK | {"type": "l2_constrained", "alpha": 0.1})
    optimizer = torch.optim.SGD(tied.parameters(), 1.0)
    for _ in range(50):
        optimizer.zero_grad()
        tied.penalty().backward()
        optimizer.step()
    logits = tied(inputs())
    torch.testing.assert_close(logits, logits[:, :1].expand(-1, 3), rtol=0, atol=1e-4)


def test_identity_units_are_single_task() -> None:
    stitched, single = network(STACK | {"type": "cross_stitch", "own": 1.0}), network(SINGLE)
    units = {name: value for name, value in stitched.state_dict().items() if "stitches" in name}
    assert len(units) == 2
    stitched.load_state_dict(single.state_dict() | units)
    assert_equal(stitched, single)


def test_units_start_near_the_identity() -> None:
    unit = network(STACK | {"type": "cross_stitch"}).bottoms.stitches["1"]
    expected = torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]])
    torch.testing.assert_close(unit.alpha, expected)


def test_row_j_of_a_unit_mixes_for_task_j() -> None:
    unit, x = network(STACK | {"type": "cross_stitch"}).bottoms.stitches["1"], torch.randn(3, 5, 4)
    with torch.no_grad():
        unit.alpha[1] = torch.tensor([0.5, 2.0, -1.0])
    torch.testing.assert_close(unit(x)[1], 0.5 * x[0] + 2.0 * x[1] - x[2])


def test_a_single_task_has_nothing_to_stitch() -> None:
    unit = network(STACK | {"type": "cross_stitch"}, tasks=TASKS[:1]).bottoms.stitches["1"]
    assert unit.alpha.tolist() == [[1.0]]


def test_units_follow_the_chosen_layers() -> None:
    settings = STACK | {"type": "cross_stitch", "stitch_after": [1]}
    model, x = network(settings), inputs()
    first, second = model.bottoms.layers
    lower = model.bottoms.stitches["1"](torch.relu(first(x)))
    torch.testing.assert_close(model(x), model.towers(torch.relu(second(lower))))


@pytest.mark.parametrize("layers", [[0], [3], [1, 1]])
def test_layers_that_do_not_exist_are_refused(layers: list[int]) -> None:
    with pytest.raises(ValidationError, match=r"stitch_after: got \[.*expected some of \[1, 2\], each once"):
        config(STACK | {"type": "cross_stitch", "stitch_after": layers})


@torch.no_grad()
def test_full_ranks_can_be_any_independent_layers() -> None:
    full = network(STACK | {"type": "tensor_factorization", "ranks": [99, 99, 99]})
    single = network(SINGLE)
    full.towers.load_state_dict(single.towers.state_dict())
    for own, other in zip(full.bottoms.layers, single.bottoms.layers, strict=True):
        own.core.copy_(other.weight.permute(2, 1, 0))
        for factor in (own.input_factor, own.output_factor, own.task_factor):
            factor.copy_(torch.eye(len(factor)))
        own.bias.copy_(other.bias)
    assert_equal(full, single)


def test_a_layer_is_the_tucker_sum() -> None:
    layer = network(STACK | {"type": "tensor_factorization", "ranks": [5, 4, 2]}).bottoms.layers[0]
    factors = (layer.core, layer.input_factor, layer.output_factor, layer.task_factor)
    weight = torch.einsum("abc,ma,nb,tc->tmn", *factors)
    x = inputs()
    torch.testing.assert_close(layer(x), x @ weight + layer.bias.unsqueeze(1))
    assert [tuple(factor.shape) for factor in factors] == [(5, 4, 2), (WIDTH, 5), (16, 4), (3, 2)]


def test_rank_one_tasks_share_their_layer_up_to_a_factor() -> None:
    layer = network(STACK | {"type": "tensor_factorization", "ranks": [8, 8, 1]}).bottoms.layers[0]
    with torch.no_grad():
        layer.bias.zero_()
    outputs = layer(inputs()) / layer.task_factor.unsqueeze(1)
    torch.testing.assert_close(outputs, outputs[:1].expand(3, -1, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ranks", [(16, 16, 2), (2, 2, 1), (99, 99, 99)])
def test_layers_start_as_wide_as_ordinary_ones(ranks: tuple[int, int, int]) -> None:
    """The variance of an output is a third of the inputs', as `nn.Linear` has it, at any rank."""
    torch.manual_seed(0)
    layers = [TuckerLinear(3, 16, 64, ranks) for _ in range(40)]
    spread = [(layer(torch.randn(50, 16)) - layer.bias.unsqueeze(1)).var() for layer in layers]
    assert 0.2 < torch.stack(spread).mean() < 0.5
