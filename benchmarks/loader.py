"""Rows per second from Parquet into batches, against plain decoding of the same files with as many threads.

Ours: Loader and Encoder up to and including RankingBatch. The other side: pyarrow's `iter_batches`, one thread a file,
nothing done with what it yields. Memory: the peak of a fresh process that reads 1x and 10x the rows.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks import harness
from ranking.batch import RankingBatch
from ranking.data.encode import Encoder
from ranking.data.loader import DataConfig, Loader
from ranking.data.manifest import Manifest
from ranking.data.storage import Store
from ranking.data.transforms import Transforms
from ranking.schema import Schema

FILES, GROUP, FEATURES, NUMBERS, IDS = 8, 65_536, 20, 13, 100_000
EPOCHS = 4  # read in one go, so that filling and draining the pipeline is no large part
KINDS = {
    "int64 ids": {"encoding": {"type": "identity"}},
    "multi-hot": {"encoding": {"type": "identity"}, "multi_hot": True},
    "hashed int64 ids": {"encoding": {"type": "hash"}},
    "hashed strings": {"encoding": {"type": "hash"}},
    "vocabulary of strings": {"encoding": {"type": "vocabulary"}},
}


@dataclass(frozen=True)
class Source:
    """Files of one kind, where they lie and how to reach that place."""

    kind: str
    folder: Path
    url: str
    options: dict[str, Any]

    def schema(self) -> Schema:
        """20 features of the kind, 13 numbers, two tasks."""
        ids = [{"kind": "categorical", "name": f"id_{i}", **KINDS[self.kind]} for i in range(FEATURES)]
        numbers = [{"kind": "dense", "name": f"dense_{i}", "scale": "none"} for i in range(NUMBERS)]
        return Schema(
            features=[*ids, *numbers],
            tables={f"id_{i}": {"rows": IDS + 2} for i in range(FEATURES)},
            tasks=[{"name": "click", "label": "click"}, {"name": "like", "label": "like", "given": "click"}],
        )


def table(kind: str, rows: int, seed: int) -> pa.Table:
    """Zipf ids as 20 columns of the kind."""
    draw = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for i in range(FEATURES):
        if kind == "multi-hot":
            lengths = draw.integers(0, 10, rows)
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            columns[f"id_{i}"] = pa.ListArray.from_arrays(offsets, draw.zipf(1.3, offsets[-1]) % IDS)
        else:
            values = pa.array(draw.zipf(1.3, rows) % IDS)
            columns[f"id_{i}"] = values.cast(pa.string()) if "strings" in kind else values
    columns |= {f"dense_{i}": draw.random(rows, np.float32) for i in range(NUMBERS)}
    columns |= {"click": (draw.random(rows) < 0.1).astype(np.int8), "like": (draw.random(rows) < 0.02).astype(np.int8)}
    return pa.table(columns)


def write(kind: str, folder: Path, rows: int) -> Path:
    """Files of one kind, written when they are not there yet."""
    place = folder / f"{kind.replace(' ', '-')}-{rows}-in-groups-of-{GROUP}"
    if not (place / "transforms").exists():
        place.mkdir(parents=True, exist_ok=True)
        for number in range(FILES):
            pq.write_table(
                table(kind, rows // FILES, number),
                place / f"part-{number}.parquet",
                compression="zstd",
                row_group_size=GROUP,
                write_page_checksum=True,
            )
        source = Source(kind, place, str(place), {})
        Transforms.fit(source.schema(), [table(kind, 50_000, 0)]).save(str(place / "transforms"))
    return place


def ours(
    source: Source, threads: int, batch: int, verify: bool = True, clock: harness.Clock = time.perf_counter
) -> Callable[[], float]:
    """Rows of the loader in a second of the clock, batches included."""
    schema = source.schema()
    manifest = Manifest.build((f"{source.url}/*.parquet",), schema.columns(), Store(source.options))
    config = DataConfig(
        train=source.url,
        transforms="",
        batch_size=batch,
        threads=threads,
        block=1,
        storage_options=source.options,
        verify_checksums=verify,
    )
    encoder = Encoder(schema, Transforms.load(str(source.folder / "transforms"), schema))
    plan, counts = config.plan(manifest, 0), torch.ones(len(schema.tasks))

    def read() -> None:
        for position, rows in Loader(manifest, plan, encoder.rows, config, epochs=EPOCHS):
            RankingBatch.build(schema, rows, counts, position.epoch, position.step)

    return lambda: EPOCHS * plan.rows / harness.timed(read, clock)


def plain(source: Source, threads: int, batch: int) -> Callable[[], float]:
    """Rows/s of pyarrow alone over the same files and columns."""
    columns = list(source.schema().columns())
    manifest = Manifest.build((f"{source.url}/*.parquet",), tuple(columns), Store(source.options))

    def decode(url: str) -> int:
        file = Store(source.options).open(url)
        return sum(len(part) for part in file.iter_batches(batch, columns=columns, use_threads=False))

    def read() -> None:
        urls = EPOCHS * [shard.url for shard in manifest.shards]
        with ThreadPoolExecutor(threads) as pool:
            assert sum(pool.map(decode, urls)) == EPOCHS * sum(manifest.row_groups)

    return lambda: EPOCHS * sum(manifest.row_groups) / harness.timed(read)


def peak(source: Source, threads: int, batch: int) -> float:
    """MiB that a fresh process takes at most beyond what its imports took, while it reads."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak, (source, threads, batch))


