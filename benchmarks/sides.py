"""The other side of a throughput comparison: loops with nothing in them but the step, over batches in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.optimizers import in_backward_optimizer_filter

from benchmarks.workload import IDS, NUMBERS, TABLE_ROWS, schema
from ranking.batch import RankingBatch
from ranking.distributed.world import World

DIM, EXPERTS, HIDDEN, TOWER, TASKS = 16, 8, 128, 64, 2

Step = Callable[[], None]


class Network(nn.Module):
    """The same MMoE, written out: experts and gates as one addmm each."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        width = IDS * DIM + NUMBERS
        self.experts = nn.Linear(width, EXPERTS * HIDDEN, device=device)
        self.gates = nn.Linear(width, TASKS * EXPERTS, bias=False, device=device)
        self.towers = nn.ModuleList(nn.Linear(HIDDEN, TOWER, device=device) for _ in range(TASKS))
        self.heads = nn.ModuleList(nn.Linear(TOWER, 1, device=device) for _ in range(TASKS))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, D]` to `[B, T]`."""
        experts = torch.relu(self.experts(x)).view(-1, EXPERTS, HIDDEN)
        weights = torch.softmax(self.gates(x).view(-1, TASKS, EXPERTS), dim=-1)
        mixed = torch.bmm(weights, experts)
        logits = [head(torch.relu(tower(mixed[:, i]))) for i, (tower, head) in enumerate(self._heads())]
        return torch.cat(logits, dim=1)

    def _heads(self) -> Iterator[Any]:
        return zip(self.towers, self.heads, strict=True)


class Bare(nn.Module):
    """Tables, network and the masked mean of the losses on this rank."""

    def __init__(self, tables: nn.Module, network: nn.Module, autocast: bool) -> None:
        super().__init__()
        self.tables, self.network, self.autocast = tables, network, autocast

    def forward(self, batch: RankingBatch) -> Tensor:
        """The scalar loss."""
        with torch.autocast(batch.dense.device.type, torch.bfloat16, enabled=self.autocast):
            logits = self.network(torch.cat([self._vectors(batch), batch.dense], dim=1))
        losses = functional.binary_cross_entropy_with_logits(logits.float(), batch.labels, reduction="none")
        return ((losses * batch.masks).sum(0) / batch.masks.sum(0).clamp(min=1)).sum()

    def _vectors(self, batch: RankingBatch) -> Tensor:
        found = self.tables(batch.sparse)
        return found if isinstance(found, Tensor) else found.values()  # type: ignore[no-any-return]


def bare_dmp(world: World, batches: Sequence[RankingBatch], autocast: bool) -> Step:
    """One step of TorchRec's DistributedModelParallel, tables placed whole, row-wise Adagrad and fused Adam."""
    names = [feature.name for feature in schema().categorical]
    configs = [
        EmbeddingBagConfig(
            name=f"bare_{name}",
            embedding_dim=DIM,
            num_embeddings=TABLE_ROWS,
            feature_names=[name],
            pooling=PoolingType.SUM,
        )
        for name in names
    ]
    collection = EmbeddingBagCollection(tables=configs, device=torch.device("meta"))
    apply_optimizer_in_backward(RowWiseAdagrad, list(collection.parameters()), {"lr": 0.05})
    plain = Bare(collection, Network(torch.device("cpu")), autocast)
    sharders: list[Any] = [EmbeddingBagCollectionSharder()]
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=world.size, compute_device=world.device.type),
        constraints={c.name: ParameterConstraints(sharding_types=["table_wise"]) for c in configs},
    )
    model = DistributedModelParallel(plain, device=world.device, plan=planner.plan(plain, sharders), sharders=sharders)
    dense = [p for _, p in in_backward_optimizer_filter(model.named_parameters())]
    return _loop(model, torch.optim.Adam(dense, 1e-3, fused=True), batches)


def direct_op(world: World, batches: Sequence[RankingBatch], autocast: bool) -> Step:
    """The same with FBGEMM's table-batched op called directly: what one process can reach."""
    place = world.device
    network: nn.Module = Network(place)
    if world.size > 1:
        network = DistributedDataParallel(network)
    model = Bare(_TableBatched(place), network, autocast)
    return _loop(model, torch.optim.Adam(network.parameters(), 1e-3, fused=True), batches)


class _TableBatched(nn.Module):
    def __init__(self, place: torch.device) -> None:
        super().__init__()
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice,
            SplitTableBatchedEmbeddingBagsCodegen,
        )

        on_cpu = place.type == "cpu"
        where = EmbeddingLocation.HOST if on_cpu else EmbeddingLocation.DEVICE
        compute = ComputeDevice.CPU if on_cpu else ComputeDevice.CUDA
        self.op = SplitTableBatchedEmbeddingBagsCodegen(
            [(TABLE_ROWS, DIM, where, compute)] * IDS,
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=0.05,
            device=place,
        )

    def forward(self, sparse: Any) -> Tensor:
        return self.op(sparse.values(), sparse.offsets())  # type: ignore[no-any-return]


def rechub(world: World, batches: Sequence[RankingBatch], autocast: bool, matmul: str = "highest") -> Step:
    """torch-rechub's MMOE as its trainer runs it; lists become their first id, as it takes one id a feature.

    It multiplies as torch does where nobody has chosen otherwise (`highest`); memory is kept for it as for ours.
    """
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models.multi_task import MMOE

    names = [feature.name for feature in schema().categorical]
    numbers = [feature.name for feature in schema().dense]
    features = [SparseFeature(name, TABLE_ROWS, DIM) for name in names] + [DenseFeature(name) for name in numbers]
    tower = {"dims": [TOWER], "activation": "relu", "dropout": 0.0}
    expert = {"dims": [HIDDEN], "activation": "relu", "dropout": 0.0}
    model = MMOE(features, ["classification"] * TASKS, EXPERTS, expert, [tower] * TASKS).to(world.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)
    prepared = cycle([(_columns(batch, names, numbers), batch.labels) for batch in batches])

    def step() -> None:
        inputs, labels = next(prepared)
        with _matmul(matmul):
            with torch.autocast(world.device.type, torch.bfloat16, enabled=autocast):
                found = model({name: values.to(world.device) for name, values in inputs.items()}).float()
            labels = labels.to(world.device)
            losses = [functional.binary_cross_entropy(found[:, i], labels[:, i]) for i in range(TASKS)]
            model.zero_grad()
            (sum(losses) / TASKS).backward()  # type: ignore[union-attr]
        optimizer.step()

    return step


@contextmanager
def _matmul(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _columns(batch: RankingBatch, names: list[str], numbers: list[str]) -> dict[str, Tensor]:
    rows = batch.rows
    first = [torch.zeros(len(rows), dtype=torch.int64) for _ in rows.lists]  # as it wants them, outside its step
    for place, ragged in enumerate(rows.lists):
        starts = ragged.lengths.cumsum(0) - ragged.lengths
        first[place][ragged.lengths > 0] = ragged.values[starts[ragged.lengths > 0]].long()
    ids = dict(zip(names, [*rows.ids.long(), *first], strict=True))
    return ids | dict(zip(numbers, rows.dense.t().contiguous(), strict=True))


def _loop(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Sequence[RankingBatch]) -> Step:
    stream = cycle(batches)

    def step() -> None:
        batch = next(stream)
        optimizer.zero_grad()
        model(batch).backward()
        optimizer.step()

    return step
