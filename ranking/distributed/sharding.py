"""From a model on the meta device to one that is sharded over the world."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import (
    DataParallelWrapper,
    DefaultDataParallelWrapper,
    DistributedModelParallel,
)
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints, PlannerError
from torchrec.distributed.types import ShardingEnv, ShardingPlan

from ranking.distributed.collectives import collective_error
from ranking.distributed.config import ShardingConfig
from ranking.distributed.embeddings import ShardedEmbeddings, fill_table, table_of
from ranking.distributed.world import World
from ranking.errors import first_line
from ranking.schema import Schema

_AUTO = {"cpu": ["table_wise"], "cuda": ["table_wise", "column_wise", "row_wise", "table_row_wise"]}


def shard(
    module: nn.Module, embeddings: ShardedEmbeddings, schema: Schema, world: World, config: ShardingConfig, batch: int
) -> DistributedModelParallel:
    """Place tables by plan and wrap the dense part in DDP.

    Args:
        module: what a training step calls; contains `embeddings`, still on the meta device.
        embeddings: the collection inside `module`, optimizers already fused.
        schema: per-table constraints.
        world: the ranks to place tables on.
        config: the `sharding` section.
        batch: one rank's batch size, for the planner's estimates.

    Returns:
        The sharded module, tables allocated on their ranks.

    Raises:
        InputError: no plan meets the constraints.
    """
    sharder = _Sharder()
    model = DistributedModelParallel(
        module,
        device=world.device,
        plan=_plan(module, embeddings, schema, world, config, batch, sharder),
        sharders=[sharder],
        data_parallel_wrapper=_Alone() if world.size == 1 else DefaultDataParallelWrapper(static_graph=False),
    )
    if world.size == 1 and world.device.type == "cpu":  # on CUDA TorchRec's pipeline overlaps the exchange
        embeddings.stay_local()
    return model


class _Sharder(EmbeddingBagCollectionSharder):  # type: ignore[misc]  # TorchRec is not typed
    """Splits tables by rows on CPU, too: TorchRec offers that on CUDA alone, from when gloo had no reduce-scatter."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """What CUDA can, whatever the device."""
        return super().sharding_types("cuda")  # type: ignore[no-any-return]


class _Alone(DataParallelWrapper):  # type: ignore[misc]  # TorchRec is not typed
    """In a world of one nothing is averaged: DDP would only copy gradients into its buckets."""

    def wrap(self, dmp: DistributedModelParallel, env: ShardingEnv, device: torch.device) -> None:
        """Leave the module as it is, on its device."""
        dmp.module.to(device)


def fill_tables(model: DistributedModelParallel, schema: Schema, prefixes: tuple[str, ...], seed: int) -> None:
    """Set every table's initial weights, the same whatever the plan."""
    for name, value in model.state_dict().items():
        if "embedding_bags." not in name:
            continue
        table = table_of(name, prefixes)
        scale = schema.table(table).init_scale
        scale = value.shape[0] ** -0.5 if scale is None else scale
        key = name.rsplit("embedding_bags.", 1)[-1]
        for local, row, column in local_parts(value):
            fill_table(local, key, seed, row, column, scale)


def local_parts(value: torch.Tensor | ShardedTensor) -> list[tuple[torch.Tensor, int, int]]:
    """This rank's parts of a table with the row and the column each begins at."""
    if isinstance(value, ShardedTensor):
        shards = value.local_shards()
        return [(s.tensor.detach(), int(s.metadata.shard_offsets[0]), int(s.metadata.shard_offsets[1])) for s in shards]
    return [(value.detach(), 0, 0)]


def _plan(
    module: nn.Module,
    embeddings: ShardedEmbeddings,
    schema: Schema,
    world: World,
    config: ShardingConfig,
    batch: int,
    sharder: _Sharder,
) -> ShardingPlan:
    device = world.device.type
    gib = 1 << 30
    topology = Topology(
        world_size=world.size,
        compute_device=device,
        hbm_cap=int(config.hbm_gib * gib) if config.hbm_gib else None,
        ddr_cap=int(config.ddr_gib * gib) if config.ddr_gib else None,
        local_world_size=config.local_world_size or world.size,
    )
    constraints = {
        prefix + table: _constraints(schema, table, device, config)
        for prefix in embeddings.prefixes
        for table in schema.table_names()
    }
    planner = EmbeddingShardingPlanner(topology=topology, batch_size=batch, constraints=constraints)
    try:
        return planner.plan(module, [sharder])
    except PlannerError as error:
        reason = first_line(error)
        raise collective_error(f"sharding: no plan for {world.size} x {device}: {reason}", world) from None


def _constraints(schema: Schema, table: str, device: str, config: ShardingConfig) -> ParameterConstraints:
    wanted = schema.table(table).sharding
    features = [f for f in schema.categorical if f.table_name == table]
    return ParameterConstraints(
        sharding_types=_AUTO[device] if wanted == "auto" else [wanted],
        pooling_factors=[config.pooling_factor if f.multi_hot else 1.0 for f in features],
        is_weighted=schema.weighted,
    )
