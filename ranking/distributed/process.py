"""What the operating system knows of a process: which it is, whether it is gone, what it keeps, who goes first."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from ranking.schema import Frozen

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_NICE = 10  # a tenth of a core that training wants, the whole of one that it does not


class Process(Frozen):
    """One process among all that ever ran on any host.

    Attributes:
        host: name of its host.
        space: boot of that host and PID namespace, "" where the system has none; a pid means something only there.
        pid: its number.
        started: clock ticks from boot to its start, 0 where unknown; tells it from a later one of the same number.
    """

    host: str
    space: str
    pid: int
    started: int

    @classmethod
    def own(cls) -> Process:
        """This process."""
        _, started = _state(os.getpid())
        return cls(host=socket.gethostname(), space=_space(), pid=os.getpid(), started=started)

    @property
    def near(self) -> bool:
        """Whether this process can tell if that one lives."""
        return (self.host, self.space) == (socket.gethostname(), _space())

    @property
    def gone(self) -> bool:
        """Whether it has provably ended; False wherever that cannot be known."""
        if not self.near:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        state, started = _state(self.pid)
        return state in ("Z", "X") or started != self.started

    def kill(self) -> None:
        """End it where this process can, so that a stopped one does not wake up again."""
        if self.near and not self.gone and self.pid != os.getpid():
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)

    def __str__(self) -> str:
        """As a user wants to read it."""
        return f"host {self.host}, pid {self.pid}"


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies; only Linux can, others are left to poll."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def give_way() -> None:
    """Let other threads go before this one, where cores are short; only Linux knows priorities of threads."""
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox may forbid it
            os.nice(_NICE)


def keep_memory(arrow: bool = True) -> None:
    """Have glibc keep what is freed: handed back to the system, a large block costs page faults at its next use.

    Args:
        arrow: let Arrow take the columns it decodes from there, too; the allocator it brings hands back within
            milliseconds.
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if adjust is None:  # as in musl
        return
    if adjust(_M_MMAP_THRESHOLD, 1 << 30) or adjust(_M_MMAP_THRESHOLD, 32 << 20):  # before 2.35 at most 32 MiB
        adjust(_M_TRIM_THRESHOLD, (1 << 31) - 1)  # alone it would freeze the other where it is
        if arrow:
            pa.set_memory_pool(pa.system_memory_pool())


def _space() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _state(pid: int) -> tuple[str, int]:
    """State letter and start of a process; ("", 0) without /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # the name before may hold anything
    except OSError:
        return "", 0
    return fields[0], int(fields[19])
