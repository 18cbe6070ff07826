"""Everything a run needs to go on as if it had never stopped (contract 6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from ranking.data.plan import Position
from ranking.data.quarantine import Damage
from ranking.distributed.world import World
from ranking.metrics.report import EvaluationReport
from ranking.schema import Frozen
from ranking.training.layout import TensorLayout, layout_of
from ranking.training.optimizer import Optimizers


class Lineage(Frozen):
    """The earlier run whose weights a run began with.

    Attributes:
        run: its directory, or the URI of a registered model.
        step: updates the weights had.
        checkpoint: name of the checkpoint.
    """

    run: str
    step: int
    checkpoint: str

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the MLflow run."""
        return {f"warm_start.{key}": str(value) for key, value in self.model_dump().items()}


class Progress(Frozen):
    """The small part of a checkpoint, kept as JSON.

    Attributes:
        step: updates done.
        epoch: epoch of the next step.
        step_in_epoch: index of the next step inside its epoch.
        plan: digest of the order of examples the position refers to.
        transforms: fingerprint of the transforms the examples were encoded with.
        world_size: ranks that saved.
        seed: the run's seed.
        window: every rank's sums since the last log line: of each task the steps that had an example, then the losses.
        history: every evaluation so far.
        config: the resolved configuration.
        versions: packages that wrote the checkpoint.
        quarantined: damaged row groups that were left out.
        warm_start: where the run's first weights came from; None: drawn by the seed.
    """

    step: int = Field(0, ge=0)
    epoch: int = Field(0, ge=0)
    step_in_epoch: int = Field(0, ge=0)
    plan: str = ""
    transforms: str = ""
    world_size: int = 1
    seed: int = 0
    window: tuple[tuple[float, ...], ...] = ()
    history: tuple[EvaluationReport, ...] = ()
    config: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    quarantined: tuple[Damage, ...] = ()
    warm_start: Lineage | None = None

    @property
    def position(self) -> Position:
        """Where the loader goes on."""
        return Position(self.epoch, self.step_in_epoch)

    @property
    def evaluated(self) -> bool:
        """Whether this very step was evaluated; the last one of a run may have been cut short."""
        return bool(self.history) and self.history[-1].step == self.step


@dataclass
class TrainState:
    """The live counterpart: modules and optimizers in place, and the progress they have made."""

    model: DistributedModelParallel
    optimizers: Optimizers
    world: World
    progress: Progress = field(default_factory=Progress)

    def tensors(self) -> dict[str, TensorLayout]:
        """All tensors of the run by stable names, to be saved from or loaded into in place."""
        state = {f"model/{name}": layout_of(value) for name, value in self.model.state_dict().items()}
        state |= {f"optimizer/{name}": value for name, value in self.optimizers.tensors().items()}
        return state

    def checkpoint_tensors(self) -> dict[str, TensorLayout]:
        """Everything a checkpoint of this rank holds but the progress."""
        return self.tensors() | {name: layout_of(value) for name, value in self.rng().items()}

    def rng(self) -> dict[str, Tensor]:
        """This rank's random state, under a name of its own."""
        state = {f"rng/cpu/{self.world.rank}": torch.get_rng_state()}
        if self.world.device.type == "cuda":
            state[f"rng/cuda/{self.world.rank}"] = torch.cuda.get_rng_state(self.world.device)
        return state

    def restore_rng(self, state: dict[str, Tensor]) -> None:
        """Put back what `rng` returned."""
        torch.set_rng_state(state[f"rng/cpu/{self.world.rank}"])
        if self.world.device.type == "cuda":
            torch.cuda.set_rng_state(state[f"rng/cuda/{self.world.rank}"], self.world.device)
