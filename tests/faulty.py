"""A job with faults in it: `python -m tests.faulty FAULTS <arguments>`, of the module JOB, which is the training.

FAULTS is a list, separated by commas, of `<rank>:<kind>:<place>:<call>[:<attempt>]`: what happens to a rank at the
n-th call of a place, and in which of the launcher's attempts (the first). What every step was taken on goes to
`ids/<pid>.jsonl` beside the run directory.
"""

from __future__ import annotations

import errno
import importlib
import inspect
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ranking.data.encode import Encoder
from ranking.training.checkpoint import Checkpoints
from ranking.training.gating import GateWatch
from ranking.training.lease import Lease
from ranking.training.optimizer import Optimizers
from ranking.training.saving import Saves
from ranking.training.trainer import Trainer

PLACES: dict[str, tuple[Any, str]] = {
    "lead": (Lease, "take"),
    "input": (Encoder, "rows"),
    "step": (Optimizers, "step"),
    "evaluation": (GateWatch, "expect"),
    "checkpoint": (Saves, "save"),
    "commit": (Checkpoints, "publish"),
    "write": (Checkpoints, "_begin"),
}


def output() -> Path:
    return next(Path(word.removeprefix("--output=")) for word in sys.argv if word.startswith("--output="))


def fail() -> None:
    raise KeyError("injected")


def fill() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def overtake() -> None:
    """Another launch comes, as after a long sleep of this one."""
    (held,) = output().rglob("lease/*.json")
    holder = json.loads(held.read_text()) | {"nonce": "another"}
    (held.parent / f"{int(held.stem) + 1:020d}.json").write_text(json.dumps(holder))


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


KINDS: dict[str, Callable[[], None]] = {
    "fail": fail,
    "fill": fill,
    "hang": lambda: time.sleep(3600),
    "stop": send(signal.SIGSTOP),
    "die": send(signal.SIGKILL),
    "term": send(signal.SIGTERM),
    "overtake": overtake,
}


def inject(fault: str) -> None:
    rank, kind, place, call, *attempt = fault.split(":")
    here = os.environ.get("RANK", "0"), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if here != (rank, *(attempt or "0")):
        return
    owner, name = PLACES[place]
    original, left = getattr(owner, name), [int(call)]

    def faulty(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            KINDS[kind]()
        return original(*arguments, **options)

    is_plain = inspect.isfunction(inspect.getattr_static(owner, name))
    setattr(owner, name, faulty if is_plain else staticmethod(faulty))


def record() -> None:
    after = Trainer._after
    folder = output().parent / "ids"
    folder.mkdir(exist_ok=True)

    def recorded(self: Trainer, taken: Any) -> Any:
        rows = taken.batch.rows
        with (folder / f"{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps([taken.batch.step, rows.index[rows.real].tolist()]) + "\n")
        return after(self, taken)

    Trainer._after = recorded  # type: ignore[method-assign]


if __name__ == "__main__":
    faults = sys.argv.pop(1)
    record()
    for each in filter(None, faults.split(",")):
        inject(each)
    importlib.import_module(os.environ.get("JOB", "pipelines.train")).main()
