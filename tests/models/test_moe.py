"""OMoE and MMoE: what they become at their limits, and how they stack."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from .conftest import STACK, assert_equal, config, inputs, network


@pytest.mark.parametrize("name", ["omoe", "mmoe"])
def test_one_expert_is_shared_bottom(name: str) -> None:
    mixture, shared = network(STACK | {"type": name, "experts": 1}), network(STACK | {"type": "shared_bottom"})
    weights = shared.state_dict()
    top = {part: weights.pop(f"bottom.layers.1.{part}").unsqueeze(0) for part in ("weight", "bias")}
    weights |= {f"experts.layers.0.{part}": value for part, value in top.items()}
    mixture.load_state_dict(weights | {"gates.linear.weight": mixture.gates.linear.weight})
    assert_equal(mixture, shared)


@pytest.mark.parametrize("more", [{}, {"gate_input": "features"}, {"top_k": 2}, {"moe_layers": 2}])
def test_equal_gates_are_one_gate(more: dict[str, object]) -> None:
    settings = STACK | {"experts": 3} | more
    many, one = network(settings | {"type": "mmoe"}), network(settings | {"type": "omoe"})
    gate = one.gates.linear.weight
    many.load_state_dict(one.state_dict() | {"gates.linear.weight": gate.repeat(3, 1)})
    assert_equal(many, one)


def test_keeping_all_experts_is_a_dense_gate() -> None:
    settings = STACK | {"type": "mmoe", "experts": 3}
    assert_equal(network(settings | {"top_k": 3}), network(settings))


@pytest.mark.parametrize("gate_input", ["bottom", "features"])
def test_a_stack_hands_the_mixture_of_a_layer_to_the_next(gate_input: str) -> None:
    settings = {"bottom": [20, 16, 8], "experts": 3, "moe_layers": 2, "gate_input": gate_input}
    model = network(STACK | settings | {"type": "mmoe"})
    x = inputs()
    hidden = model.bottom(x)
    (lower,) = model.stack
    read = x if gate_input == "features" else hidden
    mixed = torch.einsum("bn,nbh->bh", lower.gates(read)[:, 0], lower.experts(hidden))
    read = x if gate_input == "features" else mixed
    towers = torch.einsum("bkn,nbh->kbh", model.gates(read), model.experts(mixed))
    torch.testing.assert_close(model(x), model.towers(towers))
    assert [model.bottom.outputs, lower.experts.outputs, model.experts.outputs] == [20, 16, 8]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"top_k": 9}, "top_k: got 9 with 8 experts"), ({"moe_layers": 3}, "moe_layers: got 3; expected at most the 2")],
)
def test_what_does_not_fit_is_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(STACK | {"type": "mmoe"} | wrong)
