from __future__ import annotations

import torch

from ranking.nn.gates import Gates, mix


def test_every_gate_is_a_softmax_of_its_own_matrix() -> None:
    gates = Gates(5, gates=2, experts=3)
    x = torch.randn(7, 5)
    weights = gates(x)
    assert weights.shape == (7, 2, 3)
    for gate in range(2):
        matrix = gates.linear.weight[gate * 3 : gate * 3 + 3]
        torch.testing.assert_close(weights[:, gate], torch.softmax(x @ matrix.t(), dim=1))


def test_top_k_keeps_the_largest_and_renormalises() -> None:
    dense, sparse = Gates(5, gates=2, experts=4), Gates(5, gates=2, experts=4, top_k=2)
    sparse.load_state_dict(dense.state_dict())
    x = torch.randn(9, 5)
    full, kept = dense(x), sparse(x)
    assert ((kept > 0).sum(-1) == 2).all()
    torch.testing.assert_close(kept.sum(-1), torch.ones(9, 2))
    largest = full.topk(2, dim=-1)
    torch.testing.assert_close(kept.gather(-1, largest.indices), largest.values / largest.values.sum(-1, keepdim=True))


def test_a_single_kept_expert_is_weighed_by_its_probability_among_the_visible_ones() -> None:
    visible = torch.tensor([[True, True, True, False], [False, True, True, True]])
    gates = Gates(5, gates=2, experts=4, top_k=1, balance=1.0, visible=visible)
    x = torch.randn(9, 5)
    weights = gates(x)
    logits = (x @ gates.linear.weight.t()).view(9, 2, 4).masked_fill(~visible, -torch.inf)
    largest = torch.softmax(logits, -1).max(-1)
    torch.testing.assert_close(weights.sum(-1), largest.values)
    torch.testing.assert_close(weights.gather(-1, largest.indices.unsqueeze(-1)).squeeze(-1), largest.values)
    for term in (weights.sum(), gates.take_imbalance()):
        (slope,) = torch.autograd.grad(term, gates.linear.weight, retain_graph=True)
        assert slope.isfinite().all()
        assert slope.view(2, 4, 5)[visible].abs().sum() > 0.01


def test_mix_is_the_weighted_sum_of_experts() -> None:
    weights, experts = torch.rand(7, 2, 3), torch.randn(3, 7, 4)
    expected = torch.stack([sum(weights[:, k, i, None] * experts[i] for i in range(3)) for k in range(2)])
    torch.testing.assert_close(mix(weights, experts), expected)
