"""One training step, part by part: every gain of docs/performance.md with its ratio, and what is left.

Batches lie in memory and the sides take turns every few steps. One process: milliseconds of CPU time of the thread
that trains, so that other work on the machine counts little; `other` is the part as it was before, or the bare loop.
Two processes: wall-clock milliseconds of a step.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torchrec.sparse.jagged_tensor import KeyedTensor

from benchmarks import harness, launch, sides, workload
from pipelines.assembly import Assembly
from ranking.batch import RankingBatch
from ranking.data.plan import Position
from ranking.distributed.world import World
from ranking.nn.experts import GroupedLinear
from ranking.training.feed import Feed
from ranking.training.step import EagerPipeline, build_pipeline

Work = Callable[[], object]

STEPS = 5  # a turn


class Bench:
    """The state of one rank, and batches in memory."""

    def __init__(self, world: World, place: Path, folder: Path, batch: int, precision: str) -> None:
        sections = {"data": {"batch_size": batch}, "training": {"precision": precision, "matmul": "medium"}}
        self.world, self.autocast = world, precision == "bf16"
        self.parts = Assembly(workload.config(place, folder, **sections), world)
        self.manifest = self.parts.manifest("train")
        self.state = self.parts.state(1 << 30)
        self.pipeline = build_pipeline(self.state.model, self.state.optimizers, world, 0)
        feed = self.feed()
        self.batches = list(itertools.islice(feed, 32))
        feed.close()

    def feed(self) -> Feed:
        """A training feed from the start."""
        return self.parts.training_feed(self.manifest, Position())

    def step(self) -> Work:
        """Our step on batches in memory."""
        stream = itertools.cycle(self.batches)
        return lambda: self.pipeline.progress(stream)

    def cases(self, rounds: int) -> dict[str, harness.Case]:
        """By name; one process or several."""
        pairs = self._alone() if self.world.size == 1 else self._together()
        return {name: harness.alternate(name, "ms", *map(self._timed, pair), rounds) for name, pair in pairs.items()}

    def _alone(self) -> dict[str, tuple[Work, Work]]:
        bare = sides.bare_dmp(self.world, self.batches, self.autocast)
        direct = sides.direct_op(self.world, self.batches, self.autocast)
        return {
            "step; the bare DMP loop": (self.step(), bare),
            "step; the table-batched op called directly": (self.step(), direct),
            "network; written out": self._networks(),
            "towers' input copied once; by every product": self._copies(),
            "tables, looked up locally; exchanged and regrouped": self._tables(),
            "loss; columns of each loss indexed": self._losses(),
            "network; the same inside DDP": self._wrapped(),
            "rates unchanged; handed to FBGEMM every step": self._rates(),
        }

    def _together(self) -> dict[str, tuple[Work, Work]]:
        feed, waiting = self.feed(), self.feed()
        return {
            "step; the bare DMP loop": (self.step(), sides.bare_dmp(self.world, self.batches, self.autocast)),
            "agreement ahead; awaited": (
                lambda: self.pipeline.progress(feed),
                lambda: self.pipeline.progress(_Awaited(waiting)),
            ),
            "finite loss, agreed beside backward; before it": (self.step(), self._asking_first()),
        }

    def _asking_first(self) -> Work:
        pipeline = _AskingFirst(self.state.model, self.state.optimizers, self.world)
        stream = itertools.cycle(self.batches)
        return lambda: pipeline.progress(stream)

    def _networks(self) -> tuple[Work, Work]:
        architecture = self.state.model.module.model.architecture
        return self._backward(architecture), self._backward(sides.Network(torch.device("cpu")))

    def _copies(self) -> tuple[Work, Work]:
        width = len(self.batches[0].rows)
        before, after = (
            _Strided(sides.TASKS, sides.HIDDEN, sides.TOWER),
            GroupedLinear(sides.TASKS, sides.HIDDEN, sides.TOWER),
        )
        kind = torch.bfloat16 if self.autocast else torch.float32
        mixed = torch.randn(width, sides.TASKS, sides.HIDDEN, dtype=kind, requires_grad=True)
        gradient = torch.randn(sides.TASKS, width, sides.TOWER, dtype=kind)

        def run(layer: GroupedLinear) -> Work:
            def once() -> None:
                with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                    outputs = layer(mixed.transpose(0, 1))
                outputs.backward(gradient)

            return once

        return run(after), run(before)

    def _wrapped(self) -> tuple[Work, Work]:
        network = sides.Network(torch.device("cpu"))
        return self._backward(network), self._backward(DistributedDataParallel(network, gradient_as_bucket_view=True))

    def _backward(self, network: Any) -> Work:
        batch = self.batches[0]
        x = torch.cat([torch.randn(len(batch.rows), workload.IDS * sides.DIM), batch.dense], 1).requires_grad_()

        def run() -> None:
            network.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                logits = network(x)
            logits.float().sum().backward()

        return run

    def _tables(self) -> tuple[Work, Work]:
        embeddings = self.state.model.module.model.embeddings
        sparse, names = self.batches[0].sparse, embeddings.arrangement.names
        grad = torch.randn(len(self.batches[0].rows), 1, workload.IDS * sides.DIM)

        def before() -> None:
            torch.stack(KeyedTensor.regroup([embeddings.collection(sparse)], [names]), dim=1).backward(grad)

        return lambda: embeddings(sparse).backward(grad), before

    def _losses(self) -> tuple[Work, Work]:
        objective, batch = self.state.model.module.objective, self.batches[0]
        logits = torch.randn(len(batch.rows), sides.TASKS, requires_grad=True)

        def ours() -> None:
            shares = objective.task_losses(logits, batch.labels, batch.masks, batch.counts)
            objective(shares, 0, 0, None, batch.counts).backward()

        def before() -> None:
            columns = list(range(sides.TASKS))
            losses = _bce(logits[:, columns], batch.labels[:, columns])
            shares = (losses * batch.masks).sum(0) / batch.counts.clamp(min=1)
            (objective.weighting(0, 0) * shares).sum().backward()

        return ours, before

    def _rates(self) -> tuple[Work, Work]:
        optimizers = self.state.optimizers

        def forced() -> None:
            optimizers._scale = None
            optimizers.set_rates(1)

        return lambda: optimizers.set_rates(1), forced

    def _timed(self, work: Work) -> Callable[[], float]:
        clock = time.thread_time if self.world.size == 1 else time.perf_counter

        def run() -> float:
            if self.world.control is not None:
                dist.barrier(self.world.control)
            began = clock()
            for _ in range(STEPS):
                work()
            if self.world.control is not None:
                dist.barrier(self.world.control)
            return 1000 * (clock() - began) / STEPS

        return run


class _Strided(GroupedLinear):
    """Hands its transposed input to the products as it is."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.transpose(1, 2))


