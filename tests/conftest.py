"""Shared by all tests: the tiny workspace, damage to its files, and an object store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workspace import Workspace, build


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Data, transforms and configuration; whoever changes a file builds a workspace of their own."""
    return build(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def new_workspace(tmp_path: Path) -> Callable[[], Workspace]:
    return lambda: build(tmp_path / "workspace")


@pytest.fixture(scope="session")
def damage() -> Callable[[str, int], None]:
    """Flips the last bit of the first column of a row group, in a file that keeps its footer."""

    def flip(url: str, group: int, column: int = 0) -> None:
        system, path = fsspec.core.url_to_fs(url)
        content = bytearray(system.cat_file(path))
        chunk = pq.read_metadata(pa.BufferReader(bytes(content))).row_group(group).column(column)
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        content[start + chunk.total_compressed_size - 1] ^= 1
        system.pipe_file(path, bytes(content))

    return flip


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, object]]:
    """A bucket `ranking` behind the real S3 protocol; yields fsspec's storage options."""
    server = pytest.importorskip("moto.server", reason="moto[server,s3] is not installed")
    pytest.importorskip("s3fs")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    options: dict[str, object] = {"key": "k", "secret": "s", "endpoint_url": f"http://{host}:{port}"}
    system = fsspec.filesystem("s3", **options)
    system.mkdir("ranking")
    yield options
    running.stop()
