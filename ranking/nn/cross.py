"""Explicit feature interactions: cross layers between the embeddings and the architecture."""

from __future__ import annotations

from torch import Tensor, nn

from ranking.nn.experts import GroupedLinear


class CrossNetwork(nn.Module):
    """x_(l+1) = x_0 * (U_l V_l x_l + b_l) + x_l, l = 1 .. layers [DCN-V2, Wang et al., WWW 2021, eq. 2].

    Args:
        copies: P copies of the input, each with weights of its own.
        width: D.
        layers: L; 0 hands the input through.
        rank: r, V in R^(r x D) and U in R^(D x r).
    """

    def __init__(self, copies: int, width: int, layers: int, rank: int) -> None:
        """Build the factors."""
        super().__init__()
        self.down = nn.ModuleList(GroupedLinear(copies, width, rank, bias=False) for _ in range(layers))
        self.up = nn.ModuleList(GroupedLinear(copies, rank, width) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, P, D]` to `[B, P, D]`."""
        if not len(self.down):
            return x
        first = hidden = x.transpose(0, 1)
        for down, up in zip(self.down, self.up, strict=True):
            hidden = hidden + first * up(down(hidden))
        return hidden.transpose(0, 1)
