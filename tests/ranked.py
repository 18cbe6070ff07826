"""What tests run on every rank of a world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipelines.assembly import Assembly
from ranking.batch import RankingBatch
from ranking.config import load
from ranking.distributed.collectives import all_gather, all_reduce_host
from ranking.distributed.sharding import local_parts
from ranking.distributed.world import World
from ranking.rows import Rows
from ranking.training.layout import TensorLayout
from ranking.training.state import TrainState

Tensors = dict[str, Tensor]


def assembly(world: World, files: Sequence[Path], overrides: Sequence[str] = ()) -> Assembly:
    return Assembly(load(list(files), list(overrides)), world)


def encoded(parts: Assembly, count: int, split: str = "train") -> Rows:
    """The first rows of a split."""
    urls = getattr(parts.config.data, split)
    folder = Path(urls[0]).parent
    table = pa.concat_tables(pq.read_table(file) for file in sorted(folder.glob("*.parquet"))).slice(0, count)
    return parts.encoder.rows(table, torch.arange(count))


def share_of(rows: Rows, world: World) -> Rows:
    """This rank's equal part."""
    each = len(rows) // world.size
    return rows.slice(world.rank * each, (world.rank + 1) * each)


def batch_of(parts: Assembly, rows: Rows, world: World, step: int = 0, epoch: int = 0) -> RankingBatch:
    """This rank's part of a global batch of `rows`, counted over all ranks."""
    own = share_of(rows, world)
    counts = all_reduce_host(own.masks.sum(0).double(), world).float()
    return RankingBatch.build(parts.config.schema, own, counts, epoch, step).to(world.device)


def step(state: TrainState, batch: RankingBatch) -> float:
    """One update without a pipeline; the global loss."""
    state.optimizers.set_rates(batch.step)
    state.optimizers.zero_grad()
    loss, _ = state.model(batch)
    loss.backward()
    state.optimizers.step()
    return float(all_reduce_host(loss.detach().double().cpu(), state.world) / state.world.size)


def whole(tensors: Mapping[str, object], world: World) -> Tensors:
    """Every tensor put together from all ranks' parts, on every rank."""
    own = {name: (tuple(value.shape), local_parts_of(value)) for name, value in tensors.items()}  # type: ignore[attr-defined]
    found: Tensors = {}
    for everything in all_gather(own, world):
        for name, (shape, parts) in everything.items():
            full = found.setdefault(name, torch.zeros(shape))
            for part, row, column in parts:
                if part.dim() == 2:
                    full[row : row + part.shape[0], column : column + part.shape[1]] = part
                elif part.dim() == 1:
                    full[row : row + part.shape[0]] = part
                else:
                    full.copy_(part)
    return dict(sorted(found.items()))


def local_parts_of(value: object) -> list[tuple[Tensor, int, int]]:
    if isinstance(value, TensorLayout):
        return [(part.tensor.detach().cpu().clone(), *(*part.offsets, 0, 0)[:2]) for part in value.parts]
    if hasattr(value, "local_shards"):
        shards = value.local_shards()
        return [(s.tensor.detach().cpu().clone(), *(*s.metadata.shard_offsets, 0)[:2]) for s in shards]
    return [(part.cpu().clone(), row, column) for part, row, column in local_parts(value)]  # type: ignore[arg-type]


def whole_model(state: TrainState) -> Tensors:
    return whole(state.model.state_dict(), state.world)


def masked(rows: Rows, task: int, keep: slice) -> Rows:
    """`rows` whose sample space of one task holds nothing outside `keep`."""
    masks = rows.masks.clone()
    kept = torch.zeros(len(rows), dtype=torch.bool)
    kept[keep] = True
    masks[:, task] &= kept
    return replace(rows, masks=masks)
