"""Who a process is, and what it refuses to start on."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from ranking.distributed.collectives import all_gather, broadcast
from ranking.distributed.world import join, speaks, versions
from ranking.errors import InputError, RankZeroReportsError
from tests.launch import environment, free_port, launch


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in environment(0, 1, 0):
        if name != "OMP_NUM_THREADS":
            monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.filterwarnings("ignore")  # torch's own deprecations
def test_without_a_launcher_it_is_a_world_of_one(no_launcher) -> None:
    with join("cpu") as world:
        assert (world.rank, world.size, world.device.type, world.control, world.is_rank_zero) == (
            0,
            1,
            "cpu",
            None,
            True,
        )
        assert dist.is_initialized()
    assert not dist.is_initialized()


def who(world) -> tuple[int, int, bool, int]:
    return world.rank, world.size, world.is_rank_zero, dist.get_world_size(world.control)


def test_every_rank_knows_its_place() -> None:
    assert launch(who, 3) == [(0, 3, True, 3), (1, 3, False, 3), (2, 3, False, 3)]


def test_a_launcher_that_names_no_port_is_refused(no_launcher) -> None:
    no_launcher.setenv("WORLD_SIZE", "2")
    no_launcher.setenv("RANK", "1")
    with pytest.raises(InputError, match="MASTER_PORT: missing in a world of 2"), join("cpu"):
        pass


@pytest.mark.filterwarnings("ignore")
def test_a_busy_port_is_named(no_launcher) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for name, value in environment(0, 2, taken.getsockname()[1]).items():
            no_launcher.setenv(name, value)
        with (
            pytest.raises(InputError, match=rf"MASTER_PORT: cannot use 127.0.0.1:{taken.getsockname()[1]}") as caught,
            join("cpu"),
        ):
            pass
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_cuda_without_a_device_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("ranking.distributed.world.check_fbgemm", lambda device: None)
    with pytest.raises(InputError, match="torch sees no CUDA device"), join("cuda"):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_what_all_ranks_of_a_host_find_out_one_of_them_says(no_launcher) -> None:
    assert speaks()
    no_launcher.setenv("LOCAL_RANK", "1")
    assert not speaks()
    with pytest.raises(RankZeroReportsError, match="device: got 'cuda'"), join("cuda"):
        pass


def meet(world, attempts: int) -> list[tuple[list[int], bool]]:
    """What two ranks find in attempts that follow each other on one store, as under torchrun's agent."""
    agent = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if world.is_rank_zero else None
    variables = {
        "MASTER_PORT": str(broadcast(agent.port if agent else 0, world)),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    dist.destroy_process_group()
    os.environ |= variables
    found = []
    for _ in range(attempts):
        with join("cpu") as again:
            found.append((all_gather(again.rank, again), again.store.check(["left behind"])))
            again.store.set("left behind", str(all_gather(None, again)))
            all_gather(None, again)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # for `launch` to leave
    return found


def test_every_attempt_of_a_launcher_meets_anew() -> None:
    assert launch(meet, 2, 3) == [[([0, 1], False)] * 3] * 2


def test_ranks_that_do_not_come_are_named(no_launcher) -> None:
    for name, value in environment(0, 3, free_port()).items():
        no_launcher.setenv(name, value)
    with pytest.raises(InputError, match=r"ranks: \[1, 2\] did not come within 0.5 s; expected 3 ranks"):
        with join("cpu", timedelta(seconds=0.5)):
            pass


def test_versions_name_what_decides_a_result() -> None:
    assert {"torch", "torchrec", "pyarrow"} <= versions().keys()


def test_free_ports_are_free() -> None:
    assert free_port() != free_port()
