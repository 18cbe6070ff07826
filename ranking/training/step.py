"""One training step: the module that computes the loss, and the pipelines that drive it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from ranking.batch import RankingBatch
from ranking.distributed.collectives import all_gather, collective_error
from ranking.distributed.world import World
from ranking.models.ranker import RankingModel
from ranking.objective.loss import Objective
from ranking.training.optimizer import Optimizers


@dataclass(frozen=True)
class Output:
    """What a step leaves behind.

    Attributes:
        batch: the batch it was taken on; carries the position.
        shares: `[T]` this rank's share of every task's loss.
        logits: `[B, T]`.
    """

    batch: RankingBatch
    shares: Tensor
    logits: Tensor


class TrainStep(nn.Module):
    """Batch to loss; the part of a step that is differentiated.

    Args:
        model: embeddings and architecture.
        objective: the masked loss.
        precision: `fp32`, or `bf16` to train the network under autocast; loss and evaluation stay in float32.
    """

    def __init__(self, model: RankingModel, objective: Objective, precision: str) -> None:
        """Join model and objective."""
        super().__init__()
        self.model, self.objective, self.precision = model, objective, precision
        objective.weighting.attach(model.architecture.shared_layer)

    def forward(self, batch: RankingBatch) -> tuple[Tensor, Output]:
        """The scalar loss and what the step leaves behind."""
        with self._autocast():
            logits = self.model(batch.sparse, batch.dense)
        shares = self.objective.task_losses(logits, batch.labels, batch.masks, batch.counts)
        penalty = self.model.architecture.penalty()
        loss = self.objective(shares, batch.epoch, batch.step, penalty, batch.counts)
        return loss, Output(batch, shares.detach(), logits.detach())

    def _autocast(self) -> AbstractContextManager[None]:
        device = next(self.model.architecture.parameters()).device  # TorchRec's pipeline traces with a stand-in batch
        return torch.autocast(device.type, torch.bfloat16, enabled=self.training and self.precision == "bf16")


class Pipeline(Protocol):
    """Takes one step a call."""

    def progress(self, batches: Iterator[RankingBatch]) -> Output:
        """Take the next step; StopIteration when the batches are used up."""

    def paused(self) -> AbstractContextManager[None]:
        """While it lasts the model may be called directly, as an evaluation does."""

    def close(self) -> None:
        """End; from here on the model may be called directly."""


class EagerPipeline:
    """Copy, forward, backward, update: one step after the other.

    What the ranks ask each other travels while they compute: whether the loss is finite while the network's gradients
    are computed, up to where backward reaches the tables, which are written inside it; the ids of the next batch
    during the step.
    """

    def __init__(
        self, model: DistributedModelParallel, optimizers: Optimizers, world: World, place: Callable[[int], str] = str
    ) -> None:
        """Remember what a step needs; `place` names where a row of the manifest lies."""
        self.model, self.optimizers, self.world, self.place = model, optimizers, world, place
        self._question: Callable[[], None] | None = None
        self._next: RankingBatch | None = None
        embeddings = model.module.model.embeddings
        self._exchange = embeddings.exchange_ahead() if world.size > 1 else None
        self._hook = embeddings.register_forward_hook(self._listen)

    def progress(self, batches: Iterator[RankingBatch]) -> Output:
        """Take the next step; with several ranks the batch after it is fetched, too.

        Raises:
            StopIteration: the batches are used up.
            InputError: the loss is not finite on some rank, with the step and a row's place; nothing was updated.
        """
        batch = self._fetch(batches)
        self.optimizers.set_rates(batch.step)
        self.optimizers.zero_grad()
        loss, output = self.model(batch)
        self._question = self._is_finite(loss.detach(), output)
        if self._exchange and self._next:
            self._exchange.send()
        loss.backward()
        self._settle()  # backward does not reach tables where there are none
        self.optimizers.step()
        return output  # type: ignore[no-any-return]

    def paused(self) -> AbstractContextManager[None]:
        """Nothing is under way between two steps."""
        return nullcontext()

    def close(self) -> None:
        """Ask no more."""
        self._hook.remove()

    def _fetch(self, batches: Iterator[RankingBatch]) -> RankingBatch:
        device = self.world.device
        batch = self._next or next(batches).to(device)
        if self._exchange:
            following = next(batches, None)
            self._next = following and following.to(device)
            if self._next:
                self._exchange.start(self._next.sparse)
        return batch

    def _is_finite(self, loss: Tensor, output: Output) -> Callable[[], None]:
        """Begin to ask all ranks; calling what it returns waits for their answer, and raises where one says no."""
        answer = self.world.batched_all_reduce.add((~torch.isfinite(loss)).double().view(1))
        self.world.batched_all_reduce.start()
        return partial(self._require_finite, answer, loss, output)

    def _require_finite(self, answer: Callable[[], Tensor], loss: Tensor, output: Output) -> None:
        if not answer().item():
            return
        losses, places = zip(*all_gather((loss.item(), self._suspect(output)), self.world), strict=True)
        raise collective_error(
            f"step {output.batch.step}: the loss is not finite (by rank: {list(losses)}; first in "
            f"{next(filter(None, places), 'no row')}); expected finite features, labels and weights: lower "
            "the learning rate or run doctor",
            self.world,
        )

    def _suspect(self, output: Output) -> str:
        """Where the first row lies that has no finite prediction, or loss in a task's space; "" where all have both."""
        batch, objective = output.batch, self.model.module.objective
        losses = objective.row_losses(output.logits, batch.labels, batch.masks)
        suspects = ~torch.isfinite(torch.cat([output.logits, losses], dim=1)).all(1) & batch.rows.real
        return self.place(int(output.batch.rows.index[suspects][0])) if suspects.any() else ""

    def _listen(self, _embeddings: nn.Module, _ids: object, vectors: Tensor) -> None:
        if vectors.requires_grad:
            vectors.register_hook(self._settle)  # type: ignore[no-untyped-call]

    def _settle(self, _gradients: object = None) -> None:
        question, self._question = self._question, None
        if question is not None:
            question()


