"""From Parquet to a batch, part by part: CPU nanoseconds a row in one thread, against plain decoding of the same rows.

`other` is pyarrow's `iter_batches`, which drops what it decoded. A semicolon may also be followed by a way left:
lists shuffled by an index built in numpy, ids row by row, dense rows gathered by torch, Arrow's own allocator.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from benchmarks import harness
from benchmarks.loader import FILES, GROUP, Source, write
from ranking.batch import RankingBatch, jagged
from ranking.data.columns import RawRows
from ranking.data.encode import Encoder
from ranking.data.manifest import Manifest
from ranking.data.parquet import Decoder
from ranking.data.storage import Store
from ranking.data.transforms import Transforms
from ranking.rows import Ragged, Rows
from ranking.schema import Feature

RUNS, BATCH = 8, 4096  # lanes dealt into one another; rows of a batch
STEPS = GROUP * RUNS // BATCH
Work = Callable[[], object]


class Parts:
    """The parts of one kind of columns, each over the same rows."""

    def __init__(self, place: Path, kind: str) -> None:
        source = Source(kind, place, str(place), {})
        self.schema = source.schema()
        self.manifest = Manifest.build((f"{place}/*.parquet",), self.schema.columns(), Store())
        self.encoder = Encoder(self.schema, Transforms.load(str(place / "transforms"), self.schema))
        groups = np.flatnonzero(self.manifest.row_groups == GROUP)[:RUNS]
        self.pieces = [np.array([[group, 0, GROUP]]) for group in groups]
        self.tables = [Decoder(self.manifest, Store(), dictionaries=True).read(piece) for piece in self.pieces]
        self.index = [torch.arange(len(table)) for table in self.tables]
        self.rows = [self.encoder.rows(*pair) for pair in zip(self.tables, self.index, strict=True)]
        self.order = torch.randperm(len(self.rows[0]))
        self.count = sum(map(len, self.rows))
        self.dealt = Rows.deal(self.rows, STEPS)

    def sides(self) -> Iterator[tuple[str, Work, Work]]:
        """Name, ours, and the other side."""
        parts: dict[str, Work] = {
            "decode": lambda: [Decoder(self.manifest, Store(), dictionaries=True).read(piece) for piece in self.pieces],
            "encode, shuffled": self._encode,
            "deal": lambda: Rows.deal(self.rows, STEPS),
            "batch": self._batches,
        }
        for name, work in parts.items():
            yield f"{name}; plain decoding", work, self._plain
        if self.rows[0].lists:
            yield "shuffle of lists; by an index", self._lists(Ragged.take), self._lists(by_index)
        else:
            yield "ids to batches, column by column; row by row", self._by_column(), self._by_row()
            yield (
                "decode into memory from glibc; from Arrow's allocator",
                parts["decode"],
                self._allocator(parts["decode"]),
            )
        dense = [rows.dense for rows in self.rows]
        yield (
            "dense rows gathered by numpy; by torch",
            lambda: [rows.numpy().take(self.order.numpy(), 0) for rows in dense],
            lambda: [rows.index_select(0, self.order) for rows in dense],
        )

    def _plain(self) -> None:
        file = Store().open(self.manifest.shards[0].url)
        columns = list(self.schema.columns())
        left = self.count
        while left > 0:
            left -= sum(map(len, file.iter_batches(BATCH, columns=columns, use_threads=False)))
        self.plain_rows = self.count - left

    def _encode(self) -> None:
        for table, index in zip(self.tables, self.index, strict=True):
            self.encoder.rows(table, index, self.order)

    def _by_column(self) -> Work:
        """The loader's road from a column to batches, for the ids, a number and the labels."""
        road = self._road(*self.schema.categorical, self.schema.dense[0])

        def run() -> None:
            for batch in road():
                jagged(self.schema, batch)

        return run

    def _by_row(self) -> Work:
        """The same, but a row's ids stand next to one another until the batch transposes them."""
        others, features = self._road(self.schema.dense[0]), self.schema.categorical

        def run() -> None:
            others()
            parts = []
            for table in self.tables:
                raw = RawRows(table)
                ids = np.empty((len(raw), len(features)), np.int32)
                for place, feature in enumerate(features):
                    ids[:, place] = self.encoder.ids(feature, raw)
                parts.append(torch.from_numpy(ids).index_select(0, self.order).unflatten(0, (STEPS, -1)))
            for batch in torch.stack(parts, 1).flatten(1, 2):
                batch.new_empty(batch.shape[::-1]).copy_(batch.t())

        return run

    def _road(self, *features: Feature) -> Callable[[], list[Rows]]:
        """Encoded, shuffled and dealt: what the loader makes of these features and the labels."""
        schema = self.schema.model_copy(update={"features": features})
        encoder = Encoder(schema, Transforms.fit(schema, [self.tables[0].slice(0, 1)]))

        def run() -> list[Rows]:
            tables = zip(self.tables, self.index, strict=True)
            return Rows.deal([encoder.rows(*pair, self.order) for pair in tables], STEPS)

        return run

    def _allocator(self, work: Work) -> Work:
        def run() -> None:
            before = pa.default_memory_pool()
            pa.set_memory_pool(pa.mimalloc_memory_pool())
            work()
            pa.set_memory_pool(before)

        return run

    def _lists(self, take: Callable[[Ragged, torch.Tensor], Ragged]) -> Work:
        return lambda: [take(ragged, self.order) for rows in self.rows for ragged in rows.lists]

    def _batches(self) -> None:
        counts = torch.ones(len(self.schema.tasks))
        for step, rows in enumerate(self.dealt):
            RankingBatch.build(self.schema, rows, counts, 0, step)

    def timed(self, work: Work) -> Callable[[], float]:
        """Nanoseconds a row."""

        def run() -> float:
            began = time.thread_time()
            work()
            spent = time.thread_time() - began
            return 1e9 * spent / (self.plain_rows if work == self._plain else self.count)

        return run


def by_index(lists: Ragged, index: torch.Tensor) -> Ragged:
    """The lists at `index`, gathered by the place of each of their values."""
    ends = lists.lengths.cumsum(0)
    lengths = lists.lengths.index_select(0, index)
    starts = (ends - lists.lengths).index_select(0, index)
    shift = starts - (lengths.cumsum(0) - lengths)
    places = torch.from_numpy(np.repeat(shift.numpy(), lengths.numpy()))
    places += torch.arange(places.numel())
    return Ragged(lists.values.index_select(0, places), lengths)


def main() -> None:
    harness.keep_memory()
    parser = harness.arguments(__doc__ or "", rounds=15)
    parser.set_defaults(rows=2 * FILES * GROUP)
    options = parser.parse_args()
    if options.rows < FILES * GROUP:
        parser.error(f"--rows: got {options.rows}; expected at least {FILES * GROUP}, a whole row group a file")
    torch.set_num_threads(1)
    before, found = harness.machine(), []
    for kind in ("int64 ids", "multi-hot", "hashed int64 ids"):
        parts = Parts(write(kind, options.data, options.rows), kind)
        for name, ours, other in parts.sides():
            case = harness.alternate(
                f"{name}: {kind}", "ns/row", parts.timed(ours), parts.timed(other), rounds=options.rounds
            )
            found.append(case.summary())
    harness.report(
        "parts",
        before,
        {"threads": 1, "environment": harness.KEEP_MEMORY, "rows": options.rows, "rounds": options.rounds},
        found,
    )


if __name__ == "__main__":
    main()
