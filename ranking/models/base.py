"""The contract every architecture keeps (contract 1): single-device code from `[B, D]` to logits `[B, T]`."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ranking.nn.gates import Gates, take_imbalance
from ranking.schema import Frozen, Task

Width = Annotated[int, Field(ge=1, le=1 << 20)]
"""Outputs of a layer."""


class ArchitectureConfig(Frozen):
    """What every architecture's YAML section has in common."""

    type: str
    bottom: tuple[Width, ...] = Field((256, 128), description="Widths of the shared-bottom stack, lowest layer first.")
    tower: tuple[Width, ...] = Field((64,), description="Hidden widths of every task's tower.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout after every hidden layer.")
    embedding_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the embedding vectors.")
    cross_layers: int = Field(0, ge=0, le=64, description="Layers of feature crossing below it, as DCN-V2's.")
    cross_rank: int = Field(32, ge=1, le=1 << 20, description="Rank of a cross layer's weights.")


class Architecture(nn.Module):
    """One multi-task network; it never sees a device, a rank or the world.

    Args:
        config: its YAML section.
        width: D, the width of x.
        tasks: the tasks in schema order; T of them.

    Raises:
        InputError: the configuration does not fit the tasks.
    """

    Config: ClassVar[type[ArchitectureConfig]]

    def __init__(self, config: Any, width: int, tasks: tuple[Task, ...]) -> None:
        """Remember the common settings."""
        super().__init__()
        self.check(config, tasks)
        self.config, self.width, self.tasks = config, width, tasks

    @classmethod
    def check(cls, config: Any, tasks: tuple[Task, ...]) -> None:
        """Raise InputError where the configuration does not fit the tasks; most fit any."""

    @classmethod
    def prefixes(cls, config: Any, tasks: tuple[Task, ...]) -> tuple[str, ...]:
        """Prefix of each copy of the embedding tables: one shared copy unless the architecture says otherwise."""
        return ("",)

    @classmethod
    def inputs(cls, config: Any, tasks: tuple[Task, ...]) -> int:
        """P copies of x, each crossed by weights of its own: as many as `prefixes`, or one for every task."""
        return len(cls.prefixes(config, tasks))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every task.

        Args:
            x: `[B, D]`, or `[B, P, D]` where `inputs` asks for P > 1 copies.

        Returns:
            `[B, T]`, columns in schema order.
        """
        raise AssertionError(f"{type(self).__name__} has no forward")

    def penalty(self) -> Tensor | None:
        """A term added to the loss; None without one. Asked for once after every forward.

        It may depend on the parameters alone, and is then the same on every rank, or on the batch of the last forward
        in training mode, such as the load balancing of gates that is the default: DDP then averages it over the
        ranks, each of which balances its own part of the batch. It is computed in float32, under autocast too.
        """
        return take_imbalance(self) if self._balances else None

    def shared_layer(self) -> tuple[tuple[nn.Parameter, slice], ...]:
        """The last layer that several tasks share, where their gradients meet.

        Returns:
            Its parameters, each with the part of its first axis that is shared; none where the tasks share embeddings
            at most.
        """
        return ()

    @cached_property
    def _balances(self) -> bool:
        return any(isinstance(part, Gates) and part.balance > 0 for part in self.modules())


def last_of(layers: nn.ModuleList) -> tuple[tuple[nn.Parameter, slice], ...]:
    """All parameters of the last of some layers that are shared as a whole; none where there is no layer."""
    return tuple((parameter, slice(None)) for layer in layers[-1:] for parameter in layer.parameters())


def predictions(logits: Tensor, tasks: tuple[Task, ...]) -> Tensor:
    """Probabilities of binary tasks, values of regression tasks.

    Args:
        logits: `[B, T]`.
        tasks: T tasks in the columns' order.

    Returns:
        `[B, T]` float64: in float32 a probability is 1, and ties with its like, from a logit of 17 on.
    """
    values = logits.to(torch.float64, copy=True)
    for column, task in enumerate(tasks):
        if task.kind == "binary":
            values[:, column].sigmoid_()
    return values
