"""What a process asks of the operating system."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch

from ranking.distributed.process import give_way, keep_memory
from ranking.distributed.world import join
from tests.launch import environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
LIBC, VERSION = platform.libc_ver()
GLIBC = pytest.mark.skipif(
    LIBC != "glibc" or tuple(map(int, VERSION.split("."))) < (2, 35),
    reason="only glibc is told to keep memory, an older one blocks of 32 MiB at most",
)
M_MMAP_THRESHOLD = -3


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_a_thread_that_gives_way_leaves_the_others_their_priority() -> None:
    before = niceness()
    with ThreadPoolExecutor(1, initializer=give_way) as pool:
        assert pool.submit(niceness).result() == min(before + 10, 19)
    assert niceness() == before


def arrow_pool() -> str:
    with join("cpu"):
        return str(pa.default_memory_pool().backend_name)


@GLIBC
def test_arrow_takes_its_memory_from_glibc_unless_told_otherwise() -> None:
    assert in_a_fresh_process(arrow_pool) == "system"
    assert in_a_fresh_process(arrow_pool, ARROW_DEFAULT_MEMORY_POOL="mimalloc") == "mimalloc"
    assert in_a_fresh_process(arrow_pool, MALLOC_TRIM_THRESHOLD_="131072") != "system"


def page_faults() -> int:
    """Of a hundred blocks of 64 MiB, one after another, in a job that has joined its world and run for a while."""
    with join("cpu"):
        for block in range(150):
            if block == 50:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.ones(16 << 20)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def in_a_fresh_process(function: Callable[[], object], **variables: str) -> str:
    allocators = ("MALLOC_", "GLIBC_", "ARROW_", "LD_PRELOAD")
    known = {name: value for name, value in os.environ.items() if not name.startswith(allocators)}
    name = function.__name__
    code = f"from tests.distributed.test_process import {name}; print({name}())"
    command = [sys.executable, "-c", code]
    return subprocess.check_output(command, env=known | environment(0, 1, 0) | variables, text=True).strip()


@GLIBC
def test_a_job_keeps_the_memory_it_freed() -> None:
    assert int(in_a_fresh_process(page_faults)) < 1000


@GLIBC
@pytest.mark.parametrize(
    "choice",
    [{"MALLOC_MMAP_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}],  # its defaults
)
def test_a_user_who_has_chosen_for_malloc_keeps_the_choice(choice: dict[str, str]) -> None:
    assert int(in_a_fresh_process(page_faults, **choice)) > 1000


@pytest.mark.parametrize(("limit", "left"), [(1 << 30, 1 << 30), (32 << 20, 32 << 20), (0, None)])
def test_the_threshold_of_trimming_is_never_set_alone(monkeypatch, limit: int, left: int | None) -> None:
    settings: dict[int, int] = {}
    pools: list[str] = []

    def mallopt(name: int, value: int) -> int:
        if name == M_MMAP_THRESHOLD and value > limit:
            return 0
        settings[name] = value
        return 1

    monkeypatch.setattr("ctypes.CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    monkeypatch.setattr(pa, "set_memory_pool", lambda pool: pools.append(pool.backend_name))
    keep_memory()
    assert pools == ([] if left is None else ["system"])
    assert settings.get(M_MMAP_THRESHOLD) == left
    assert len(settings) == (0 if left is None else 2)
