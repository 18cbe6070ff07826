from __future__ import annotations

from pathlib import Path

import pytest

from tests.mlflow_store import client, config, ignore_deprecated_loader, server, store  # noqa: F401  # fixtures
from tests.promotion.registry_store import registry, registry_store  # noqa: F401  # fixtures


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ignore_deprecated_loader(items, Path(__file__).parent)
