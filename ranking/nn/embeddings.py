"""Embedding tables in plain torch: what serving and single-device studies look features up in."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ranking.rows import Ragged
from ranking.schema import Schema


class EmbeddingTables(nn.Module):
    """Pooled look-ups without TorchRec, a process group or FBGEMM; sums of weighted rows, as in training.

    Args:
        schema: features and tables.
        rows: rows of every table.
        prefixes: one copy of all tables for each prefix; `("",)` shares them between tasks.
    """

    def __init__(self, schema: Schema, rows: Mapping[str, int], prefixes: tuple[str, ...] = ("",)) -> None:
        """Allocate the tables."""
        super().__init__()
        self.schema, self.prefixes = schema, prefixes
        self.tables = nn.ParameterDict(
            {
                prefix + table: nn.Parameter(torch.empty(rows[table], schema.dim(table)), requires_grad=False)
                for prefix in prefixes
                for table in schema.table_names()
            }
        )

    def forward(self, sparse: tuple[Tensor, tuple[Ragged, ...]]) -> Tensor:
        """Look every feature up.

        Args:
            sparse: ids `[S, B]` of single-valued features and the multi-hot lists, as in `Rows`.

        Returns:
            `[B, P, E]`: for each of the P prefixes all features' vectors in schema order.
        """
        ids, lists = sparse
        copies = [self._copy(prefix, ids, lists) for prefix in self.prefixes]
        return torch.stack(copies, dim=1)

    def _copy(self, prefix: str, ids: Tensor, lists: tuple[Ragged, ...]) -> Tensor:
        columns, ragged = iter(ids), iter(lists)
        vectors = [
            _pool(self.tables[prefix + feature.table_name], next(ragged))
            if feature.multi_hot
            else self.tables[prefix + feature.table_name][next(columns)]
            for feature in self.schema.categorical
        ]
        return torch.cat(vectors, dim=1) if vectors else ids.new_zeros(ids.shape[1], 0, dtype=torch.float32)


def _pool(table: Tensor, ragged: Ragged) -> Tensor:
    offsets = ragged.lengths.cumsum(0) - ragged.lengths
    return nn.functional.embedding_bag(ragged.values, table, offsets, mode="sum", per_sample_weights=ragged.weights)
