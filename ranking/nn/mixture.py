"""Layers made of experts and gates: MoE layers that stack, and the levels of PLE."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ranking.nn.experts import GroupedMLP
from ranking.nn.gates import Gates, mix


class MoELayer(nn.Module):
    """One gate over n experts: sum_i g(x)_i f_i(x), the input of the next layer [MoE].

    Args:
        experts: n networks.
        gates: a single gate over them.
    """

    def __init__(self, experts: GroupedMLP, gates: Gates) -> None:
        """Join the two."""
        super().__init__()
        self.experts, self.gates = experts, gates

    def forward(self, x: Tensor, gate_input: Tensor) -> Tensor:
        """`[B, D]` and what the gate reads `[B, G]` to `[B, H]`."""
        return mix(self.gates(gate_input), self.experts(x))[0]


class ExtractionLevel(nn.Module):
    """One level of PLE: every task's own experts, then the shared ones; a gate for each task [PLE, section 4].

    Args:
        counts: experts of every branch: the K tasks in order, then the shared branch.
        experts: sum(counts) networks in that order.
        gates: K gates that see their own task's and the shared experts, see `visible`.
        shared_gate: the shared branch's gate over all experts; None on the last level.
    """

    def __init__(self, counts: Sequence[int], experts: GroupedMLP, gates: Gates, shared_gate: Gates | None) -> None:
        """Join the parts."""
        super().__init__()
        self.counts = tuple(counts)
        self.experts, self.gates, self.shared_gate = experts, gates, shared_gate

    def forward(self, x: Tensor) -> Tensor:
        """From one level to the next.

        Args:
            x: `[B, D]` before the first level, else `[K + 1, B, D]`, the branches of the level below.

        Returns:
            `[K + 1, B, H]`, the shared branch last; `[K, B, H]` from the last level.
        """
        own, shared = (x, x) if x.dim() == 2 else (x[:-1], x[-1])
        outputs = self.experts(x if x.dim() == 2 else self._spread(x))
        weights = self.gates(own)
        if self.shared_gate is not None:
            weights = torch.cat([weights, self.shared_gate(shared)], dim=1)
        return mix(weights, outputs)

    def _spread(self, branches: Tensor) -> Tensor:
        """Every expert's input `[n, B, D]`: its branch of the level below."""
        pairs = zip(branches, self.counts, strict=True)
        return torch.cat([branch.expand(count, -1, -1) for branch, count in pairs])


def visible(counts: Sequence[int]) -> Tensor | None:
    """Which experts the gate of each task may see: its own and the shared ones.

    Args:
        counts: experts of every task, then of the shared branch.

    Returns:
        `[K, n]` bool; None where every gate sees all.
    """
    tasks = len(counts) - 1
    owners = torch.repeat_interleave(torch.arange(tasks + 1, device="cpu"), torch.tensor(counts, device="cpu"))
    seen = (owners == torch.arange(tasks, device="cpu").unsqueeze(1)) | (owners == tasks)
    return None if bool(seen.all()) else seen
