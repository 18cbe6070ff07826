"""From the output of a sharded collection to vectors in the schema's order, with as few copies as possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.distributed.sharding.tw_sharding import TwPooledEmbeddingSharding
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

LookUp = Callable[[KeyedJaggedTensor], KeyedTensor]


class Arrangement(nn.Module):
    """Puts the vectors of a collection, which follow the sharding plan, into a given order.

    A module of its own, because TorchRec's pipeline traces whatever calls the collection and keeps only modules whole.

    Args:
        order: output names for each of P copies of the tables; all copies are as wide.
    """

    def __init__(self, order: list[list[str]]) -> None:
        """Remember the order; where its names lie is known with the first output."""
        super().__init__()
        self.copies, self.names = len(order), [name for names in order for name in names]
        self._places: list[int] | None = None

    def forward(self, output: KeyedTensor) -> Tensor:
        """`[B, P, E]`, copied only where the plan's order is another one."""
        values: Tensor = output.values()
        if self._places is None:
            places = {name: place for place, name in enumerate(output.keys())}
            self._places = [places[name] for name in self.names]
        if self._places != list(range(len(self._places))):
            parts = torch.split(values, output.length_per_key(), dim=1)
            values = torch.cat([parts[place] for place in self._places], dim=1)
        return values.view(len(values), self.copies, -1)


def local_look_up(collection: Any) -> LookUp | None:
    """A look-up without exchanging ids and vectors, which costs a world of one a fifth of a small step.

    Args:
        collection: TorchRec's sharded collection, all of whose tables lie in this process.

    Returns:
        A function of a batch's ids; None unless every table is placed whole.
    """
    shardings = getattr(collection, "_embedding_shardings", ())  # a collection without tables is never sharded
    if [type(sharding) for sharding in shardings] != [TwPooledEmbeddingSharding]:
        return None
    (sharding,), (lookup,) = collection._embedding_shardings, collection._lookups
    wanted, names, widths = sharding.feature_names(), sharding.embedding_names(), sharding.embedding_dims()

    def look_up(sparse: KeyedJaggedTensor) -> KeyedTensor:
        keys = sparse.keys()
        if keys != wanted:
            sparse = sparse.permute([keys.index(name) for name in wanted])
        return KeyedTensor(names, widths, lookup(sparse))

    return look_up
