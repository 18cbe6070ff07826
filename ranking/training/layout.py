"""Layout: how tensors lie in a checkpoint, whole by name, whatever plan shards them.

A table's optimizer state has one name and one shape under every plan, so that any plan can load what another saved:

rowwise_adagrad   sum [R, C]: one value per row and each of C equal column blocks; C > 1 where columns are sharded
adagrad           sum [R, D]
adam              exp_avg, exp_avg_sq [R, D]; step []
sgd               nothing

Row-wise Adagrad keeps the running mean of a row's squared gradients (FBGEMM's EXACT_ROWWISE_ADAGRAD), taken over the
columns of one shard. The mean over other columns is therefore the mean of the saved blocks, weighted by columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.checkpoint import (
    ChunkStorageMetadata,
    DefaultLoadPlanner,
    DefaultSavePlanner,
    LoadPlan,
    Metadata,
    SavePlan,
    WriteItem,
)
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorProperties, TensorStorageMetadata
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from ranking.distributed.collectives import all_gather
from ranking.distributed.sharding import local_parts
from ranking.distributed.world import World


@dataclass(frozen=True)
class Part:
    """A rectangle of a whole tensor, and where in it it begins."""

    tensor: Tensor
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class TensorLayout:
    """A whole tensor by the parts this rank holds; a replicated one is a single part on every rank.

    Attributes:
        shape: of the whole.
        parts: this rank's; views of live memory, or copies of it.
    """

    shape: tuple[int, ...]
    parts: tuple[Part, ...]

    @torch.no_grad()
    def copied(self, memory: TensorLayout | None = None) -> TensorLayout:
        """The same content in host memory of its own: that of an earlier copy where the layout is the same."""
        taken = memory.parts if memory is not None else ()
        if [_form(part) for part in taken] != [_form(part) for part in self.parts]:
            taken = tuple(Part(torch.empty_like(part.tensor, device="cpu"), part.offsets) for part in self.parts)
        for part, own in zip(self.parts, taken, strict=True):
            own.tensor.copy_(part.tensor)
        return TensorLayout(self.shape, taken)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a saved tensor of this shape can be loaded."""
        return tuple(shape) == self.shape

    def target(self, shape: Sequence[int]) -> tuple[TensorLayout, Callable[[], None]]:
        """What a saved tensor of a fitting shape is read into, and what then carries it into live memory."""
        return self, _nothing

    def at(self, offset: Sequence[int]) -> Tensor:
        """The part that begins there."""
        return next(part.tensor for part in self.parts if part.offsets == tuple(offset))

    def chunks(self) -> list[ChunkStorageMetadata]:
        """DCP's words for where the parts lie."""
        return [ChunkStorageMetadata(torch.Size(part.offsets), part.tensor.shape) for part in self.parts]

    def writes(self, name: str) -> list[WriteItem]:
        """DCP's words for what there is to write."""
        return [
            WriteItem(
                MetadataIndex(name, chunk.offsets),
                WriteItemType.SHARD,  # a replicated one too: of equal offsets DCP writes one
                tensor_data=TensorWriteData(
                    chunk, TensorProperties.create_from_tensor(part.tensor), torch.Size(self.shape)
                ),
            )
            for part, chunk in zip(self.parts, self.chunks(), strict=True)
        ]


