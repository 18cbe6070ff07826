"""What the gates and experts of a model do during an evaluation, gathered from all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ranking.distributed.collectives import all_reduce_host, gather_rows
from ranking.distributed.world import World
from ranking.metrics.gating import MixtureHealth, dead_share, gate_health, similarity
from ranking.nn.experts import GroupedMLP
from ranking.nn.gates import Gates
from ranking.rows import Rows

_UNIT_ROWS = 8192  # rows at least on which a ReLU unit must have been zero to be dead
_PAIR_ROWS = 512  # rows on which experts are compared

Floats = npt.NDArray[np.float64]
Hook = Callable[[nn.Module, object, Tensor], None]


class GateWatch:
    """Watches every forward in its context; costs what the sums cost.

    Gate weights are averaged over all rows. Experts are looked at in the first global batches, which hold the same
    rows at any world size.

    Args:
        model: the model, wrapped or not.
        tasks: names of the tasks, in column order.
        batch_size: rows of a global batch.
    """

    def __init__(self, model: nn.Module, tasks: tuple[str, ...], batch_size: int) -> None:
        """Find the mixtures: modules that hold `experts` and gates over them."""
        self._tasks = tasks
        self._batches, self._sampled = 0, math.ceil(_UNIT_ROWS / batch_size)
        self._mixtures = [
            _Mixture(name.split("model.")[-1], module.experts, gates)
            for name, module in model.named_modules()
            if isinstance(getattr(module, "experts", None), GroupedMLP)
            and (gates := {key: part for key, part in module.named_children() if isinstance(part, Gates)})
        ]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._handles = [handle for mixture in self._mixtures for handle in mixture.hooks()]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Watch no more."""
        for handle in self._handles:
            handle.remove()

    def expect(self, rows: Rows, device: torch.device) -> None:
        """The rows of the forward that comes next."""
        real = rows.real.to(device)
        for mixture in self._mixtures:
            mixture.real, mixture.index = real, rows.index
            mixture.looking, mixture.comparing = self._batches < self._sampled, self._batches == 0
        self._batches += 1

    def found(self, world: World) -> tuple[dict[str, Floats], dict[str, MixtureHealth]]:
        """Mean weights `[K, n]` by gate on every rank, and the health of every mixture on rank 0; all ranks ask."""
        gates: dict[str, Floats] = {}
        health = {}
        for mixture in self._mixtures:
            means = mixture.means(world)
            gates |= {f"{mixture.name}.{name}": weights for name, (weights, _) in means.items()}
            health[mixture.name] = mixture.health(means, self._tasks, world)
        return dict(sorted(gates.items())), health


class _Mixture:
    """Experts and the gates over them."""

    def __init__(self, name: str, experts: GroupedMLP, gates: dict[str, Gates]) -> None:
        self.name, self.experts, self.gates = name, experts, gates
        self.real, self.index = torch.ones(0, dtype=torch.bool), torch.ones(0)
        self.looking = self.comparing = False
        sizes = {key: (gate.gates, gate.experts) for key, gate in gates.items()}
        self.sums = {key: torch.zeros(k * n + k + 1, dtype=torch.float64) for key, (k, n) in sizes.items()}
        self.active: dict[int, Tensor] = {}
        self.sample: tuple[Tensor, Tensor] | None = None

    def hooks(self) -> list[torch.utils.hooks.RemovableHandle]:
        """Look at what gates, the experts' layers and the experts return."""
        handles = [gate.register_forward_hook(self._gate(key)) for key, gate in self.gates.items()]
        handles += [layer.register_forward_hook(self._layer(i)) for i, layer in enumerate(self.experts.layers)]
        return [*handles, self.experts.register_forward_hook(self._compare)]

    def means(self, world: World) -> dict[str, tuple[Floats, Floats]]:
        """Mean weights `[K, n]` and mean entropy of a row `[K]`, in nats, of each group of gates."""
        found = {}
        for key, sums in self.sums.items():
            gate = self.gates[key]
            total = all_reduce_host(sums.cpu(), world)
            mean = (total[:-1] / total[-1].clamp(min=1)).numpy()
            found[key] = mean[gate.gates :].reshape(gate.gates, gate.experts), mean[: gate.gates]
        return found

    def health(self, means: dict[str, tuple[Floats, Floats]], tasks: tuple[str, ...], world: World) -> MixtureHealth:
        """Put together what all ranks saw; complete on rank 0."""
        gates = {}
        for key, (weights, entropies) in means.items():
            visible = self.gates[key].visible
            seen = [weights.shape[1]] * len(weights) if visible is None else visible.sum(1).tolist()
            for label, *sums in zip(_labels(key, len(weights), tasks), weights, entropies, seen, strict=True):
                gates[label] = gate_health(*sums)
        return MixtureHealth(
            gates=gates,
            dead_experts=dead_share([weights for weights, _ in means.values()]),
            dead_units=self._dead_units(world),
            similarity=self._similarity(world),
        )

    def _gate(self, key: str) -> Hook:
        def add(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            weights, real = output.double(), self.real.double()
            weights = weights / weights.sum(2, keepdim=True)  # with top_k = 1 a row sums to less than 1
            entropy = -(torch.xlogy(weights, weights).sum(2) * real.unsqueeze(1)).sum(0)
            total = (weights * real.view(-1, 1, 1)).sum(0)
            self.sums[key] = self.sums[key].to(total.device) + torch.cat([entropy, total.flatten(), real.sum()[None]])

        return add

    def _layer(self, number: int) -> Hook:
        def add(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            if self.looking:
                active = ((output > 0) & self.real.view(1, -1, 1)).any(1)
                self.active[number] = active | self.active.get(number, torch.zeros_like(active))

        return add

    def _compare(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        if self.comparing:
            real = self.real.cpu()
            keys = torch.where(real, self.index * 2654435761 % 2**32, 2**32)  # in an order that has no order
            chosen = keys.argsort()[: min(_PAIR_ROWS, int(real.sum()))]
            self.sample = keys[chosen], output[:, chosen.to(output.device)].transpose(0, 1).cpu()

    def _dead_units(self, world: World) -> float | None:
        active = [units.flatten().cpu() for _, units in sorted(self.active.items())]
        if not active:
            return None
        return float((all_reduce_host(torch.cat(active).double(), world) == 0).double().mean())

    def _similarity(self, world: World) -> float | None:
        if self.sample is None:
            return None
        keys, outputs = (gather_rows(values, world) for values in self.sample)
        if keys is None or outputs is None:
            return None
        chosen = keys.argsort()[:_PAIR_ROWS]
        return similarity(outputs[chosen].double().transpose(0, 1).numpy())


def _labels(key: str, count: int, tasks: tuple[str, ...]) -> tuple[str, ...]:
    """What to call the gates of a group."""
    if key != "gates":
        return ("shared",) * count
    return tasks if count == len(tasks) else ("all",) * count
