"""Ids of the next batch travel to the ranks that hold their tables while this batch is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor


class ExchangeAhead:
    """Looks ids up as a sharded collection does, except that they may have been sent before.

    All ranks must start, send and look up in the same order.

    Args:
        collection: TorchRec's sharded collection.
    """

    def __init__(self, collection: Any) -> None:
        """Nothing is under way."""
        self._collection = collection
        self._under_way: list[_Exchange] = []

    def start(self, sparse: KeyedJaggedTensor) -> None:
        """Tell the other ranks how many ids will come; nothing waits."""
        context = self._collection.create_context()
        self._under_way.append(_Exchange(sparse, context, self._collection.input_dist(context, sparse)))

    def send(self) -> None:
        """Send the ids of the batch that was started last."""
        self._under_way[-1].send()

    def __call__(self, sparse: KeyedJaggedTensor) -> KeyedTensor:
        """The vectors of a batch; what was not started, such as a batch of an evaluation, is exchanged now."""
        exchange = next((each for each in self._under_way if each.sparse is sparse), None)
        if exchange is None:
            return self._collection(sparse)
        self._under_way.remove(exchange)
        exchange.send()
        return self._collection.compute_and_output_dist(exchange.context, exchange.ids.wait())


@dataclass(eq=False)
class _Exchange:
    """One batch in TorchRec's two steps: sizes, then ids."""

    sparse: KeyedJaggedTensor
    context: Any
    sizes: Any
    ids: Any = None

    def send(self) -> None:
        if self.ids is None:
            self.ids = self.sizes.wait()
