"""What a checkpoint costs by size: how long training stands still, when it is durable, and how long it takes to load.

Ours: sharded, hashed, fsynced and committed; verified before it is loaded. The other side is the same save while
training waits (`sync`), or torch.save and torch.load of the same tensors with an fsync, without hashes, commit or
shards.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness, workload
from pipelines.assembly import Assembly
from pipelines.job import _quiet
from ranking.distributed.world import World, join
from ranking.training.checkpoint import Checkpoints
from ranking.training.commits import CheckpointConfig
from ranking.training.saving import Saves
from ranking.training.state import TrainState


class Sides:
    """The ways to keep one state on disk."""

    def __init__(self, state: TrainState, folder: Path, world: World) -> None:
        self.state, self.file = state, folder / "plain.pt"
        self.checkpoints = Checkpoints(folder / "checkpoints", CheckpointConfig(), world)
        self.beside = Saves(self.checkpoints)
        sync = CheckpointConfig(mode="sync")
        self.waiting = Saves(Checkpoints(folder / "checkpoints", sync, world))
        parts = {name: [part.tensor for part in laid.parts] for name, laid in state.tensors().items()}
        self.tensors = {f"{name}/{i}": tensor for name, own in parts.items() for i, tensor in enumerate(own)}
        self.mib = sum(t.numel() * t.element_size() for t in self.tensors.values()) / 2**20

    def stall(self, saves: Saves) -> float:
        """Seconds training waits for a save; it ends before the next begins."""
        seconds = harness.timed(lambda: self._save(saves))
        saves.finish()
        return seconds

    def durable(self, saves: Saves) -> float:
        """Seconds from the wish to save to the commit."""
        return harness.timed(lambda: (self._save(saves), saves.finish()))

    def load(self) -> float:
        """Seconds to verify the newest commit and fill the state from it."""
        return harness.timed(lambda: self.checkpoints.restore(self.state))

    def plain_save(self) -> float:
        """Seconds of torch.save with an fsync."""
        return harness.timed(self._write)

    def plain_load(self) -> float:
        """Seconds of torch.load and a copy into the state's tensors."""
        return harness.timed(self._read)

    def _save(self, saves: Saves) -> None:
        progress = self.state.progress
        self.state.progress = progress.model_copy(update={"step": progress.step + 1})
        saves.save(self.state, None, lambda commit: None)

    def _write(self) -> None:
        with self.file.open("wb") as stream:
            torch.save(self.tensors, stream)
            stream.flush()
            os.fsync(stream.fileno())

    @torch.no_grad()
    def _read(self) -> None:
        for name, value in torch.load(self.file, weights_only=True).items():
            self.tensors[name].copy_(value)


def cases(options: Any, world: World, folder: Path) -> Iterator[dict[str, object]]:
    """Stall, time to durable and load time at every size."""
    place = workload.prepare(options.data, options.rows)
    for rows in options.table_rows:
        sizes = {name: {"rows": rows} for name in workload.schema().table_names()}
        config = workload.config(place, folder / "run", schema={"tables": sizes}, device=world.device.type)
        sides = Sides(Assembly(config, world).state(1), folder, world)
        pairs = {
            "stall, async against sync": (partial(sides.stall, sides.beside), partial(sides.stall, sides.waiting)),
            "durable, async against sync": (
                partial(sides.durable, sides.beside),
                partial(sides.durable, sides.waiting),
            ),
            "durable, sync against torch.save": (partial(sides.durable, sides.waiting), sides.plain_save),
            "load against torch.load": (sides.load, sides.plain_load),
        }
        for what, (ours, other) in pairs.items():
            yield harness.alternate(f"{what}, {sides.mib:.0f} MiB", "s", ours, other, options.rounds).summary()
        shutil.rmtree(folder / "checkpoints")


def main() -> None:
    parser = harness.arguments(__doc__ or "", rounds=5)
    parser.set_defaults(rows=100_000)
    parser.add_argument("--table-rows", type=int, nargs="+", default=[10_000, 100_000, 400_000], help="of 20 tables")
    parser.add_argument("--folder", type=Path, help="where checkpoints are written; left out: a temporary directory")
    options = parser.parse_args()
    _quiet()
    before = harness.machine()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, join("cpu") as world:
        found = list(cases(options, world, Path(folder)))
    harness.report("checkpoint", before, {"tables": "20 x 16, row-wise Adagrad", "rounds": options.rounds}, found)


if __name__ == "__main__":
    main()
