"""Many small runs of one architecture at once: R independent trainings as one program, for studies and tuners."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from ranking.models.base import Architecture
from ranking.objective.loss import Objective, ObjectiveConfig
from ranking.schema import Task

State = dict[str, Tensor]


class Batch(NamedTuple):
    """Rows for R runs: each its own, `[R, B, ...]`, or `shared`, the same `[B, ...]` for all.

    Attributes:
        inputs: what the model's `forward` takes.
        labels: `[R, B, T]` or `[B, T]`.
        masks: row weights inside every task's sample space, as the labels; None: every row is in every space.
        shared: whether the tensors lack the axis of the runs.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor
    masks: Tensor | None = None
    shared: bool = False

    def take(self, rows: Tensor) -> Batch:
        """Rows of a shared table: `[R, B]` indices give each run its own, `[B]` the same to all."""
        masks = None if self.masks is None else self.masks[rows]
        return Batch(tuple(part[rows] for part in self.inputs), self.labels[rows], masks, rows.dim() == 1)


class Ensemble:
    """R models of one shape whose weights are stacked and whose steps are taken together.

    Each run has its own weights, batches, learning rate and optimizer state, and ends where it would end alone; one
    that diverges harms no other. Models are ordinary single-device modules around an `Architecture`, whose penalty
    is part of their loss. Dropout and gate noise differ between runs; they and a static task weighting are allowed,
    batch statistics and adaptive weightings are not.

    Args:
        build: makes one model with fresh weights, which may use torch's global generator.
        tasks: T tasks in the logits' order.
        rates: `[R]` learning rate of every run; equal ones side by side are cheapest.
        seed: of the initial weights.
        weight_decay: decoupled, as AdamW's; 0 is plain Adam.
        objective: shapes of the losses.

    Raises:
        ValueError: the objective's weighting is not static.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        tasks: tuple[Task, ...],
        rates: Sequence[float],
        seed: int,
        weight_decay: float = 0.0,
        objective: ObjectiveConfig | None = None,
    ) -> None:
        """Draw the initial weights."""
        objective = objective or ObjectiveConfig()
        if objective.weighting.type != "static":
            raise ValueError(f"objective.weighting.type: got {objective.weighting.type!r}; expected 'static'")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            members = [_Member(build()) for _ in rates]
        self._template = members[0]
        self.parameters, self._buffers = stack_module_state(members)
        self._objective = Objective(objective, tasks, world_size=1)
        self._chunks = [_Chunk(self.parameters, *span) for span in _spans(rates)]
        groups = [{"params": chunk.parts, "lr": chunk.rate} for chunk in self._chunks]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)
        self.runs, self.steps = len(rates), 0

    def train(self, batches: Iterable[Batch]) -> Tensor:
        """Take a step on every batch; the losses before each of them, `[S, R, T]`."""
        return torch.stack([self.step(batch) for batch in batches])

    def step(self, batch: Batch, factor: float = 1.0) -> Tensor:
        """Take one step in every run.

        Args:
            batch: its rows.
            factor: of a schedule, on every run's learning rate.

        Returns:
            `[R, T]` each task's loss before the step, without penalties.
        """
        self._template.train()
        axis = None if batch.shared else 0
        masks = torch.ones_like(batch.labels) if batch.masks is None else batch.masks
        loss = vmap(self._loss, in_dims=(0, 0, axis, axis, axis), randomness="different")
        total, shares = loss(self.parameters, self._buffers, batch.inputs, batch.labels, masks)
        torch.autograd.backward(total.sum())
        for chunk, group in zip(self._chunks, self._optimizer.param_groups, strict=True):
            chunk.take_gradients()
            group["lr"] = chunk.rate * factor
        self._optimizer.step()
        for parameter in self.parameters.values():
            parameter.grad = None
        self.steps += 1
        return shares.detach()

    @torch.no_grad()
    def predict(self, inputs: tuple[Tensor, ...], shared: bool = False, rows: int = 4096) -> Tensor:
        """Logits of every run in evaluation mode.

        Args:
            inputs: as in `Batch`.
            shared: as in `Batch`.
            rows: how many are computed at a time, which bounds memory.

        Returns:
            `[R, N, T]`.
        """
        self._template.eval()
        forward = vmap(self._logits, in_dims=(0, 0, None if shared else 0))
        pieces = zip(*(torch.split(part, rows, dim=0 if shared else 1) for part in inputs), strict=True)
        return torch.cat([forward(self.parameters, self._buffers, piece) for piece in pieces], dim=1)

    def state(self) -> State:
        """A copy of all weights by name, each `[R, ...]`."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def save(self, state: State, runs: Tensor) -> None:
        """Overwrite the chosen runs' part of an earlier copy, `[R]` bool: each run keeps its best step."""
        for name, parameter in self.parameters.items():
            state[name][runs] = parameter[runs]

    @torch.no_grad()
    def load(self, state: State) -> None:
        """Return to a copy of the weights; the optimizer's state stays."""
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])

    def member(self, run: int) -> nn.Module:
        """One run's model, an ordinary module of its own."""
        member = copy.deepcopy(self._template).eval()
        with torch.no_grad():
            for name, parameter in member.named_parameters():
                parameter.copy_(self.parameters[name][run])
        return member.model

    def _logits(self, parameters: State, buffers: State, inputs: tuple[Tensor, ...]) -> Tensor:
        logits, _ = functional_call(self._template, (parameters, buffers), inputs)
        return logits  # type: ignore[no-any-return]

    def _loss(
        self, parameters: State, buffers: State, inputs: tuple[Tensor, ...], labels: Tensor, masks: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits, penalty = functional_call(self._template, (parameters, buffers), inputs)
        counts = masks.sum(0)
        shares = self._objective.task_losses(logits, labels, masks, counts)
        return self._objective(shares, 0, self.steps, penalty, counts), shares


class _Member(nn.Module):
    """A model and its penalty in one call, so that both see the same run's weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[B, T]` and the scalar penalty."""
        logits = self.model(*inputs)
        parts = (part for part in self.model.modules() if isinstance(part, Architecture))
        terms = [term for part in parts if (term := part.penalty()) is not None]
        return logits, sum(terms, logits.new_zeros(()))


class _Chunk:
    """Neighbouring runs with one learning rate: views of the stacked weights, so that torch's own Adam serves them."""

    def __init__(self, parameters: State, start: int, stop: int, rate: float) -> None:
        self.parameters, self.span, self.rate = list(parameters.values()), slice(start, stop), rate
        self.parts = [parameter.detach()[self.span] for parameter in self.parameters]

    def take_gradients(self) -> None:
        """Point the views' gradients into what backward left; a weight that took no part has none."""
        for part, whole in zip(self.parts, self.parameters, strict=True):
            part.grad = None if whole.grad is None else whole.grad[self.span]


def shuffles(rows: int, runs: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Indices `[R, batch]` without end: each run goes through its own order of the rows, a new one every epoch.

    The last rows of an order that do not fill a batch are left out.

    Raises:
        ValueError: there are fewer rows than a batch takes.
    """
    if not 0 < batch <= rows:
        raise ValueError(f"batch: got {batch}; expected from 1 to {rows}, the rows")
    generator = torch.Generator().manual_seed(seed)
    while True:
        orders = torch.stack([torch.randperm(rows, generator=generator) for _ in range(runs)])
        yield from torch.split(orders[:, : rows // batch * batch], batch, dim=1)


def _spans(rates: Sequence[float]) -> Iterator[tuple[int, int, float]]:
    start = 0
    for rate, equal in groupby(rates):
        stop = start + len(list(equal))
        yield start, stop, rate
        start = stop
