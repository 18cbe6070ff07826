"""Configuration of tables and their placement; apart from what uses it, as TorchRec takes seconds to import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ranking.schema import Frozen


class ShardingConfig(Frozen):
    """What the planner may assume about the machines."""

    hbm_gib: float | None = Field(None, gt=0, description="Memory of one accelerator; left out: TorchRec's default.")
    ddr_gib: float | None = Field(None, gt=0, description="Host memory a rank may use for tables.")
    local_world_size: int | None = Field(None, ge=1, description="Ranks on one host; left out: all of them.")
    pooling_factor: float = Field(1.0, gt=0, description="Typical number of ids a multi-hot feature carries.")


class SparseOptimizerConfig(Frozen):
    """The embedding tables' optimizer, fused into their backward pass; a table may override type and rate."""

    type: Literal["rowwise_adagrad", "adagrad", "sgd", "adam"] = Field(
        "rowwise_adagrad", description="adam needs CUDA."
    )
    learning_rate: float = Field(0.05, gt=0, description="After warm-up.")
    eps: float = Field(1e-8, gt=0, description="Added to the denominator (Adagrad and Adam).")
    weight_decay: float = Field(
        0.0,
        ge=0,
        description="Of the rows a step touches: L2 with rowwise_adagrad, decoupled with adam. CUDA only: FBGEMM has "
        "none for the others, nor on CPU. Not with data_parallel tables: every row would shrink at every step.",
    )
