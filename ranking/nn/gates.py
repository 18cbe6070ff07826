"""Softmax gates over experts: dense or top-k, with optional noise and load balancing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Gates(nn.Module):
    """g^k(x) = softmax(W_gk x) for K gates at once [MMoE, eq. 7; top-k, noise, balance: Shazeer et al. 2017].

    The softmax over a single kept logit would be 1 whatever its value, so that a gate with top_k = 1 could not learn.
    Its one expert is weighed by its probability among all the gate may see [Switch Transformer, Fedus et al., JMLR
    2022, eq. 2].

    Args:
        inputs: width of the gates' input.
        gates: K, one a task (MMoE) or a single one (OMoE).
        experts: n.
        top_k: keep only the k largest logits of each gate; 0 keeps all.
        noise: while training, add N(0, softplus(W_noise x)^2) to the logits [Shazeer, eq. 4].
        balance: weight of the load-balancing loss, see `imbalance`.
        visible: `[K, n]` bool, which experts a gate may see; the others get weight 0. None: all.
    """

    visible: Tensor | None

    def __init__(
        self,
        inputs: int,
        gates: int,
        experts: int,
        top_k: int = 0,
        noise: bool = False,
        balance: float = 0.0,
        visible: Tensor | None = None,
    ) -> None:
        """Build one matrix for all gates, and one for their noise, which starts at zero."""
        super().__init__()
        self.gates, self.experts, self.top_k, self.balance = gates, experts, top_k, balance
        self.linear = nn.Linear(inputs, gates * experts, bias=False)
        self.spread = nn.Linear(inputs, gates * experts, bias=False) if noise else None
        if self.spread is not None:
            nn.init.zeros_(self.spread.weight)
        self.register_buffer("visible", visible)
        self.imbalance: Tensor | None = None  # of the last training batch, until `take_imbalance`

    def forward(self, x: Tensor) -> Tensor:
        """Weights of every expert for every gate.

        Args:
            x: `[B, inputs]` shared by the gates, or `[K, B, inputs]`.

        Returns:
            `[B, K, n]`, each row sums to one, or with top_k = 1 to the probability of the expert it keeps.
        """
        clean = logits = self._logits(self.linear, x)
        spread = None
        if self.spread is not None and self.training:
            spread = functional.softplus(self._logits(self.spread, x)) + 1e-2  # bounds the load's gradient
            logits = clean + torch.randn_like(clean) * spread
        if self.visible is not None:
            logits = logits.masked_fill(~self.visible, -torch.inf)
        weights = self._weights(logits)
        if self.balance and self.training:
            self.imbalance = self.balance * self._imbalance(weights, clean, logits, spread)
        return weights

    def take_imbalance(self) -> Tensor | None:
        """The weighted load-balancing loss of the last forward in training mode, once; None where there is none."""
        taken, self.imbalance = self.imbalance, None
        return taken

    def _logits(self, linear: nn.Linear, x: Tensor) -> Tensor:
        if x.dim() == 2:
            logits: Tensor = linear(x)
            return logits.view(-1, self.gates, self.experts)
        weight = linear.weight.view(self.gates, self.experts, -1)
        return torch.bmm(x, weight.transpose(1, 2)).transpose(0, 1)

    def _weights(self, logits: Tensor) -> Tensor:
        if not self.top_k:
            return torch.softmax(logits, dim=-1)
        kept = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, logits.topk(self.top_k, dim=-1).indices, True)
        if self.top_k == 1:
            return torch.softmax(logits, dim=-1) * kept
        return torch.softmax(logits.masked_fill(~kept, -torch.inf), dim=-1)

    def _imbalance(self, weights: Tensor, clean: Tensor, logits: Tensor, spread: Tensor | None) -> Tensor:
        """CV(importance)^2, and CV(load)^2 where the gates are noisy and sparse [Shazeer, eq. 6-11].

        An architecture is not told which rows are padding, so that rows that pad an epoch's last batch count, too: one
        step of an epoch balances a little differently, and nothing else does.
        """
        loss = _squared_variation(weights.float().sum(0), self.visible)
        if spread is None or not 0 < self.top_k < self.experts:
            return loss
        load = _load(clean.float(), logits.float(), spread.float(), self.top_k)
        return loss + _squared_variation(load, self.visible)


def mix(weights: Tensor, experts: Tensor) -> Tensor:
    """Weighted sums of expert outputs.

    Args:
        weights: `[B, K, n]`.
        experts: `[n, B, H]`.

    Returns:
        `[K, B, H]`.
    """
    return torch.bmm(weights, experts.transpose(0, 1)).transpose(0, 1)


def take_imbalance(module: nn.Module) -> Tensor | None:
    """Sum of what all gates inside a module hold, taken from them; None where none holds any."""
    gates = [part for part in module.modules() if isinstance(part, Gates)]
    terms = [term for gate in gates if (term := gate.take_imbalance()) is not None]
    return torch.stack(terms).sum() if terms else None


def _load(clean: Tensor, logits: Tensor, spread: Tensor, top_k: int) -> Tensor:
    """Expected number of rows that keep an expert `[K, n]`, smooth in the logits.

    An expert is kept where its noisy logit beats the k-th largest of the others': with new noise of its own alone,
    the probability is Phi((clean - threshold) / spread).
    """
    largest = logits.topk(top_k + 1, dim=-1).values.clamp(min=-1e9)  # an unseen expert's -inf would make NaN gradients
    inside, outside = largest[..., top_k:], largest[..., top_k - 1 : top_k]  # thresholds of kept and of other experts
    threshold = torch.where(logits >= outside, inside, outside)
    kept: Tensor = torch.special.ndtr((clean - threshold) / spread)
    return kept.sum(0)


def _squared_variation(totals: Tensor, visible: Tensor | None) -> Tensor:
    """Sum over the gates of the squared coefficient of variation over the experts a gate may see."""
    seen = torch.ones_like(totals) if visible is None else visible.to(totals.dtype)
    count = seen.sum(1)
    mean = (totals * seen).sum(1) / count
    variance = ((totals - mean.unsqueeze(1)).square() * seen).sum(1) / count
    total: Tensor = (variance / (mean.square() + 1e-10)).sum()
    return total
