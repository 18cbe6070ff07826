"""A training batch: encoded rows as TorchRec's jagged tensors, with labels, masks and the position it came from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from ranking.rows import Rows
from ranking.schema import Schema


@dataclass
class RankingBatch(Pipelineable):
    """One rank's part of a global batch.

    Attributes:
        sparse: ids of every categorical feature, single-valued ones first, keyed by feature name.
        dense: `[B, D]` float32.
        labels: `[B, T]` float32.
        masks: `[B, T]` float32, 1 inside a task's sample space, 0 outside and on padding.
        counts: `[T]` sum of the masks over the global batch.
        epoch: passes over the data finished when this batch was planned.
        step: global step this batch is for, so that the position travels with the data (contract 5).
        rows: the encoded rows on the host, for metrics and for telling which examples a step used.
    """

    sparse: KeyedJaggedTensor
    dense: Tensor
    labels: Tensor
    masks: Tensor
    counts: Tensor
    epoch: int
    step: int
    rows: Rows

    @classmethod
    def build(cls, schema: Schema, rows: Rows, counts: Tensor, epoch: int, step: int) -> RankingBatch:
        """Batch of encoded rows; `counts` `[T]` are the mask sums over all ranks."""
        return cls(jagged(schema, rows), rows.dense, rows.labels, rows.masks.float(), counts, epoch, step, rows)

    def to(self, device: torch.device, non_blocking: bool = False) -> RankingBatch:
        """The batch with its tensors on `device`; `rows` stays on the host."""
        return self._map(lambda value: value.to(device=device, non_blocking=non_blocking))

    def pin_memory(self) -> RankingBatch:
        """The batch in page-locked memory, for asynchronous copies."""
        return self._map(lambda value: value.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the tensors alive until `stream` has used them."""
        for value in (self.sparse, self.dense, self.labels, self.masks, self.counts):
            value.record_stream(stream)

    def _map(self, move: Any) -> RankingBatch:
        moved = ("sparse", "dense", "labels", "masks", "counts")
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return RankingBatch(**(values | {name: move(values[name]) for name in moved}))


@lru_cache(4)
def _ones(count: int) -> Tensor:
    """`[count]` int32, shared by batches: nobody writes into lengths."""
    return torch.ones(count, dtype=torch.int32)


def jagged(schema: Schema, rows: Rows) -> KeyedJaggedTensor:
    """The rows' ids as one KeyedJaggedTensor, without a loop over rows."""
    features = schema.categorical
    single, listed = [f.name for f in features if not f.multi_hot], [f.name for f in features if f.multi_hot]
    size, flat = len(rows), len(rows) * len(single)
    per_key = [size] * len(single) + [len(ragged.values) for ragged in rows.lists]  # or TorchRec sums and reads them
    values, lengths = rows.ids.reshape(-1), _ones(flat)
    if listed:
        values = torch.cat([values, *(ragged.values for ragged in rows.lists)])
        lengths = torch.cat([lengths, *(ragged.lengths for ragged in rows.lists)])
    weights = None
    if schema.weighted:
        given = [ragged.weights for ragged in rows.lists if ragged.weights is not None]
        weights = torch.cat([rows.dense.new_ones(flat), *given])
    return KeyedJaggedTensor(
        keys=single + listed,
        values=values,
        lengths=lengths,
        weights=weights,
        stride=size,
        length_per_key=per_key,
    )
