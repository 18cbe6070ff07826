"""Softmax gates over experts, dense or top-k."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Gates(nn.Module):
    """g^k(x) = softmax(W_gk x) for K gates at once [MMoE, eq. 7; top-k: Shazeer et al. 2017].

    Args:
        inputs: width of the gates' input.
        gates: K, one a task (MMoE) or a single one (OMoE).
        experts: n.
        top_k: keep only the k largest logits of each gate; 0 keeps all.
    """

    def __init__(self, inputs: int, gates: int, experts: int, top_k: int = 0) -> None:
        """Build one matrix for all gates."""
        super().__init__()
        self.gates, self.experts, self.top_k = gates, experts, top_k
        self.linear = nn.Linear(inputs, gates * experts, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Weights of every expert for every gate.

        Args:
            x: `[B, inputs]`.

        Returns:
            `[B, K, n]`, each row sums to one.
        """
        logits = self.linear(x).view(-1, self.gates, self.experts)
        if self.top_k:
            kept = logits.topk(self.top_k, dim=-1)
            logits = torch.full_like(logits, -torch.inf).scatter(-1, kept.indices, kept.values)
        return torch.softmax(logits, dim=-1)


def mix(weights: Tensor, experts: Tensor) -> Tensor:
    """Weighted sums of expert outputs.

    Args:
        weights: `[B, K, n]`.
        experts: `[n, B, H]`.

    Returns:
        `[K, B, H]`.
    """
    return torch.bmm(weights, experts.transpose(0, 1)).transpose(0, 1)
