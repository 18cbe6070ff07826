"""Noisy top-k gates and their load balancing, inside the networks that use them."""

from __future__ import annotations

import pytest
import torch

from ranking.nn.gates import Gates

from .conftest import GATED, STACK, inputs, network


def test_noise_is_for_training_alone() -> None:
    gates = Gates(12, gates=1, experts=4, top_k=2, noise=True)
    assert not torch.equal(gates(inputs()), gates(inputs()))
    gates.eval()
    assert torch.equal(gates(inputs()), gates(inputs()))
    plain = Gates(12, gates=1, experts=4, top_k=2)
    plain.linear.load_state_dict(gates.linear.state_dict())
    torch.testing.assert_close(gates(inputs()), plain(inputs()))


def test_an_even_gate_costs_nothing_and_a_collapsed_one_the_most() -> None:
    gates = Gates(12, gates=1, experts=4, balance=0.5)
    with torch.no_grad():
        gates.linear.weight.zero_()
    gates(inputs())
    torch.testing.assert_close(gates.take_imbalance(), torch.tensor(0.0), rtol=0, atol=1e-6)
    with torch.no_grad():
        gates.linear.weight[0] = 1e4
    x = inputs().abs()
    gates(x)
    torch.testing.assert_close(gates.take_imbalance(), torch.tensor(0.5 * 3.0))  # importance B, 0, 0, 0: CV^2 = n - 1


def test_the_load_is_the_chance_of_being_kept() -> None:
    """CV(load)^2 against the rows that keep an expert, counted over many draws of the noise."""
    torch.manual_seed(0)
    gates, x = Gates(12, gates=1, experts=5, top_k=2, noise=True, balance=1.0), inputs() + 2.0
    kept, losses = torch.zeros(5), []
    for _ in range(400):
        weights = gates(x)[:, 0]
        kept += (weights > 0).sum(0)
        losses.append(gates.take_imbalance() - squared_variation(weights.sum(0)))
    assert squared_variation(kept) > 0.1
    torch.testing.assert_close(torch.stack(losses).mean(), squared_variation(kept), rtol=0.05, atol=0)


def squared_variation(totals: torch.Tensor) -> torch.Tensor:
    return totals.var(correction=0) / totals.mean().square()


def test_an_expert_a_gate_may_not_see_has_no_load_to_balance() -> None:
    visible = torch.tensor([[True, True, False], [False, True, True]])
    gates = Gates(12, gates=2, experts=3, top_k=2, noise=True, balance=1.0, visible=visible)
    with torch.no_grad():
        gates.linear.weight.zero_()
    weights = gates(inputs())
    assert (weights[:, ~visible] == 0).all()
    imbalance = gates.take_imbalance()
    assert imbalance < 0.1
    imbalance.backward()
    assert gates.linear.weight.grad.isfinite().all()
    assert gates.spread.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", ["mmoe", "omoe", "cgc", "ple"])
def test_the_penalty_is_that_of_the_last_batch_and_is_given_once(name: str) -> None:
    model = network(GATED | {"type": name})
    assert model.penalty() is None
    model(inputs())
    penalty = model.penalty()
    assert penalty > 0
    assert model.penalty() is None
    model.eval()(inputs())
    assert model.penalty() is None
    penalty.backward()
    gates = [module for module in model.modules() if isinstance(module, Gates)]
    assert all(gate.linear.weight.grad.abs().sum() > 0 for gate in gates)


def test_balancing_evens_a_gate_out() -> None:
    model = network(STACK | {"type": "mmoe", "experts": 4, "balance": 1.0, "bottom": [8]})
    with torch.no_grad():
        model.gates.linear.weight[0] += 3.0
    uneven = model.gates(inputs())[:, 0].mean(0)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        model(inputs())
        model.penalty().backward()
        optimizer.step()
    even = model.gates(inputs())[:, 0].mean(0)
    assert even.std() < uneven.std() / 3


def test_evaluation_finds_the_gates_of_every_level() -> None:
    model = network(STACK | {"type": "ple", "levels": 2, "shared_experts": 2, "task_experts": 1})
    shapes = {
        name: m(inputs(4)).shape for name, m in model.named_modules() if isinstance(m, Gates) and "levels.0" in name
    }
    assert shapes == {"levels.0.gates": (4, 3, 5), "levels.0.shared_gate": (4, 1, 5)}


def test_vanished_noise_leaves_the_gradient_finite() -> None:
    gates = Gates(12, gates=1, experts=4, top_k=2, noise=True, balance=1.0)
    torch.nn.init.constant_(gates.spread.weight, -100.0)
    gates(inputs().abs())
    gates.take_imbalance().backward()
    assert all(parameter.grad.isfinite().all() for parameter in gates.parameters())
