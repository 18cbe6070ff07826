"""CGC and PLE: what they become at their limits, and who sees whom."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from ranking.errors import InputError

from .conftest import STACK, assert_equal, config, give, inputs, network

LEVEL = {"experts": "levels.0.experts", "gates": "levels.0.gates"}
MIXED = STACK | {"shared_experts": 2, "task_experts": {"click": 1, "like": 2, "buy": 0}}


@pytest.mark.parametrize("name", ["cgc", "ple"])
def test_without_task_experts_a_level_is_mmoe(name: str) -> None:
    levels = {"levels": 1} if name == "ple" else {}
    extraction = network(STACK | {"type": name, "shared_experts": 3, "task_experts": 0} | levels)
    mmoe = network(STACK | {"type": "mmoe", "experts": 3})
    give(mmoe, extraction, LEVEL)
    assert_equal(extraction, mmoe)


@pytest.mark.parametrize("more", [{}, {"top_k": 1}])
def test_one_level_of_ple_is_cgc(more: dict[str, int]) -> None:
    ple, cgc = network(MIXED | more | {"type": "ple", "levels": 1}), network(MIXED | more | {"type": "cgc"})
    give(cgc, ple)
    assert_equal(ple, cgc)


def test_a_gate_sees_its_own_and_the_shared_experts() -> None:
    model = network(MIXED | {"type": "cgc"})
    weights = model.levels[0].gates(model.bottom(inputs()))
    seen = [[1, 0, 0, 1, 1], [0, 1, 1, 1, 1], [0, 0, 0, 1, 1]]  # click | like, like | shared, shared
    assert (weights > 0).all(dim=0).tolist() == [[bool(place) for place in row] for row in seen]
    torch.testing.assert_close(weights.sum(-1), torch.ones(64, 3))


def test_experts_of_another_task_change_nothing() -> None:
    model = network(MIXED | {"type": "cgc"})
    before = model(inputs())
    with torch.no_grad():
        model.levels[0].experts.layers[0].weight[1:3] += 1.0  # like's
    moved = (model(inputs()) - before).abs().amax(0) > 0
    assert moved.tolist() == [False, True, False]


def test_levels_pass_branches_on_as_defined() -> None:
    """Level 2 by hand: each expert reads its branch, each gate too, the shared branch's gate saw every expert."""
    model = network(MIXED | {"type": "ple", "levels": 2})
    first, last = model.levels
    x = inputs()
    outputs = first.experts(x)
    weights = torch.cat([first.gates(x), first.shared_gate(x)], dim=1)
    branches = torch.einsum("bkn,nbh->kbh", weights, outputs)
    owners = [0, 1, 1, 3, 3]
    layer = last.experts.layers[0]
    experts = [torch.relu(branches[owner] @ layer.weight[i].t() + layer.bias[i]) for i, owner in enumerate(owners)]
    mixed = []
    for task, seen in enumerate([[0, 3, 4], [1, 2, 3, 4], [3, 4]]):
        logits = branches[task] @ last.gates.linear.weight.view(3, 5, -1)[task, seen].t()
        share = torch.softmax(logits, dim=1)
        mixed.append(sum(share[:, n, None] * experts[i] for n, i in enumerate(seen)))
    torch.testing.assert_close(model(x), model.towers(torch.stack(mixed)))


def test_the_shared_branch_mixes_every_expert_by_a_gate_of_its_own() -> None:
    middle = network(MIXED | {"type": "ple", "levels": 3, "bottom": [16, 8, 8]}).levels[1]
    branches = torch.randn(4, 7, 16)
    experts = middle.experts(branches[[0, 1, 1, 3, 3]])
    share = torch.softmax(branches[3] @ middle.shared_gate.linear.weight.t(), dim=1)
    torch.testing.assert_close(middle(branches)[3], torch.einsum("bn,nbh->bh", share, experts))


def test_the_last_level_has_task_gates_only() -> None:
    levels = network(MIXED | {"type": "ple", "levels": 2}).levels
    assert [level.shared_gate is None for level in levels] == [False, True]


def test_the_stack_keeps_its_widths() -> None:
    model = network(MIXED | {"type": "ple", "levels": 2, "bottom": [20, 16, 8], "expert_hidden": [5]})
    assert [model.bottom.outputs, *(level.experts.outputs for level in model.levels)] == [20, 16, 8]


def test_more_levels_than_layers_are_refused() -> None:
    with pytest.raises(ValidationError, match="levels: got 3; expected at most the 2 layers of bottom"):
        config(MIXED | {"type": "ple", "levels": 3})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"task_experts": {"click": 1}}, r"model\.task_experts: got .*\['buy', 'click', 'like'\]"),
        ({"task_experts": -1}, r"model\.task_experts: got -1"),
        ({"task_experts": 4097}, r"model\.task_experts: got 4097; expected a number from 0 to 4096"),
        ({"task_experts": {"click": 1, "like": 4097, "buy": 1}}, r"model\.task_experts: got .*from 0 to 4096"),
        ({"top_k": 3}, r"model\.top_k: got 3; expected at most the 2 a gate sees"),
    ],
)
def test_settings_that_do_not_fit_the_tasks_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        network(MIXED | {"type": "cgc"} | wrong)
