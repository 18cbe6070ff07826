"""One-gate Mixture-of-Experts: y_k = h^k( sum_i g(x)_i f_i(x) ) [MMoE, section 3.3]."""

from __future__ import annotations

from typing import Literal

from ranking.models.mmoe import MMoE, MoEConfig


class OMoEConfig(MoEConfig):
    """A single gate for all tasks."""

    type: Literal["omoe"] = "omoe"


class OMoE(MMoE):
    """MMoE whose tasks share one gate."""

    Config = OMoEConfig

    @staticmethod
    def gate_count(tasks: int) -> int:
        """One gate for all tasks."""
        return 1
