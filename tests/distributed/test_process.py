"""What a process asks of the operating system."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ranking.distributed.process import give_way
from ranking.distributed.world import join
from tests.launch import environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads, and glibc")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_a_thread_that_gives_way_leaves_the_others_their_priority() -> None:
    before = niceness()
    with ThreadPoolExecutor(1, initializer=give_way) as pool:
        assert pool.submit(niceness).result() == min(before + 10, 19)
    assert niceness() == before


def page_faults() -> int:
    """Of a hundred blocks of 64 MiB, one after another, in a job that has joined its world and run for a while."""
    with join("cpu"):
        for block in range(150):
            if block == 50:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.ones(16 << 20)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def in_a_fresh_process(**variables: str) -> int:
    known = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    code = "from tests.distributed.test_process import page_faults; print(page_faults())"
    command = [sys.executable, "-c", code]
    return int(subprocess.check_output(command, env=known | environment(0, 1, 0) | variables, text=True))


def test_a_job_keeps_the_memory_it_freed() -> None:
    assert in_a_fresh_process() < 1000


def test_a_user_who_has_chosen_for_malloc_keeps_the_choice() -> None:
    assert in_a_fresh_process(MALLOC_MMAP_THRESHOLD_="131072") > 1000
