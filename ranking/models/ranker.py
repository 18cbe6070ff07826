"""The whole network: embeddings, dense features, their crosses, architecture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ranking.models.base import Architecture
from ranking.nn.cross import CrossNetwork


class RankingModel(nn.Module):
    """Sparse and dense features to logits.

    The embedding module is TorchRec's sharded collection in training and plain tables in serving; both return
    vectors in schema order, so the network's weights fit either.

    Args:
        embeddings: callable on the sparse part of a batch, returning `[B, P, E]`.
        architecture: the network on top.
    """

    def __init__(self, embeddings: nn.Module, architecture: Architecture) -> None:
        """Join the two."""
        super().__init__()
        self.embeddings = embeddings
        self.architecture = architecture
        # Not read off a tensor in forward: TorchRec's pipeline traces that with stand-ins, which have no shape.
        self.copies = architecture.inputs(architecture.config, architecture.tasks)
        config = architecture.config
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.cross = CrossNetwork(self.copies, architecture.width, config.cross_layers, config.cross_rank)

    def forward(self, sparse: Any, dense: Tensor) -> Tensor:
        """Logits of every task.

        Args:
            sparse: what `embeddings` takes.
            dense: `[B, F]` float32.

        Returns:
            `[B, T]`.
        """
        vectors = self.embeddings(sparse)
        x = torch.cat([self.dropout(vectors), dense.unsqueeze(1).expand(-1, vectors.shape[1], -1)], dim=2)
        x = self.cross(x.expand(-1, self.copies, -1))
        logits: Tensor = self.architecture(x if self.copies > 1 else x.squeeze(1))
        return logits
