"""The training job of the campaign: `python -m tests.faults.job FAULTS <arguments of train>`.

FAULTS is what `tests.faulty` takes; the phases of a save and the kinds below come on top.
Every step's rows and losses go to `steps/<launch>-<attempt>-<rank>.jsonl` beside the run directory. No figure is
drawn: that is most of a tiny job's time, and nothing of it is in what is compared.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

from pipelines import train
from ranking.training import checkpoint, commits
from ranking.training.checkpoint import Checkpoints
from ranking.training.trainer import Trainer
from tests import faulty

SMALL = 24 << 10
"""Bytes that fit on a full disk: log lines do, the tensors of a checkpoint do not."""

SAVING = {
    "begin": (Checkpoints, "_begin"),
    "write": (checkpoint, "_write"),
    "fsync": (os, "fsync"),
    "hash": (checkpoint, "hashes"),
    "seal": (Checkpoints, "_commit"),
    "mark": (checkpoint, "mark"),
    "sync": (commits, "sync"),
    "collect": (checkpoint, "collect"),
}
"""Phases of a save, in their order; rank 0 alone passes `begin`, and all from `seal` on."""


def limit(size: int) -> None:
    """Writes past the limit fail from here on, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def record() -> None:
    after, began = Trainer._after, os.environ.get("LAUNCH", "0")
    folder = faulty.output().parent / "steps"
    folder.mkdir(exist_ok=True)
    attempt, rank = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), os.environ.get("RANK", "0")
    place = folder / f"{int(began):03}-{int(attempt):03}-{rank}.jsonl"

    def recorded(self: Trainer, taken: Any) -> Any:
        rows = taken.batch.rows
        taken_on = {"step": taken.batch.step, "rows": rows.index[rows.real].tolist()}
        line = json.dumps(taken_on | {"losses": taken.shares.tolist(), "time": time.time()})
        with place.open("a") as file:
            file.write(line + "\n")
        return after(self, taken)

    Trainer._after = recorded  # type: ignore[method-assign]


if __name__ == "__main__":
    faulty.PLACES.update(SAVING)
    faulty.KINDS.update(
        full=lambda: limit(SMALL), room=lambda: limit(resource.RLIM_INFINITY), pause=lambda: time.sleep(6)
    )
    faults = sys.argv.pop(1)
    record()
    for each in filter(None, faults.split(",")):
        faulty.inject(each)
    train.draw = lambda *_: None  # type: ignore[assignment]
    train.main()
