"""Who a process is, and what it refuses to start on."""

from __future__ import annotations

import fbgemm_gpu
import pytest
import torch
import torch.distributed as dist

from ranking.distributed.world import check_fbgemm, join, versions
from ranking.errors import InputError
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
        assert (world.rank, world.size, world.device.type, world.control, world.leads) == (0, 1, "cpu", None, True)
        assert dist.is_initialized()
    assert not dist.is_initialized()


def who(world) -> tuple[int, int, bool, int]:
    return world.rank, world.size, world.leads, dist.get_world_size(world.control)


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


def test_another_fbgemm_build_is_refused_with_the_package_to_install(monkeypatch) -> None:
    wrong = "cuda" if fbgemm_gpu.__variant__ == "cpu" else "cpu"
    package = {"cuda": r"fbgemm-gpu \(requirements/gpu.txt\)", "cpu": r"fbgemm-gpu-cpu \(requirements/cpu.txt\)"}
    with pytest.raises(InputError, match=f"device: got '{wrong}' .* install {package[wrong]}"):
        check_fbgemm(wrong)
    right = str(fbgemm_gpu.__variant__)
    check_fbgemm(right)
    monkeypatch.setattr(fbgemm_gpu, "__variant__", wrong)
    with pytest.raises(InputError, match=f"device: got '{right}' .* install {package[right]}"):
        check_fbgemm(right)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_cuda_without_a_device_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(fbgemm_gpu, "__variant__", "cuda")
    with pytest.raises(InputError, match="torch sees no CUDA device"), join("cuda"):
        pass


def test_versions_name_what_decides_a_result() -> None:
    assert {"torch", "torchrec", "pyarrow"} <= versions().keys()


def test_free_ports_are_free() -> None:
    assert free_port() != free_port()
