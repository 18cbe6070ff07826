"""Everything of benchmarks/ on one CUDA machine, in one command: writes benchmarks/results/gpu-<chip>.json.

Throughput for every placement of tables, fp32, TF32 and bf16, eager and compiled, with the share of time that waits
for input and the device time by operator; then loader, checksums, checkpoints and serving. A case that fails is noted
with its reason and the others go on. `--device cpu --tiny` runs the same code where no GPU is.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import re
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import checkpoint, checksums, harness, launch, loader, throughput, workload
from ranking.distributed.world import join
from ranking.errors import InputError

PRECISIONS = {"fp32": ("fp32", "highest"), "tf32": ("fp32", "high"), "bf16": ("bf16", "high")}
COMPILE = {"eager": "", "compiled": "default", "cuda graphs": "reduce-overhead"}
TINY = {"rows": 8_000, "batch": [256], "rounds": 1, "seconds": 0.05, "table_rows": [1_000], "kinds": 1}


def settings(options: argparse.Namespace, place: Path) -> Iterator[tuple[str, throughput.Setting]]:
    """Every case of throughput: placements eagerly, compilation for the first placement."""
    for processes, batch, precision in itertools.product(options.processes, options.batch, options.precision):
        kind, matmul = PRECISIONS[precision]
        for number, (plan, how) in enumerate(itertools.product(options.plans, options.compile)):
            if number and plan != options.plans[0] and how != "eager":
                continue
            tables = {name: {"rows": workload.TABLE_ROWS, "sharding": plan} for name in workload.schema().table_names()}
            sections = {"training": {"matmul": matmul}, "schema": {"tables": tables}}
            name = f"{precision}, {plan}, {how}, batch {batch}, {processes} process{'es' * (processes > 1)}"
            yield (
                name,
                throughput.Setting(
                    place,
                    batch,
                    processes,
                    kind,
                    options.rounds,
                    options.seconds,
                    ("bare",),
                    options.device,
                    COMPILE[how],
                    sections=sections,
                ),
            )


def cases(options: argparse.Namespace, place: Path) -> Iterator[dict[str, object]]:
    """Throughput, then device time by operator for the first case of every precision."""
    profiled: set[str] = set()
    for name, setting in settings(options, place):
        try:
            rates = throughput.measure(setting)
            case = harness.Case(name, "rows/s", rates["ours"], rates["bare"]).summary()
            found: dict[str, object] = case | {"waiting": round(statistics.median(rates["waiting"]), 4)}
            if setting.precision not in profiled:
                profiled.add(setting.precision)
                traced = throughput.measure(replace(setting, rounds=1, sides=(), profile=True))
                found["ms_per_step"] = traced["profile"]
        except Exception as error:
            found = {"case": name, "failed": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        print(harness.table([found]) if "failed" not in found else found, flush=True)
        yield found


def others(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Loader, checkpoints and serving, as their own scripts measure them."""
    from benchmarks import serving  # MLflow warns where it is imported

    sizes = argparse.Namespace(
        rows=options.rows // 4,
        data=options.data,
        threads=options.threads,
        batch=max(options.batch),
        rounds=options.rounds,
        kinds=options.kinds,
        table_rows=options.table_rows,
    )
    yield from loader.cases(sizes)
    yield from (checksums.case(source, sizes) for source in loader.local(sizes))
    with tempfile.TemporaryDirectory() as folder:
        with join(options.device) as world:
            yield from checkpoint.cases(sizes, world, Path(folder))
        yield from serving.cases(sizes, Path(folder))


def chip(device: str) -> str:
    """Name of the device as part of a file's name."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"none-{platform.machine()}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = harness.arguments(__doc__ or "", rounds=5)
    parser.set_defaults(rows=4_000_000)
    gpus = torch.cuda.device_count()
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--batch", type=int, nargs="+", default=[4096, 32768])
    parser.add_argument("--processes", type=int, nargs="+", default=sorted({1, max(gpus, 1)}))
    parser.add_argument("--precision", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--plans", nargs="+", default=["table_wise", "row_wise", "table_row_wise", "column_wise"])
    parser.add_argument("--compile", nargs="+", choices=list(COMPILE), default=list(COMPILE))
    parser.add_argument("--seconds", type=float, default=0.0, help="length of a turn; 0: one pass over the data")
    parser.add_argument("--threads", type=int, default=4, help="of the loader")
    parser.add_argument("--kinds", type=int, default=5, help="how many kinds of columns the loader reads")
    parser.add_argument("--table-rows", type=int, nargs="+", default=[100_000, 1_000_000], help="of checkpoints")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that everything runs")
    options = parser.parse_args()
    if options.tiny:
        vars(options).update(TINY)
    if options.device == "cpu":
        options.plans, options.compile = ["table_wise"], ["eager"]
    elif not gpus:
        raise InputError("--device: got 'cuda', but torch sees no CUDA device; expected --device cpu on this machine")
    return options


def main() -> None:
    """Measure all of it."""
    options = arguments()
    torch.set_num_threads(launch.threads())  # what is measured in this process, as in those of the ranks
    before, place = harness.machine(), workload.prepare(options.data, options.rows)
    found = [*cases(options, place), *others(options)]
    said = {"workload": place.name, "rounds": options.rounds, "threads": launch.threads()}
    harness.report(f"gpu-{chip(options.device)}", before, said, found)


if __name__ == "__main__":
    main()
