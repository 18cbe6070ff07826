"""What each documented setting is worth: our training from Parquet with it, and without it.

The sides are fresh processes that take turns, since an allocator and the number of threads are chosen at start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks import harness, workload
from benchmarks.throughput import Setting, measure

GLIBC = {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}  # its default, and a choice: a job then leaves malloc alone
MATMUL_HIGHEST = {"training": {"matmul": "highest"}}
PAIRS: dict[str, tuple[dict[str, Any], dict[str, str], dict[str, Any], dict[str, str]]] = {
    "memory kept; handed back, as glibc does": ({}, {}, {}, GLIBC),
    "decoding gives way; does not": ({"processes": 2}, {}, {"processes": 2, "give_way": False}, {}),
    "matmul: medium; highest": ({}, {}, {"sections": MATMUL_HIGHEST}, {}),
    "precision: bf16; fp32": ({"precision": "bf16"}, {}, {}, {}),
    "2 threads; 1": ({}, {"OMP_NUM_THREADS": "2"}, {}, {"OMP_NUM_THREADS": "1"}),
}


def rate(setting: Setting, variables: dict[str, str]) -> Callable[[], float]:
    """Rows/s of one pass in a fresh process that sees the variables."""

    def run() -> float:
        with harness.environment(**variables):
            return float(measure(setting)["ours"][0])

    return run


def main() -> None:
    parser = harness.arguments(__doc__ or "", rounds=3)
    parser.set_defaults(rows=250_000)
    parser.add_argument("--batch", type=int, nargs="+", default=[1024, 4096])
    options = parser.parse_args()
    before, place, found = harness.machine(), workload.prepare(options.data, options.rows), []
    for batch in options.batch:
        base = Setting(place, batch, 1, "fp32", 1, 0.0, ())
        for name, (ours, variables, other, others) in PAIRS.items():
            if ours.get("precision", "fp32") not in harness.precisions():
                continue
            sides = rate(replace(base, **ours), variables), rate(replace(base, **other), others)
            where = f"batch {batch}, {ours.get('processes', 1)} process{'es' * ('processes' in ours)}"
            case = harness.alternate(f"{name}: {where}", "rows/s", *sides, options.rounds, warm_up=False)
            found.append(case.summary())
            print(harness.table(found[-1:]), flush=True)
    harness.report("settings", before, {"workload": place.name, "rounds": options.rounds}, found)


if __name__ == "__main__":
    main()
