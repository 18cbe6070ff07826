"""Shared by all tests: the tiny workspace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workspace import Workspace, build


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Data, transforms and configuration; whoever changes a file builds a workspace of their own."""
    return build(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def new_workspace(tmp_path: Path) -> Callable[[], Workspace]:
    return lambda: build(tmp_path / "workspace")
