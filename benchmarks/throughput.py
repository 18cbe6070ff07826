"""Rows per second of training from Parquet on disk, against loops that hold their batches in memory.

Ours is the whole road: Loader, Feed, the pipeline, masks, global normalisation, the window of losses and tracking,
driven by the Trainer itself; the other sides take their turn where it would evaluate. In every round each side runs
as long as ours takes for one pass over the data.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks import harness, launch, workload
from benchmarks.sides import Step, bare_dmp, direct_op, rechub
from ranking.distributed.world import World

SIDES = {
    "bare": bare_dmp,
    "direct": direct_op,
    "rechub": rechub,
    "rechub, medium": functools.partial(rechub, matmul="medium"),
}


@dataclass(frozen=True)
class Setting:
    """One case.

    Attributes:
        place: of the workload.
        batch: global.
        processes: ranks, all on this machine.
        precision: `fp32` or `bf16`.
        rounds: how often every side runs, after a first turn that does not count.
        seconds: roughly the length of a turn; 0: one pass over the data.
        sides: names of `SIDES`.
        device: `cpu` or `cuda`.
        compile: mode of torch.compile on the dense part; "": eager.
        profile: trace our first turn that counts; its time is then worth nothing.
        give_way: whether the threads that decode let the one that trains go first.
        sections: of the configuration.
    """

    place: Path
    batch: int
    processes: int
    precision: str
    rounds: int
    seconds: float
    sides: tuple[str, ...]
    device: str = "cpu"
    compile: str = ""
    profile: bool = False
    give_way: bool = True
    sections: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As the table shows it."""
        return f"{self.precision}, batch {self.batch}, {self.processes} process{'es' * (self.processes > 1)}"


def measure(setting: Setting) -> dict[str, Any]:
    """Rows/s of every side, a figure a round, with one process for each rank; as rank 0 saw them.

    Beside the sides: `waiting`, our share of time spent on the loader, and `profile`, milliseconds by operator.
    """
    found: dict[str, Any] = launch.ranks(_turns, setting.processes, setting.device, setting)[0]
    return found


def _turns(world: World, setting: Setting) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return _Turns(setting, world, Path(folder)).run()


