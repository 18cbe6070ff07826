"""The gradients of single tasks on a layer that they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

SharedLayer = Callable[[], Sequence[tuple[nn.Parameter, slice]]]
"""Parameters of a layer, each with the part of its first axis that several tasks share."""


def task_gradients(shares: Tensor, layer: SharedLayer) -> Tensor:
    """The gradient of every task's loss on a layer; the graph stays for the step's own backward.

    Args:
        shares: `[T]` losses that depend on the layer.
        layer: what they are differentiated by, P numbers in all.

    Returns:
        `[T, P]`; summed over ranks it belongs to the losses of the global batch.
    """
    parameters, parts = zip(*layer(), strict=True)
    rows = []
    for share in shares.unbind():
        found = torch.autograd.grad(share, parameters, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([grad[part].flatten() for grad, part in zip(found, parts, strict=True)]))
    return torch.stack(rows)
