"""One launch at a time on a run directory; whoever was overtaken commits nothing more."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from ranking.distributed.process import Process
from ranking.distributed.world import World
from ranking.errors import InputError
from ranking.training.lease import Lease, hold
from tests.launch import start

ALONE = World(0, 1, torch.device("cpu"))
QUICK = {"beat": 0.1, "expiry": 1.0}


def keep(connection: Connection, folder: Path, host: str) -> None:
    """Take the lease, and fence whenever asked."""
    socket.gethostname = lambda: host
    try:
        lease = Lease.take(folder, **QUICK)
    except InputError:
        connection.send("refused")
        return
    connection.send("held")
    while connection.recv():
        try:
            connection.send(lease.fence() or "may commit")
        except InputError as error:
            connection.send(str(error))


class Other:
    """A launch in a process of its own."""

    def __init__(self, folder: Path, host: str) -> None:
        self.process, self.connection = start(keep, folder, host)

    def heard(self) -> str:
        assert self.connection.poll(60)
        return self.connection.recv()

    def fence(self) -> str:
        """What a commit of the other process would meet."""
        self.connection.send(True)
        return self.heard()

    def signal(self, number: int) -> None:
        os.kill(self.process.pid or 0, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "lease"


@pytest.fixture
def other(folder: Path) -> Iterator[Callable[[], Other]]:
    started: list[Other] = []

    def begin(host: str = socket.gethostname(), told: str = "held") -> Other:
        started.append(Other(folder, host))
        assert not told or started[-1].heard() == told
        return started[-1]

    yield begin
    for each in started:
        each.kill()


def tokens(folder: Path) -> list[int]:
    return sorted(int(file.stem) for file in folder.iterdir() if file.suffix in (".json", ".released"))


def test_a_second_launch_is_refused_with_the_holders_name(folder, other) -> None:
    first = other()
    with pytest.raises(InputError) as caught:
        Lease.take(folder, **QUICK)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{folder.parent}: another launch (host ")
    assert f"pid {first.process.pid}) trains here since 20" in str(caught.value)
    assert first.fence() == "may commit"


def test_after_a_release_the_next_launch_takes_a_higher_token(folder) -> None:
    held = []
    for _ in range(3):
        lease = Lease.take(folder, **QUICK)
        lease.fence()
        lease.release()
        held.append(lease.token)
    assert held == [1, 2, 3]
    assert tokens(folder) == [3]


def test_a_released_lease_commits_nothing(folder) -> None:
    lease = Lease.take(folder, **QUICK)
    lease.release()
    with pytest.raises(InputError, match=r"this launch \(token 1\) lost the run directory: the lease is gone"):
        lease.fence()


def test_a_killed_holder_of_this_host_is_followed_at_once(folder, other) -> None:
    other().kill()
    lease = Lease.take(folder, beat=60, expiry=3600)  # had it to wait for a heartbeat, it would wait a minute
    assert lease.token == 2
    lease.release()


def test_a_silent_holder_of_another_host_is_followed_after_the_expiry(folder, other) -> None:
    first = other(host="elsewhere")
    with pytest.raises(InputError, match=r"another launch \(host elsewhere, pid"):
        Lease.take(folder, **QUICK)
    first.kill()
    lease = Lease.take(folder, **QUICK)
    assert lease.token == 2
    lease.release()


def test_a_holder_that_was_stopped_and_wakes_up_cannot_commit(folder, other) -> None:
    first = other()
    first.signal(signal.SIGSTOP)
    told: list[str] = []
    lease = Lease.take(folder, lost=told.append, **QUICK)
    first.signal(signal.SIGCONT)
    assert f"(token 1) lost the run directory: host {Process.own().host}, pid {os.getpid()} holds it" in first.fence()
    lease.fence()
    assert told == []
    lease.release()


def test_a_holder_that_slept_while_nobody_came_goes_on(folder, other) -> None:
    first = other()
    first.signal(signal.SIGSTOP)
    time.sleep(1.2)  # longer than the expiry
    first.signal(signal.SIGCONT)
    assert first.fence() == "may commit"
    with pytest.raises(InputError, match="another launch"):
        Lease.take(folder, **QUICK)


def test_of_many_that_come_at_once_one_holds(folder, other) -> None:
    many = [other(told="") for _ in range(6)]
    assert sorted(each.heard() for each in many) == ["held", *["refused"] * 5]


def test_the_loss_is_told_without_a_commit(folder) -> None:
    told: list[str] = []
    lease = Lease.take(folder, lost=told.append, **QUICK)
    (folder / f"{7:020d}.json").write_text(lease.holder.model_copy(update={"nonce": "another"}).model_dump_json())
    deadline = time.monotonic() + 10
    while not told and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "lost the run directory" in told[0]


def test_a_directory_that_stayed_empty_is_removed(tmp_path) -> None:
    with hold(tmp_path / "run", ALONE) as fence:
        fence()
        assert (tmp_path / "run" / "lease").is_dir()
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    with hold(tmp_path / "run", ALONE):
        pass
    assert tokens(tmp_path / "run" / "lease") == [1]


def test_a_process_is_known_to_be_gone_only_where_that_can_be_known() -> None:
    own = Process.own()
    assert not own.gone
    assert own.model_copy(update={"started": own.started + 1}).gone, "another process has the number now"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert own.model_copy(update={"pid": ended.pid}).gone
    assert not own.model_copy(update={"pid": ended.pid, "host": "elsewhere"}).gone
    assert not own.model_copy(update={"pid": ended.pid, "space": "another container"}).gone