class _Awaited:
    """A feed that waits for the agreement on the next batch before it hands this one out."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed

    def __next__(self) -> RankingBatch:
        batch = next(self.feed)
        if self.feed._ahead is not None:
            self.feed._ahead[2]()
        return batch


class _AskingFirst(EagerPipeline):
    """A step that waits for the ranks' answer before backward begins."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_question" and value is not None:
            value()
            value = None
        super().__setattr__(name, value)


def _bce(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")


def measure(world: World, place: Path, batch: int, precision: str, rounds: int) -> dict[str, harness.Case]:
    """On one rank."""
    with tempfile.TemporaryDirectory() as folder:
        return Bench(world, place, Path(folder), batch, precision).cases(rounds)


def main() -> None:
    parser = harness.arguments(__doc__ or "", rounds=40)
    parser.set_defaults(rows=250_000)
    parser.add_argument("--batch", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--precision", nargs="+", default=harness.precisions())
    options = parser.parse_args()
    before, place, found = harness.machine(), workload.prepare(options.data, options.rows), []
    for processes, precision, batch in itertools.product(options.processes, options.precision, options.batch):
        where = f"{precision}, batch {batch}, {processes} process{'es' * (processes > 1)}"
        cases = launch.ranks(measure, processes, "cpu", place, batch, precision, options.rounds)[0]
        found += [case.summary() | {"case": f"{name}: {where}"} for name, case in cases.items()]
        print(harness.table(found[-len(cases) :]), flush=True)
    said = {"threads": launch.threads(), "matmul": "medium"}
    harness.report("step", before, said | {"rounds": options.rounds, "steps_a_turn": STEPS}, found)


if __name__ == "__main__":
    main()
