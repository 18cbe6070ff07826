"""One small configuration of every architecture, and the tasks they all take."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from ranking.models.base import Architecture
from ranking.models.zoo import ModelConfig, build
from ranking.schema import Task

WIDTH = 12
STACK: dict[str, Any] = {"bottom": [16, 8], "tower": [6]}
GATED = STACK | {"top_k": 2, "noise": True, "balance": 0.1}
SMALL: dict[str, dict[str, Any]] = {
    "single_task": STACK,
    "shared_bottom": STACK,
    "l2_constrained": STACK | {"alpha": 1e-4},
    "cross_stitch": STACK,
    "tensor_factorization": STACK | {"ranks": [8, 8, 2]},
    "omoe": STACK | {"experts": 3},
    "mmoe": STACK | {"experts": 3},
    "cgc": STACK | {"shared_experts": 2, "task_experts": 1},
    "ple": STACK | {"shared_experts": 2, "task_experts": {"click": 1, "like": 2, "buy": 0}},
    "esmm": {"tower": [8], "towers": {"buy": [6, 4]}},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "single_task over crosses": STACK | {"type": "single_task", "cross_layers": 1, "cross_rank": 3},
    "mmoe stacked, noisy top-k": GATED | {"type": "mmoe", "experts": 4, "moe_layers": 2, "gate_input": "features"},
    "mmoe over crosses": STACK | {"type": "mmoe", "experts": 3, "cross_layers": 2, "cross_rank": 3},
    "ple of three levels, noisy top-k": GATED | {"type": "ple", "levels": 3, "bottom": [16, 12, 8], "task_experts": 1},
}
CASES: dict[str, dict[str, Any]] = {name: section | {"type": name} for name, section in SMALL.items()} | VARIANTS
TASKS = tuple(
    Task.model_validate(task)
    for task in (
        {"name": "click", "label": "clicked"},
        {"name": "like", "label": "clicked & liked"},
        {"name": "buy", "label": "bought & clicked"},
    )
)


def config(section: dict[str, Any]) -> Any:
    return TypeAdapter(ModelConfig).validate_python(section)


def network(section: dict[str, Any], width: int = WIDTH, tasks: tuple[Task, ...] = TASKS) -> Architecture:
    torch.manual_seed(1)
    return build(config(section), width, tasks)


def inputs(rows: int = 64) -> Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(0))


def give(source: nn.Module, target: nn.Module, renamed: dict[str, str] | None = None) -> None:
    """Give `target` the weights of `source`; `renamed` says what the target calls a module of the source."""
    weights = source.state_dict()
    for old, new in (renamed or {}).items():
        for name in [name for name in weights if name.startswith(old)]:
            weights[new + name.removeprefix(old)] = weights.pop(name)
    target.load_state_dict(weights)


def assert_equal(left: nn.Module, right: nn.Module) -> None:
    """Exactly the same function, up to 1e-6."""
    torch.testing.assert_close(left(inputs()), right(inputs()), rtol=0, atol=1e-6)
