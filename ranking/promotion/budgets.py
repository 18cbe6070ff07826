"""What a challenger may cost and how far it may move: latency, size, and shadow scores beside the champion's; pure."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from ranking.metrics import midranks
from ranking.metrics.report import Array
from ranking.promotion.verdict import Check
from ranking.schema import Frozen


class LatencyConfig(Frozen):
    """A request of N rows, timed on this machine for both models in turns; nothing is timed without a bound."""

    p95_ms: float | None = Field(None, gt=0, description="Bound of the challenger's 95th percentile, in milliseconds.")
    ratio: float | None = Field(None, gt=0, description="Bound of its 95th percentile over the champion's.")
    rows: int = Field(256, ge=1, description="Rows of a request.")
    requests: int = Field(50, ge=20, description="Timed requests of each model.")

    @property
    def bounded(self) -> bool:
        """Whether there is anything to time for."""
        return self.p95_ms is not None or self.ratio is not None


class ShadowConfig(Frozen):
    """The fused scores of both models on the same rows: always reported, and bounded where a bound is set."""

    rows: int = Field(50_000, ge=2, description="Sample of the pinned rows, evenly spaced.")
    moved: float = Field(0.2, gt=0, description="A score moves when it changes by more than this share of itself.")
    max_moved: float | None = Field(None, ge=0, le=1, description="Bound of the share of rows whose score moves.")
    min_correlation: float | None = Field(None, ge=-1, le=1, description="Bound of the rank correlation (Spearman).")

    @model_validator(mode="after")
    def _finite(self) -> Self:
        if not np.isfinite(self.moved):
            raise ValueError(f"moved: got {self.moved}; expected a finite share")
        return self


class Cost(NamedTuple):
    """What serving a model takes: 95th percentile of a request in milliseconds (None: not timed), artefact in MiB."""

    p95_ms: float | None
    mib: float


def judge_latency(own: Cost, old: Cost | None, config: LatencyConfig) -> list[Check]:
    """Both bounds of the latency; the ratio needs a champion to be judged by."""
    checks = []
    if config.p95_ms is not None:
        bound = f"<= {config.p95_ms:g} ms for {config.rows} rows"
        checks.append(Check("latency", "", own.p95_ms is not None and own.p95_ms <= config.p95_ms, bound, own.p95_ms))
    if config.ratio is not None and old is not None:
        ratio = own.p95_ms / old.p95_ms if own.p95_ms is not None and old.p95_ms else None
        bound = f"<= {config.ratio:g} times the champion's"
        checks.append(Check("latency_ratio", "", ratio is not None and ratio <= config.ratio, bound, ratio))
    return checks


def judge_size(own: Cost, most: float | None) -> list[Check]:
    """The bound of the artefact's size in MiB."""
    return [] if most is None else [Check("size", "", own.mib <= most, f"<= {most:g} MiB", own.mib)]


def judge_shadow(own: Array, old: Array, config: ShadowConfig) -> tuple[list[Check], str]:
    """How the scores `[N]` of the challenger differ from the champion's `[N]`.

    Returns:
        Checks of the bounds that are set, and one line for the report.
    """
    sample = np.unique(np.linspace(0, len(own) - 1, min(config.rows, len(own))).astype(np.int64))
    new, before = own[sample].astype(np.float64), old[sample].astype(np.float64)
    moved, correlation = _moved(new, before, config.moved), _rank_correlation(new, before)
    checks = []
    if config.max_moved is not None:
        holds = moved is not None and moved <= config.max_moved
        checks.append(Check("shadow_moved", "", holds, f"<= {config.max_moved:g}", moved))
    if config.min_correlation is not None:
        holds = correlation is not None and correlation >= config.min_correlation
        checks.append(Check("shadow_correlation", "", holds, f">= {config.min_correlation:g}", correlation))
    shown = "undefined" if correlation is None else f"{correlation:.4f}"
    share = "undefined" if moved is None else f"{moved:.1%}"
    return checks, (
        f"shadow: the score of {share} of {len(sample)} rows moves by more than {config.moved:.0%}; "
        f"rank correlation with the champion's {shown}"
    )


def _moved(new: Array, before: Array, share: float) -> float | None:
    """Share of rows whose score changes by more than `share` of itself; None where a score is not finite."""
    if not len(new) or not (np.isfinite(new) & np.isfinite(before)).all():
        return None
    return float(np.mean(np.abs(new - before) > share * np.abs(before)))


def _rank_correlation(one: Array, other: Array) -> float | None:
    """Spearman's rho with midranks for ties; None where a score is not finite or either column is constant."""
    if not (np.isfinite(one) & np.isfinite(other)).all():
        return None
    first, second = (ranks - ranks.mean() for ranks in (midranks(one), midranks(other)))
    norm = float(np.sqrt(first @ first) * np.sqrt(second @ second))
    return float(first @ second) / norm if norm > 0 else None
