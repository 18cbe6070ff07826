"""Entire Space Multi-Task Model: conversion after the click, learned over all exposures [ESMM]."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ranking.errors import InputError
from ranking.models.base import Architecture, ArchitectureConfig, Width, last_of
from ranking.nn.mlp import MLP
from ranking.schema import Name, Task


class ESMMConfig(ArchitectureConfig):
    """A tower pCTR and a tower pCVR for every conversion, over shared embeddings.

    The schema says what the losses need. The click is an ordinary task over the exposures. A conversion task is
    "click & conversion" over the same space, so its label is a conjunction that contains the click's:

        - {name: click, label: is_click}
        - {name: purchase, label: is_click & is_purchase}

    A conversion declared `given: click` is refused: its loss would be taken over clicks alone, which is what ESMM
    is there to avoid. So is a plain `is_purchase`: that it implies the click could not be known from the schema.
    """

    type: Literal["esmm"] = "esmm"
    bottom: tuple[Width, ...] = Field((), description="Widths of layers all towers share; none in the paper.")
    tower: tuple[Width, ...] = Field((128, 64), description="Hidden widths of the towers that `towers` does not name.")
    towers: dict[Name, tuple[Width, ...]] = Field({}, description="Hidden widths of a task's own tower, by name.")
    click: Name = Field("click", description="The click's task; every other task is a conversion.")


class ESMM(Architecture):
    """pCTCVR = pCTR * pCVR: the click's column is the logit of pCTR, a conversion's the logit of pCTCVR.

    With the tasks' labels as `ESMMConfig` demands them the joint loss is the paper's, BCE(click, pCTR) +
    BCE(click & conversion, pCTCVR) over all exposures. pCVR is pCTCVR / pCTR of the served columns, see `pcvr`.
    """

    Config = ESMMConfig

    def __init__(self, config: ESMMConfig, width: int, tasks: tuple[Task, ...]) -> None:
        """Build shared layers and a tower for every task."""
        super().__init__(config, width, tasks)
        self.click = next(i for i, task in enumerate(tasks) if task.name == config.click)
        self.bottom = MLP(width, config.bottom, config.dropout)
        self.towers = nn.ModuleList(self._tower(config.towers.get(task.name, config.tower)) for task in tasks)

    @classmethod
    def check(cls, config: ESMMConfig, tasks: tuple[Task, ...]) -> None:
        """Every task but the click's must imply the click, over the click's space."""
        names = [task.name for task in tasks]
        for path, name in [("click", config.click), *((f"towers.{name}", name) for name in config.towers)]:
            if name not in names:
                raise InputError(f"model.{path}: unknown task {name!r}; expected one of {names}")
        click = tasks[names.index(config.click)]
        for task in tasks:
            _require_conversion(task, click)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, D]` to `[B, T]`."""
        hidden = self.bottom(x)
        logits = torch.cat([tower(hidden) for tower in self.towers], dim=1).float()
        click = logits[:, self.click : self.click + 1]
        joint = joint_logit(click, logits)
        is_click = torch.arange(logits.shape[1], device=logits.device) == self.click
        return torch.where(is_click, click, joint)

    def pcvr(self, logits: Tensor) -> Tensor:
        """Probability of a conversion given the click.

        Args:
            logits: `[B, T]` as `forward` returns them.

        Returns:
            `[B, T]`; 1 in the click's own column.
        """
        log_p = functional.logsigmoid(logits)
        return torch.exp(log_p - log_p[:, self.click : self.click + 1])

    def shared_layer(self) -> tuple[tuple[nn.Parameter, slice], ...]:
        """The bottom's top layer."""
        return last_of(self.bottom.layers)

    def _tower(self, widths: tuple[int, ...]) -> nn.Module:
        hidden = MLP(self.bottom.outputs, widths, self.config.dropout)
        return nn.Sequential(hidden, nn.Linear(hidden.outputs, 1))


def joint_logit(a: Tensor, b: Tensor) -> Tensor:
    """Logit of sigmoid(a) * sigmoid(b), element by element, without leaving log space.

    p = 1 / ((1 + e^-a)(1 + e^-b)) has the odds p / (1 - p) = 1 / (e^-a + e^-b + e^-(a+b)).
    """
    return -torch.logaddexp(torch.logaddexp(-a, -b), -a - b)


def _require_conversion(task: Task, click: Task) -> None:
    if task.loss != "bce":
        raise InputError(f"task {task.name!r}: loss: got {task.loss!r}; expected bce, as model.type esmm needs")
    if task is click:
        return
    if task.given != click.given:
        expected = f"{click.given!r}, the space of {click.name!r}: esmm learns conversions over all exposures"
        raise InputError(f"task {task.name!r}: given: got {task.given!r}; expected {expected}")
    if not task.label.implies(click.label):
        example = f"'{click.label} & ...': a conversion of model.type esmm must imply the click"
        raise InputError(f"task {task.name!r}: label: got '{task.label}'; expected {example}")