def _peak(source: Source, threads: int, batch: int) -> float:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew; a child's otherwise begins with its parent's
    harness.keep_memory()  # as in the process that started this one
    before = _resident("VmRSS")
    ours(source, threads, batch)()
    return (_resident("VmHWM") - before) / 1024


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


@contextmanager
def buckets(places: list[Path]) -> Iterator[dict[str, Any] | None]:
    """Local S3 with a copy of the places under `s3://bench/<name>`; None where moto is not installed."""
    try:
        from moto.server import ThreadedMotoServer
    except ImportError:
        print("moto is not installed: s3 skipped (pip install --no-deps -r requirements/dev.txt)")
        yield None
        return
    import s3fs

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "bench", "secret": "bench", "client_kwargs": {"endpoint_url": f"http://{host}:{port}"}}
    try:
        files = s3fs.S3FileSystem(**options)
        files.mkdir("bench")
        for place in places:
            files.put(str(place), f"bench/{place.name}", recursive=True)
        yield options
    finally:
        server.stop()


def cases(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Every kind locally, the first over S3, memory last."""
    sources = local(options)
    for source, threads in itertools.product(sources, sorted({1, options.threads})):
        yield _rate(source, "local", threads, options)
    with buckets([sources[0].folder]) as access:
        if access is not None:
            remote = Source(sources[0].kind, sources[0].folder, f"s3://bench/{sources[0].folder.name}", access)
            yield _rate(remote, "s3", options.threads, options)
    kind = sources[0].kind
    small, large = (
        Source(kind, place, str(place), {})
        for rows in (options.rows, 10 * options.rows)
        for place in (write(kind, options.data, rows),)
    )
    found = harness.alternate(
        "memory high-water: 10x the rows (ours) against 1x (other)",
        "MiB",
        lambda: peak(large, options.threads, options.batch),
        lambda: peak(small, options.threads, options.batch),
        rounds=1,
        warm_up=False,
    )
    yield found.summary()


def local(options: argparse.Namespace) -> list[Source]:
    """Files of every kind on this machine."""
    places = {kind: write(kind, options.data, options.rows) for kind in itertools.islice(KINDS, options.kinds)}
    return [Source(kind, place, str(place), {}) for kind, place in places.items()]


def _rate(source: Source, where: str, threads: int, options: argparse.Namespace) -> dict[str, object]:
    name = f"{source.kind}, {where}, batch {options.batch}, {threads} thread{'s' * (threads > 1)}"
    sides = ours(source, threads, options.batch), plain(source, threads, options.batch)
    return harness.alternate(name, "rows/s", *sides, rounds=options.rounds).summary()


def arguments(description: str, rounds: int) -> argparse.ArgumentParser:
    """A parser with what reading of these files takes."""
    parser = harness.arguments(description, rounds)
    parser.set_defaults(rows=2 * FILES * GROUP)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--kinds", type=int, default=len(KINDS), help="how many kinds of columns")
    return parser


def settings(options: argparse.Namespace) -> dict[str, object]:
    """What the figures depend on."""
    taken = {key: getattr(options, key) for key in ("rows", "rounds", "threads")}
    return taken | {"row_group": GROUP, "epochs": EPOCHS, "environment": harness.KEEP_MEMORY}


def main() -> None:
    harness.keep_memory()
    options = arguments(__doc__ or "", rounds=5).parse_args()
    before, began = harness.machine(), time.perf_counter()
    found = list(cases(options))
    harness.report("loader", before, settings(options) | {"seconds": round(time.perf_counter() - began)}, found)


if __name__ == "__main__":
    main()
