"""What the check of every page's CRC costs the loader.

Two runs of the loader differ by more than the check takes. So every row group is decoded with and without it, one
right after the other and both ways round, by the thread's CPU time; what that adds stands beside what the whole loader
takes for a row.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial

import numpy as np

from benchmarks import harness, loader
from benchmarks.loader import Source
from ranking.data.manifest import Manifest
from ranking.data.parquet import Decoder
from ranking.data.storage import Store


def case(source: Source, options: argparse.Namespace) -> dict[str, object]:
    """Rows of the loader in a CPU second with the check and without, a figure for every reading of all row groups.

    The loader's own figure is one for all rounds: the spread is that of the check.
    """
    rate = loader.ours(source, options.threads, options.batch, verify=False, clock=time.process_time)
    bare = statistics.median(rate() for _ in range(3))
    found = harness.Case(f"{source.kind}, page checksums verified (ours) against not (other)", "rows/CPU-s")
    for _ in range(options.rounds):
        found.ours.append(1 / (1 / bare + check(source)))
        found.other.append(bare)
    return found.summary()


def check(source: Source) -> float:
    """CPU seconds that the check of a row takes, in the median of all row groups."""
    store = Store(source.options)
    manifest = Manifest.build((f"{source.url}/*.parquet",), source.schema().columns(), store)
    decoders = {
        verify: Decoder(manifest, store, verify_checksums=verify, dictionaries=True) for verify in (True, False)
    }
    found = []
    for group, rows in enumerate(manifest.row_groups.tolist()):
        reading = {verify: partial(decoders[verify].read, np.array([[group, 0, rows]])) for verify in decoders}
        seconds = dict.fromkeys(decoders, 0.0)
        for verify in (True, False, False, True):
            seconds[verify] += harness.timed(reading[verify], time.thread_time) / 2
        found.append((seconds[True] - seconds[False]) / rows)
    return statistics.median(found)


def main() -> None:
    harness.keep_memory()
    options = loader.arguments(__doc__ or "", rounds=10).parse_args()
    before, began = harness.machine(), time.perf_counter()
    found = [case(source, options) for source in loader.local(options)]
    settings = loader.settings(options) | {"seconds": round(time.perf_counter() - began)}
    harness.report("checksums", before, settings, found)


if __name__ == "__main__":
    main()
