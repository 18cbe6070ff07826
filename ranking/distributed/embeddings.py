"""TorchRec's EmbeddingBagCollection for a schema: built on the meta device, filled row by row after sharding."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import WeightDecayMode
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ranking.distributed.arrangement import Arrangement, LookUp, local_look_up
from ranking.distributed.config import SparseOptimizerConfig
from ranking.distributed.exchange import ExchangeAhead
from ranking.schema import Schema, Table

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "rowwise_adagrad": RowWiseAdagrad,
    "adagrad": torch.optim.Adagrad,
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
}


class ShardedEmbeddings(nn.Module):
    """All tables as one collection; vectors come back in schema order whatever the sharding plan (contract 7).

    Args:
        schema: features and tables.
        rows: rows of every table.
        prefixes: one copy of all tables for each prefix; `("",)` shares them between tasks.
    """

    def __init__(self, schema: Schema, rows: Mapping[str, int], prefixes: tuple[str, ...] = ("",)) -> None:
        """Describe the tables; no memory is taken before sharding."""
        super().__init__()
        self.prefixes = prefixes
        configs = [_config(schema, prefix, table, rows[table]) for prefix in prefixes for table in schema.table_names()]
        self.collection = EmbeddingBagCollection(
            tables=configs, is_weighted=schema.weighted, device=torch.device("meta")
        )
        self.arrangement = Arrangement([_output_names(schema, configs, prefix) for prefix in prefixes])
        self.look_up: LookUp | None = None  # in place of the collection's own

    def stay_local(self) -> None:
        """Skip the exchange with other ranks from now on; only for a sharded collection in a world of one."""
        self.look_up = local_look_up(self.collection)

    def exchange_ahead(self) -> ExchangeAhead | None:
        """Let a batch's ids be exchanged before it is looked up from now on; None where there are no tables."""
        if self.arrangement.names and not isinstance(self.look_up, ExchangeAhead):
            self.look_up = ExchangeAhead(self.collection)
        return self.look_up  # type: ignore[return-value]  # the one made above

    def forward(self, sparse: KeyedJaggedTensor) -> Tensor:
        """Look every feature up.

        Args:
            sparse: ids of a batch, keyed by feature name.

        Returns:
            `[B, P, E]`: for each of the P prefixes all features' vectors in schema order.
        """
        if not self.arrangement.names:
            return torch.zeros(sparse.stride(), len(self.prefixes), 0, device=sparse.device())
        vectors: Tensor = self.arrangement((self.look_up or self.collection)(sparse))
        return vectors


@dataclass(frozen=True)
class TableOptimizer:
    """The optimizer of one table: its class and the settings it is built with."""

    kind: type[torch.optim.Optimizer]
    settings: dict[str, Any]


def fuse_optimizers(
    embeddings: ShardedEmbeddings, schema: Schema, config: SparseOptimizerConfig
) -> dict[str, TableOptimizer]:
    """Attach each table's optimizer to its backward pass; must run before sharding.

    Returns:
        The optimizers of data-parallel tables by parameter name inside the collection: TorchRec cannot fuse those.
    """
    left = {}
    for name, parameter in embeddings.collection.named_parameters():
        table = schema.table(table_of(name, embeddings.prefixes))
        chosen = _table_optimizer(table, config)
        if table.sharding == "data_parallel":
            left[name] = chosen
        else:
            apply_optimizer_in_backward(chosen.kind, [parameter], chosen.settings)
    return left


@torch.no_grad()
def fill_table(weight: Tensor, table: str, seed: int, first_row: int, first_column: int, scale: float) -> None:
    """Draw a table's part uniformly from [-scale, scale], each cell from (seed, table, row, column) alone.

    The initial weights therefore do not depend on the sharding plan or the world size.

    Args:
        weight: `[r, c]` local part, filled in place.
        table: the table's name.
        seed: the run's seed.
        first_row: the part's first row in the whole table.
        first_column: the part's first column in the whole table.
        scale: half-width of the distribution.
    """
    digest = hashlib.sha256(f"{seed}/{table}".encode()).digest()
    key = torch.tensor(int.from_bytes(digest[:8], "little", signed=True))
    columns = torch.arange(first_column, first_column + weight.shape[1])
    chunk = max(1, (1 << 22) // max(1, weight.shape[1]))
    for start in range(0, weight.shape[0], chunk):
        part = weight[start : start + chunk]
        row = torch.arange(first_row + start, first_row + start + part.shape[0]).unsqueeze(1)
        bits = _mix(_mix(key + row) + columns)
        uniform = (bits >> 11 & (1 << 24) - 1).double() / (1 << 23) - 1.0
        part.copy_(uniform * scale)


def table_of(parameter: str, prefixes: tuple[str, ...]) -> str:
    """Table behind a parameter name such as `embedding_bags.click__user.weight`, without the copy's prefix."""
    name = parameter.rsplit("embedding_bags.", 1)[-1].removesuffix(".weight")
    prefix = next((p for p in prefixes if p and name.startswith(p)), "")
    return name.removeprefix(prefix)


def _config(schema: Schema, prefix: str, table: str, rows: int) -> EmbeddingBagConfig:
    features = [f.name for f in schema.categorical if f.table_name == table]
    return EmbeddingBagConfig(
        name=prefix + table,
        embedding_dim=schema.dim(table),
        num_embeddings=rows,
        feature_names=features,
        pooling=PoolingType.SUM,  # means and weighted sums arrive as per-id weights
    )


def _table_optimizer(table: Table, config: SparseOptimizerConfig) -> TableOptimizer:
    kind = table.optimizer or config.type
    settings: dict[str, Any] = {"lr": table.learning_rate or config.learning_rate}
    if kind != "sgd":
        settings["eps"] = config.eps
    if config.weight_decay:
        settings["weight_decay"] = config.weight_decay
        if kind == "rowwise_adagrad":  # whose decay FBGEMM leaves out unless told which one it is
            settings["weight_decay_mode"] = WeightDecayMode.L2
    return TableOptimizer(OPTIMIZERS[kind], settings)


def _output_names(schema: Schema, configs: list[EmbeddingBagConfig], prefix: str) -> list[str]:
    readers = {f.name: sum(f.name in c.feature_names for c in configs) for f in schema.categorical}
    # TorchRec names a feature that several tables read "feature@table".
    return [f"{f.name}@{prefix}{f.table_name}" if readers[f.name] > 1 else f.name for f in schema.categorical]


def _mix(value: Tensor) -> Tensor:
    """The splitmix64 finaliser on int64 (wrapping arithmetic, logical shifts)."""
    value = value + -7046029254386353131
    value = (value ^ (value >> 30 & (1 << 34) - 1)) * -4658895280553007687
    value = (value ^ (value >> 27 & (1 << 37) - 1)) * -7723592293110705685
    return value ^ (value >> 31 & (1 << 33) - 1)
