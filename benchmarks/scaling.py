"""From one process to two on this machine, and on paper beyond: what a step sends, against what a model says it sends.

Batches lie in memory, as in `step`; processes of every case are started anew each round, in turn. The model counts the
ids, vectors and gradients that leave a rank (tables placed whole, spread evenly; ring all-reduce); measured are the
bytes of the loopback interface, where nothing else must talk meanwhile. A step of two processes is predicted as a step
of one on the same rows a process, and the exchanges of the model's sizes alone, one after another.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks import harness, launch, sides, workload
from benchmarks.step import Bench
from ranking.distributed.world import World

STEPS = 60  # of a measurement
IDS_A_ROW = workload.IDS - workload.LISTS + 4.5 * workload.LISTS  # lists have 0 to 9
RATE = 12.5e9  # bytes a second of a 100 Gbit/s link, for the figures on paper


@dataclass(frozen=True)
class Traffic:
    """Bytes that leave one rank in a step.

    Attributes:
        ids: to the ranks that hold their tables: a length for each feature and row, and the ids; 4 bytes each.
        vectors: to the ranks whose rows they are, and their gradients back; float32.
        gradients: of the network, in a ring all-reduce; float32.
    """

    ids: float
    vectors: float
    gradients: float

    @classmethod
    def of(cls, size: int, rows: int, parameters: int) -> Traffic:
        """The workload's, for `rows` a rank in a world of `size`."""
        away = rows * (size - 1) / size  # of what a rank has, the share that belongs elsewhere
        ids = away * 4 * (workload.IDS + IDS_A_ROW)
        return cls(ids, 2 * away * 4 * workload.IDS * sides.DIM, 2 * (size - 1) / size * 4 * parameters)

    @property
    def total(self) -> float:
        """Of everything."""
        return self.ids + self.vectors + self.gradients


def measure(world: World, place: Path, batch: int, parameters: int) -> dict[str, float]:
    """On one rank: milliseconds and loopback bytes of a step, and milliseconds of its exchanges alone."""
    with tempfile.TemporaryDirectory() as folder:
        step = Bench(world, place, Path(folder), batch, "fp32").step()
    traffic = Traffic.of(world.size, batch // world.size, parameters)
    found = _timed(world, step) | {"exchange": 0.0}
    if world.size > 1:
        found["exchange"] = _timed(world, _exchanges(world.size, traffic, parameters))["ms"]
    return found


def _exchanges(size: int, traffic: Traffic, parameters: int) -> Callable[[], None]:
    """Ids there, vectors back, their gradients there, the network's summed."""
    own = size / (size - 1)  # an all-to-all keeps its own share
    ids = torch.zeros(int(traffic.ids * own) // 4 // size * size, dtype=torch.int32)
    vectors = torch.zeros(int(traffic.vectors * own) // 8 // size * size)  # one way
    there, gradients = [ids, vectors, vectors], torch.zeros(parameters)
    back = [torch.empty_like(tensor) for tensor in there]

    def run() -> None:
        for into, out in zip(back, there, strict=True):
            dist.all_to_all_single(into, out)
        dist.all_reduce(gradients)

    return run


def _timed(world: World, work: Callable[[], object]) -> dict[str, float]:
    for _ in range(10):
        work()
    if world.control is not None:
        dist.barrier(world.control)
    began, before = time.perf_counter(), _loopback()
    for _ in range(STEPS):
        work()
    if world.control is not None:
        dist.barrier(world.control)
    return {"ms": 1000 * (time.perf_counter() - began) / STEPS, "bytes": (_loopback() - before) / STEPS}


def _loopback() -> int:
    """Bytes that the loopback interface has sent so far."""
    file = Path("/proc/net/dev")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((int(line.split(":")[1].split()[8]) for line in lines if line.strip().startswith("lo:")), 0)


def cases(place: Path, batch: int, rounds: int) -> list[dict[str, object]]:
    """Of one batch of one process."""
    parameters = sum(p.numel() for p in sides.Network(torch.device("cpu")).parameters())
    traffic = Traffic.of(2, batch, parameters)

    def run(processes: int, rows: int) -> Any:
        return launch.ranks(measure, processes, "cpu", place, rows, parameters)[0]

    strong, weak, sent, steps = (
        harness.Case(f"{name}: batch {batch}", unit)
        for name, unit in [
            ("2 processes on the batch; 1", "rows/s"),
            ("2 processes on a batch each; 1", "rows/s"),
            ("sent in a step of 2 processes with a batch each; model", "KiB"),
            ("such a step; a step of 1 and the exchanges alone", "ms"),
        ]
    )
    for _ in range(rounds):
        alone, shared, each = run(1, batch), run(2, batch), run(2, 2 * batch)
        for case, ours, rows in ((strong, shared, batch), (weak, each, 2 * batch)):
            case.ours.append(1000 * rows / ours["ms"])
            case.other.append(1000 * batch / alone["ms"])
        sent.ours.append(each["bytes"] / 1024)
        sent.other.append(2 * traffic.total / 1024)
        steps.ours.append(each["ms"])
        steps.other.append(alone["ms"] + each["exchange"])
    return [case.summary() for case in (strong, weak, sent, steps) if statistics.median(case.ours)]


def on_paper(batch: int) -> list[dict[str, object]]:
    """What a rank sends in a step of `batch` rows a rank, and how long that takes a link of 100 Gbit/s."""
    parameters, found = sum(p.numel() for p in sides.Network(torch.device("cpu")).parameters()), []
    for size in (2, 4, 8, 16, 64):
        traffic = Traffic.of(size, batch, parameters)
        kib = {name: round(getattr(traffic, name) / 1024) for name in ("ids", "vectors", "gradients")}
        found.append({"ranks": size, "rows a rank": batch, **kib, "ms": round(1000 * traffic.total / RATE, 3)})
    return found


def main() -> None:
    parser = harness.arguments(__doc__ or "", rounds=3)
    parser.set_defaults(rows=250_000)
    parser.add_argument("--batch", type=int, nargs="+", default=[1024, 4096])
    options = parser.parse_args()
    before, place = harness.machine(), workload.prepare(options.data, options.rows)
    found = list(itertools.chain.from_iterable(cases(place, batch, options.rounds) for batch in options.batch))
    threads = launch.threads()
    said = {"threads": threads, "matmul": "medium", "precision": "fp32", "rounds": options.rounds, "steps": STEPS}
    harness.report("scaling", before, said, found, paper=[row for batch in options.batch for row in on_paper(batch)])


if __name__ == "__main__":
    main()
