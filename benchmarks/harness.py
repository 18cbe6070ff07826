"""What every benchmark shares: sides that take turns, a table for people, a JSON file for the documents."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import pyarrow as pa
import torch

from ranking.distributed.world import versions

RESULTS = Path(__file__).parent / "results"
DATA = Path("data/benchmarks")
Clock = Callable[[], float]
KEEP_MEMORY = {  # glibc gives large blocks back to the system after every use and pays page faults for them
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(1 << 28),
}


def keep_memory() -> None:
    """Start anew under KEEP_MEMORY, which glibc reads when a process begins; Arrow's columns lie there, too."""
    if not KEEP_MEMORY.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | KEEP_MEMORY)
    pa.set_memory_pool(pa.system_memory_pool())


@dataclass
class Case:
    """Two sides of one comparison, a figure a round; more is better unless the unit is one of time."""

    name: str
    unit: str
    ours: list[float] = field(default_factory=list)
    other: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, object]:
        """Medians of both sides and of their ratio, round by round."""
        ratios = [a / b for a, b in zip(self.ours, self.other, strict=True)]
        return {
            "case": self.name,
            "unit": self.unit,
            "ours": _short(statistics.median(self.ours)),
            "other": _short(statistics.median(self.other)),
            "ratio_median": round(statistics.median(ratios), 4),
            "ratio_min": round(min(ratios), 4),
            "ratio_max": round(max(ratios), 4),
        }


def alternate(
    name: str,
    unit: str,
    ours: Callable[[], float],
    other: Callable[[], float],
    rounds: int,
    warm_up: bool = True,
) -> Case:
    """Run the two sides A B A B; each returns its figure."""
    case = Case(name, unit)
    if warm_up:
        ours(), other()
    for _ in range(rounds):
        case.ours.append(ours())
        case.other.append(other())
    return case


def timed(work: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """Seconds of one call."""
    began = clock()
    work()
    return clock() - began


def settle(limit: float = 20.0) -> None:
    """Wait until background threads of this process have no more to do."""
    while limit > 0:
        used = time.process_time()
        time.sleep(0.2)
        limit -= 0.2
        if time.process_time() - used < 0.02:
            return


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _cpu() if line.startswith("model name")), platform.machine()
    )
    found: dict[str, object] = {
        "cpu": model,
        "cores": os.cpu_count(),
        "instructions": _instructions(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(terse=True),
        "load_average_before": round(os.getloadavg()[0], 2),
    }
    if torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found


def precisions() -> list[str]:
    """What this machine computes: fp32, and bf16 unless it only emulates it, at a fraction of the speed of fp32."""
    return ["fp32", "bf16"] if {"avx512_bf16", "amx_bf16"}.intersection(_instructions()) else ["fp32"]


def _instructions() -> list[str]:
    flags = next((line.split() for line in _cpu() if line.startswith("flags")), [])
    return [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]


def _cpu() -> list[str]:
    info = Path("/proc/cpuinfo")
    return info.read_text().splitlines() if info.exists() else []


def report(
    name: str,
    before: dict[str, object],
    settings: dict[str, object],
    cases: Iterable[dict[str, object]],
    **more: object,
) -> None:
    """Print the table and write `benchmarks/results/<name>.json`.

    Args:
        name: of the benchmark.
        before: what `machine` said when it began.
        settings: what the figures depend on beside machine and versions.
        cases: summaries, each with `case`, `ours`, `other` and the ratios.
        **more: of the file's content.
    """
    cases = list(cases)
    content = {"machine": before, "versions": _versions(), "settings": settings, "cases": cases, **more}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    print(f"\n{name}: {before['cpu']}, {before['cores']} cores, load {before['load_average_before']}; {settings}")
    print(table(cases))


def table(cases: Sequence[dict[str, object]]) -> str:
    """Cases as aligned text."""
    head = ("case", "unit", "ours", "other", "ratio_median", "ratio_min", "ratio_max")
    rows = [head, *([str(case.get(key, "")) for key in head] for case in cases)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def arguments(description: str, rounds: int) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help="how often every side is measured")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the workload")
    parser.add_argument("--data", type=Path, default=DATA, help="where the workload is kept between runs")
    return parser


def environment(**values: str) -> AbstractContextManager[None]:
    """Variables that processes started inside the block see; nothing when there are none."""
    return _Environment(values) if values else nullcontext()


class _Environment(AbstractContextManager[None]):
    def __init__(self, values: dict[str, str]) -> None:
        self.values = values

    def __enter__(self) -> None:
        self.before = {key: os.environ.get(key) for key in self.values}
        os.environ.update(self.values)

    def __exit__(self, *_: object) -> None:
        for key, value in self.before.items():
            os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), **versions()}
    try:
        found["torch-rechub"] = metadata.version("torch-rechub")
    except metadata.PackageNotFoundError:
        pass
    return found


def _short(value: float) -> float:
    return round(value) if value >= 1000 else float(f"{value:.4g}")