class _Turns:
    """One rank: the Trainer, and the other sides inside its evaluations."""

    def __init__(self, setting: Setting, world: World, folder: Path) -> None:
        from pipelines.assembly import Assembly
        from ranking.data import loader

        if not setting.give_way:
            loader.give_way = lambda: None
        self.setting, self.world, self.folder = setting, world, folder
        sections: dict[str, Any] = {
            "device": setting.device,
            "data": {"batch_size": setting.batch},
            "training": {"precision": setting.precision, "matmul": "medium"},
        }
        for name, section in setting.sections.items():
            base: Any = sections.get(name, {})
            sections[name] = base | section if isinstance(section, dict) else section
        self.parts = Assembly(workload.config(setting.place, folder, **sections), world)
        self.manifest = self.parts.manifest("train")
        self.rates: dict[str, Any] = {name: [] for name in ("ours", "waiting", *setting.sides)}
        self.profiler: Any = None

    def run(self) -> dict[str, Any]:
        """Train, and return what was measured."""
        from pipelines.train import open_run
        from ranking.training.trainer import Trainer

        config, steps = self.parts.config, self.parts.plan(self.manifest).steps
        self.window = window = self._steps_of_a_turn(steps)
        total = window * (self.setting.rounds + 1)
        state = self.parts.state(total)
        if self.setting.compile:
            state.model.module.model.architecture.compile(mode=self.setting.compile)
        batches = self._in_memory(min(64, steps))
        autocast = self.setting.precision == "bf16"
        self.others = {name: SIDES[name](self.world, batches, autocast) for name in self.setting.sides}
        with open_run(config, self.manifest, self.world) as run:
            trainer = Trainer(
                state=state,
                schema=config.schema,
                feed=self._feed,
                evaluate=self._turn,  # type: ignore[arg-type]
                checkpoints=self,  # type: ignore[arg-type]
                tracker=run,
                config=config.training.model_copy(update={"steps": total}),
                evaluation=config.evaluation.model_copy(update={"every": window}),
                steps_per_epoch=steps,
            )
            trainer.saves = self  # type: ignore[assignment]
            trainer.train()
        return self.rates

    def _feed(self, position: Any, stop: Any) -> Any:
        feed = self.parts.training_feed(self.manifest, position, stop)
        feed._rows = self.source = _Waiting(feed._rows)
        return feed

    def _steps_of_a_turn(self, epoch: int) -> int:
        """A whole pass over the data holds all the decoding that its rows need; a shorter turn may hold none."""
        return (
            min(epoch, max(20, int(self.setting.seconds * 50_000 / self.setting.batch)))
            if self.setting.seconds
            else epoch
        )

    def _in_memory(self, count: int) -> list[Any]:
        from ranking.data.plan import Position

        feed = self.parts.training_feed(self.manifest, Position())
        batches = [batch.to(self.world.device) for batch in itertools.islice(feed, count)]
        feed.close()
        return batches

    def _turn(self, step: int, _stop: Any) -> _Nothing:
        """Where the Trainer would evaluate: note our time, let the others run."""
        self._together()
        elapsed = time.perf_counter() - self.began if step > self.window else None
        if elapsed is not None:
            self.rates["ours"].append(self.window * self.setting.batch / elapsed)
            self.rates["waiting"].append(self.source.seconds / elapsed)
            self._stop_profile()
        for name, other in self.others.items():
            harness.settle()
            seconds = self._time(
                other, 3 if elapsed is None else max(3, self.window // (4 if name.startswith("rechub") else 1))
            )
            if elapsed is not None:
                self.rates[name].append(seconds)
        harness.settle()
        return _Nothing()

    def _time(self, step: Step, steps: int) -> float:
        self._together()
        began = time.perf_counter()
        for _ in range(steps):
            step()
        self._together()
        return steps * self.setting.batch / (time.perf_counter() - began)

    def _together(self) -> None:
        if self.world.device.type == "cuda":
            torch.cuda.synchronize()
        if self.world.control is not None:
            dist.barrier(self.world.control)

    def _stop_profile(self) -> None:
        if self.profiler is None or "profile" in self.rates:
            return
        self.profiler.stop()
        on_device = self.setting.device == "cuda"
        spent = {
            event.key: (event.self_device_time_total if on_device else event.self_cpu_time_total) / 1000 / self.window
            for event in self.profiler.key_averages()
        }
        largest = sorted(spent.items(), key=lambda item: -item[1])[:25]
        self.rates["profile"] = {name: round(value, 4) for name, value in largest}

    # What the Trainer asks of its Saves: nothing is written, the clock starts again.

    def save(self, state: Any, score: float | None, then: Any) -> None:
        """Instead of a checkpoint: the next turn begins."""
        self._together()
        if self.setting.profile and self.profiler is None:
            self.profiler = torch.profiler.profile()
            self.profiler.start()
        self.source.seconds = 0.0
        self.began = time.perf_counter()

    def settle(self) -> None:
        """Nothing is in flight."""

    def finish(self) -> None:
        """Nothing was written."""

    def __enter__(self) -> Any:
        """Nothing to prepare."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""


class _Waiting:
    """A source that knows how long it was waited for."""

    def __init__(self, source: Any) -> None:
        self.source, self.seconds = source, 0.0

    def __next__(self) -> Any:
        began = time.perf_counter()
        try:
            return next(self.source)
        finally:
            self.seconds += time.perf_counter() - began

    def close(self) -> None:
        """End the threads behind it."""
        self.source.close()


class _Nothing:
    """An evaluation that found nothing."""

    def __init__(self) -> None:
        self.report, self.step, self.experts = self, 0, dict[str, Any]()

    def metrics(self) -> dict[str, float]:
        """None."""
        return {}

    def score(self, _: object) -> None:
        """None."""
        return None


def cases(setting: Setting) -> list[dict[str, object]]:
    """Ours against every other side."""
    rates = measure(setting)
    waiting = round(statistics.median(rates["waiting"]), 4)
    return [
        harness.Case(f"{name}: {setting.name}", "rows/s", rates["ours"], rates[name]).summary() | {"waiting": waiting}
        for name in setting.sides
    ]


def settings(place: Path, options: Any) -> Iterator[Setting]:
    """Every case of the table."""
    peer = ("rechub", "rechub, medium") if importlib.util.find_spec("torch_rechub") else ()
    if not peer:
        print("torch-rechub is not installed: skipped (pip install --no-deps -r requirements/bench.txt)")
    for precision, processes, batch in itertools.product(options.precision, options.processes, options.batch):
        sides = ("bare", "direct") if processes == 1 else ("bare",)
        sides += peer if processes == 1 and precision == "fp32" else ()
        chosen = tuple(side for side in sides if side in options.sides)
        yield Setting(place, batch, processes, precision, options.rounds, options.seconds, chosen)


def main() -> None:
    parser = harness.arguments(__doc__ or "", rounds=3)
    parser.set_defaults(rows=250_000)
    parser.add_argument("--batch", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--precision", nargs="+", default=harness.precisions())
    parser.add_argument("--sides", nargs="+", default=["bare", "direct"], choices=list(SIDES))
    parser.add_argument("--seconds", type=float, default=0.0, help="length of a turn; 0: one pass over the data")
    parser.add_argument("--name", default="throughput", help="of the file of results")
    options = parser.parse_args()
    before, place = harness.machine(), workload.prepare(options.data, options.rows)
    found: list[dict[str, object]] = []
    for setting in settings(place, options):
        found += cases(setting)
        print(harness.table(found[-len(setting.sides) :]), flush=True)
    said = {
        "workload": place.name,
        "threads": launch.threads(),
        "matmul": "medium",
        "rounds": options.rounds,
    }
    harness.report(options.name, before, said, found)


if __name__ == "__main__":
    main()
