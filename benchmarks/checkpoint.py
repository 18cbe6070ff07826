"""What a checkpoint costs by size: how long training stands still, and how long it takes to come back.

Ours: sharded, hashed, fsynced and committed; verified before it is loaded. The other side: torch.save and torch.load
of the same tensors with an fsync, without hashes, commit or shards.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness, workload
from pipelines.assembly import Assembly
from pipelines.job import _quiet
from ranking.distributed.world import World, join
from ranking.training.checkpoint import Checkpoints
from ranking.training.state import TrainState


class Sides:
    """Both ways to keep one state on disk."""

    def __init__(self, state: TrainState, checkpoints: Checkpoints, folder: Path) -> None:
        self.state, self.checkpoints, self.file = state, checkpoints, folder / "plain.pt"
        self.tensors = {name: _local(value) for name, value in state.tensors().items()}
        self.mib = sum(t.numel() * t.element_size() for t in self.tensors.values()) / 2**20

    def save(self) -> float:
        """Seconds training waits for a commit."""
        progress = self.state.progress
        self.state.progress = progress.model_copy(update={"step": progress.step + 1})
        return harness.timed(lambda: self.checkpoints.save(self.state, None))

    def load(self) -> float:
        """Seconds to verify the newest commit and fill the state from it."""
        return harness.timed(lambda: self.checkpoints.restore(self.state))

    def plain_save(self) -> float:
        """Seconds of torch.save with an fsync."""
        return harness.timed(self._write)

    def plain_load(self) -> float:
        """Seconds of torch.load and a copy into the state's tensors."""
        return harness.timed(self._read)

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
    """Stall and load time at every size."""
    place = workload.prepare(options.data, options.rows)
    for rows in options.table_rows:
        sizes = {name: {"rows": rows} for name in workload.schema().table_names()}
        config = workload.config(place, folder / "run", schema={"tables": sizes}, device=world.device.type)
        sides = Sides(
            Assembly(config, world).state(1), Checkpoints(folder / "checkpoints", config.checkpoints, world), folder
        )
        name = f"{sides.mib:.0f} MiB"
        pairs = {
            "save, training stands still": (sides.save, sides.plain_save),
            "load": (sides.load, sides.plain_load),
        }
        for what, (ours, other) in pairs.items():
            yield harness.alternate(f"{what}, {name}", "s", ours, other, options.rounds).summary()
        shutil.rmtree(folder / "checkpoints")


def _local(value: Any) -> torch.Tensor:
    return value.local_shards()[0].tensor if hasattr(value, "local_shards") else value  # type: ignore[no-any-return]


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