class _Rates(torch.optim.Optimizer):
    """The optimizers behind the one-optimizer interface of TorchRec's pipeline."""

    def __init__(self, optimizers: Optimizers) -> None:
        """Wrap them; the base class only wants a parameter to hold."""
        super().__init__([torch.zeros(1, requires_grad=True)], {})
        self.optimizers = optimizers

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop gradients."""
        self.optimizers.zero_grad()

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Update the dense part."""
        self.optimizers.step()


class OverlappedPipeline:
    """TorchRec's pipeline on CUDA: copy and input exchange of later batches overlap the step."""

    def __init__(self, model: DistributedModelParallel, optimizers: Optimizers, world: World) -> None:
        """Build the three-stage pipeline; it overlaps the exchange of ids, so the collection must be called whole."""
        model.module.model.embeddings.look_up = None
        self.optimizers, self.world, self.next_step = optimizers, world, 0
        self._pipeline = TrainPipelineSparseDist(model, _Rates(optimizers), world.device, execute_all_batches=True)

    def progress(self, batches: Iterator[RankingBatch]) -> Output:
        """Take the next step; batches are fetched ahead, so the position is the returned batch's."""
        self.optimizers.set_rates(self.next_step)
        self.world.batched_all_reduce.start()
        output: Output = self._pipeline.progress(batches)
        self.next_step = output.batch.step + 1
        return output

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Give the model its own forward back; batches fetched ahead wait for the next step."""
        model = self._pipeline.detach()
        try:
            yield
        finally:
            self._pipeline.attach(model)

    def close(self) -> None:
        """Give the model its own forward back for good."""
        self._pipeline.detach()


def build_pipeline(
    model: DistributedModelParallel,
    optimizers: Optimizers,
    world: World,
    first_step: int,
    place: Callable[[int], str] = str,
) -> Pipeline:
    """The pipeline that suits the device; `place` names where a row of the manifest lies."""
    if world.device.type == "cpu":
        return EagerPipeline(model, optimizers, world, place)
    pipeline = OverlappedPipeline(model, optimizers, world)
    pipeline.next_step = first_step
    return pipeline
