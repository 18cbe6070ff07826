"""Progressive Layered Extraction: CGC stacked over levels [PLE, section 4.2]."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from ranking.models.cgc import CGC, ExtractionConfig


class PLEConfig(ExtractionConfig):
    """Any number of levels."""

    type: Literal["ple"] = "ple"
    levels: int = Field(2, ge=1, description="The top layers of `bottom` that become levels of experts.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.levels > len(self.bottom):
            raise ValueError(f"levels: got {self.levels}; expected at most the {len(self.bottom)} layers of bottom")
        return self


class PLE(CGC):
    """CGC whose branches, the shared one by a gate over all experts, feed the next level; the last has task gates."""

    Config = PLEConfig

    @staticmethod
    def depth(config: Any) -> int:
        """As configured."""
        levels: int = config.levels
        return levels
