"""The dense optimizer, the fused one beside it, and one learning-rate schedule over both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.optimizers import in_backward_optimizer_filter

from ranking.distributed.embeddings import TableOptimizer
from ranking.training.config import DenseOptimizerConfig, OptimizerConfig, ScheduleConfig
from ranking.training.layout import TensorLayout, fused_layout, layout_of, row_wise_layout

_SECOND = "exp_avg_sq"
"""The state that tells Adam from the others."""


def factor(config: ScheduleConfig, step: int, total: int) -> float:
    """The schedule's factor for the update number `step` (0-based) of `total`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = min(1.0, (step - config.warmup_steps) / max(1, total - config.warmup_steps))
    if config.type == "constant":
        return 1.0
    shape = 1 - done if config.type == "linear" else (1 + math.cos(math.pi * done)) / 2
    return config.final_factor + (1 - config.final_factor) * shape


class Optimizers:
    """Every optimizer of a sharded model, driven together.

    Tables are updated inside `backward()` by FBGEMM; what is left (dense parameters, data-parallel tables) is
    updated by `step()`.

    Args:
        model: the sharded model.
        config: the `optimizer` section.
        total_steps: steps of the whole run, for the schedule.
        tables: what `fuse_optimizers` left to be done here.
    """

    def __init__(
        self,
        model: DistributedModelParallel,
        config: OptimizerConfig,
        total_steps: int,
        tables: Mapping[str, TableOptimizer] = MappingProxyType({}),
    ) -> None:
        """Split the parameters and set the rates of step 0."""
        self.config, self.total = config, total_steps
        self.fused = model.fused_optimizer
        self.updates = torch.zeros(())  # on the host; FBGEMM's own count is no part of its state
        left = dict(in_backward_optimizer_filter(model.named_parameters()))
        self.names = {parameter: name for name, parameter in left.items()}
        self.dense_parameters = [p for name, p in left.items() if "embedding_bags." not in name]
        self.local = [_dense(self.dense_parameters, config.dense)]
        for name, parameter in left.items():
            if "embedding_bags." in name:
                table = tables["embedding_bags." + name.rsplit("embedding_bags.", 1)[-1]]
                self.local.append(table.kind([parameter], **table.settings))
        self._fused_base = [group["lr"] for group in self.fused.param_groups]
        self._local_base = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.local]
        self._scale: float | None = None
        self.set_rates(0)

    def set_rates(self, step: int) -> None:
        """Put the schedule's rates for update number `step` in force, in the fused optimizers too."""
        scale = factor(self.config.schedule, step, self.total)
        if scale == self._scale:
            return
        self._scale = scale
        for group, base in zip(self.fused.param_groups, self._fused_base, strict=True):
            group["lr"] = base * scale
        self.fused.step()  # hands the rate to FBGEMM; the update itself happens in backward
        for optimizer, bases in zip(self.local, self._local_base, strict=True):
            for group, base in zip(optimizer.param_groups, bases, strict=True):
                group["lr"] = base * scale

    def zero_grad(self) -> None:
        """Drop the gradients of the last step."""
        for optimizer in self.local:
            optimizer.zero_grad()

    def step(self) -> None:
        """Update what backward has not updated already."""
        if self.config.dense.clip_norm:
            nn.utils.clip_grad_norm_(self.dense_parameters, self.config.dense.clip_norm)
        for optimizer in self.local:
            optimizer.step()
        self.updates += 1

    def tensors(self) -> dict[str, TensorLayout]:
        """All optimizer state by stable names, in place: what a checkpoint saves and loads into."""
        state: dict[str, TensorLayout] = {}
        for name, weight in self.fused.params.items():
            own = {key.rsplit(".", 1)[-1]: value for key, value in self.fused.state[weight].items()}
            state |= {f"{name}/{_name(key, own)}": fused_layout(value, weight) for key, value in own.items()}
            if _SECOND in own:
                state[f"{name}/step"] = layout_of(self.updates)
        for optimizer in self.local:
            for parameter, entries in _initialised(optimizer):
                name = self.names[parameter]
                state |= {f"{name}/{key}": value for key, value in _laid(optimizer, parameter, entries)}
        return state

    def loaded(self) -> None:
        """Carry on with what was loaded into `tensors`: FBGEMM counts the updates of Adam's bias correction itself."""
        self.fused.set_optimizer_step(int(self.updates))


def _name(key: str, keys: Iterable[str]) -> str:
    """Torch's own name for a fused optimizer's state; TorchRec calls whatever comes first `momentum1`."""
    return key if key != "momentum1" else "exp_avg" if _SECOND in keys else "sum"


def _laid(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter, entries: Mapping[str, Any]
) -> Iterator[tuple[str, TensorLayout]]:
    """State of one parameter; Adagrad's step matters to a decay of its own only, and fused tables have none."""
    adagrad = isinstance(optimizer, RowWiseAdagrad | torch.optim.Adagrad)
    for key, value in entries.items():
        if isinstance(value, Tensor) and not (adagrad and key == "step"):
            yield key, row_wise_layout(value, parameter) if isinstance(optimizer, RowWiseAdagrad) else layout_of(value)


def _dense(parameters: list[nn.Parameter], config: DenseOptimizerConfig) -> torch.optim.Optimizer:
    if config.type == "sgd":
        return torch.optim.SGD(parameters, config.learning_rate, config.momentum, weight_decay=config.weight_decay)
    kind = torch.optim.Adam if config.type == "adam" else torch.optim.AdamW
    return kind(
        parameters, config.learning_rate, config.betas, config.eps, weight_decay=config.weight_decay, fused=True
    )


def _initialised(optimizer: torch.optim.Optimizer) -> Iterator[tuple[nn.Parameter, dict[str, Any]]]:
    """State of every parameter, created where no step has been taken, so that a checkpoint can load into it."""
    missing = [p for group in optimizer.param_groups for p in group["params"] if not optimizer.state[p]]
    for parameter in missing:
        optimizer.state[parameter] = _fresh_state(optimizer, parameter)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield parameter, optimizer.state[parameter]


def _fresh_state(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    if isinstance(optimizer, torch.optim.SGD):
        return {"momentum_buffer": torch.zeros_like(parameter)} if optimizer.defaults["momentum"] else {}
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
    }
