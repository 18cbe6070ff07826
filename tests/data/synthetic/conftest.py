"""One log, drawn once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from ranking.data.synthetic.features import FeatureConfig
from ranking.data.synthetic.impressions import ImpressionsConfig, impressions
from ranking.data.synthetic.population import Population, PopulationConfig

PEOPLE = {"users": 2000, "items": 1000, "like_rate": 0.1, "seed": 3}


@pytest.fixture(scope="session")
def people() -> Callable[..., PopulationConfig]:
    """Settings of a small population."""
    return lambda **changes: PopulationConfig(**{**PEOPLE, **changes})


@pytest.fixture(scope="session")
def log_of(people: Callable[..., PopulationConfig]) -> Callable[..., ImpressionsConfig]:
    """Settings of a log over it."""

    def build(**changes: Any) -> ImpressionsConfig:
        return ImpressionsConfig(**{"population": people(), "features": FeatureConfig(history=4), **changes})

    return build


@pytest.fixture(scope="session")
def population(people: Callable[..., PopulationConfig]) -> Population:
    return Population(people())


@pytest.fixture(scope="session")
def log(log_of: Callable[..., ImpressionsConfig]) -> pa.Table:
    """200 000 rows of 4 days."""
    return pa.concat_tables(impressions(log_of(rows=200_000, days=4)))