@dataclass(frozen=True)
class RowWiseLayout(TensorLayout):
    """State `[R, C]` with one value per row and column block.

    Attributes:
        columns: width D of the table's rows; a block has D / C columns.
    """

    columns: int

    def fits(self, shape: Sequence[int]) -> bool:
        """Any number of equal column blocks can be loaded."""
        return len(shape) == 2 and shape[0] == self.shape[0] and self.columns % shape[1] == 0

    def target(self, shape: Sequence[int]) -> tuple[TensorLayout, Callable[[], None]]:
        """See `TensorLayout.target`: saved blocks are averaged over the columns of this rank's shards."""
        averages = [_Average.of(part, self.columns // self.shape[1], self.columns // shape[1]) for part in self.parts]

        def carry() -> None:
            for average in averages:
                average.carry()

        return TensorLayout(tuple(shape), tuple(average.read for average in averages)), carry


@dataclass(frozen=True)
class _Average:
    """Saved blocks on their way into one shard's values.

    Attributes:
        values: `[r, n]` live; the n columns are one value, expanded.
        read: `[r, k]` the saved blocks that the shard's columns touch.
        weights: `[k]` columns of the shard that lie in each.
    """

    values: Tensor
    read: Part
    weights: Tensor

    @classmethod
    def of(cls, part: Part, block: int, saved: int) -> _Average:
        """For a live part in blocks of `block` columns and a file in blocks of `saved` columns."""
        first = part.offsets[1] * block
        last = first + part.tensor.shape[1] * block
        begin, end = first // saved, -(-last // saved)
        edges = torch.arange(begin, end + 1).mul(saved).clamp(first, last)
        read = Part(torch.zeros(part.tensor.shape[0], end - begin, dtype=part.tensor.dtype), (part.offsets[0], begin))
        return cls(part.tensor, read, edges.diff().double())

    @torch.no_grad()
    def carry(self) -> None:
        """Float64 keeps the mean of equal values exact, so that the plan that saved gets its own bits back."""
        mean = self.read.tensor.double() @ self.weights / self.weights.sum()
        self.values[:, 0].copy_(mean)


def layout_of(value: Tensor | ShardedTensor) -> TensorLayout:
    """Parts of a tensor that is replicated, or sharded by TorchRec."""
    shape = tuple(value.size())
    padding = (0,) * len(shape)
    parts = (
        Part(tensor, (row, column, *padding)[: len(shape)])
        for tensor, row, column in local_parts(value)
        if tensor.numel()
    )
    return TensorLayout(shape, tuple(parts))


def fused_layout(state: ShardedTensor, weight: ShardedTensor) -> TensorLayout:
    """Parts of a fused optimizer's state `[R]` or `[R, D]`, one per shard of the weight `[R, D]` and in its order."""
    shape = tuple(weight.size())
    parts: list[tuple[Tensor, int, int, int]] = []  # beginning with what row and column, how many columns
    for kept, own in zip(state.local_shards(), weight.local_shards(), strict=True):
        row, column = own.metadata.shard_offsets
        if kept.tensor.numel():
            parts.append((kept.tensor, row, column, own.metadata.shard_sizes[1]))
    if len(state.size()) == 2:
        return TensorLayout(shape, tuple(Part(tensor, (row, column)) for tensor, row, column, _ in parts))
    bounds = [n for each in weight.metadata().shards_metadata for n in (each.shard_offsets[1], each.shard_sizes[1])]
    block = math.gcd(*bounds)
    return _row_wise([(tensor, row, col // block, width // block) for tensor, row, col, width in parts], shape, block)


def row_wise_layout(state: Tensor, weight: Tensor) -> RowWiseLayout:
    """State `[R, 1]` of a replicated table."""
    return _row_wise([(state.view(-1), 0, 0, 1)], weight.shape, weight.shape[1])


def outlines(tensors: Mapping[str, TensorLayout], world: World) -> dict[str, TensorLayout]:
    """All ranks' tensors by name, without content: a rank knows no more than the tables it holds."""
    found = all_gather({name: replace(value, parts=()) for name, value in tensors.items()}, world)
    return {name: value for own in found for name, value in own.items()}


class LayoutSavePlanner(DefaultSavePlanner):
    """DCP's plan to write `TensorLayout` by name."""

    def __init__(self) -> None:
        """Take the tensors as they are."""
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def create_local_plan(self) -> SavePlan:
        """Every part of this rank."""
        self.plan = SavePlan([item for name, layout in self.state_dict.items() for item in layout.writes(name)])
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        """The part behind an item of the plan."""
        return self.state_dict[index.fqn].at(index.offset)  # type: ignore[no-any-return]


class LayoutLoadPlanner(DefaultLoadPlanner):
    """DCP's plan to read into `TensorLayout` by name; never unpickles an object."""

    def set_up_planner(
        self, state_dict: dict[str, TensorLayout], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """Take the tensors as they are."""
        self.state_dict, self.metadata, self.is_coordinator = state_dict, metadata, is_coordinator

    def create_local_plan(self) -> LoadPlan:
        """What overlaps with this rank's parts."""
        assert self.metadata is not None
        saved, items = self.metadata.state_dict_metadata, []
        for name, layout in self.state_dict.items():
            entry = saved[name]
            assert isinstance(entry, TensorStorageMetadata)  # `Stored` lets no other pass
            items += create_read_items_for_chunk_list(name, entry, layout.chunks())
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        """The part that an item of the plan reads into; shards may read the same block."""
        layout: TensorLayout = self.state_dict[index.fqn]
        assert index.index is not None
        return layout.parts[index.index].tensor

    def load_bytes(self, read_item: object, value: object) -> None:
        """Refuse what is no tensor."""
        raise ValueError("got a pickled object; expected tensors only")


def _row_wise(parts: Sequence[tuple[Tensor, int, int, int]], shape: Sequence[int], block: int) -> RowWiseLayout:
    """From values `[r]`, first row, first block and number of blocks of every shard."""
    rows, columns = shape
    layout = (Part(values.unsqueeze(1).expand(-1, blocks), (row, first)) for values, row, first, blocks in parts)
    return RowWiseLayout((rows, columns // block), tuple(layout), columns)


def _form(part: Part) -> tuple[torch.Size, torch.dtype, tuple[int, ...]]:
    return part.tensor.shape, part.tensor.dtype, part.offsets


def _nothing() -> None:
    """Read in place."""
