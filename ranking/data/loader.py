"""The training stream of one rank: blocks decoded and encoded ahead by threads, dealt into global batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from ranking.data.columns import Bool, RawRows, RowError
from ranking.data.manifest import Manifest
from ranking.data.parquet import Decoder
from ranking.data.plan import Block, Int64, Order, Plan, Position
from ranking.data.quarantine import Quarantine, QuarantineConfig
from ranking.data.storage import RetryConfig, Store
from ranking.distributed.process import give_way
from ranking.errors import InputError
from ranking.rows import Rows
from ranking.schema import Frozen

Encode = Callable[[pa.Table, Tensor, Tensor | None], Rows]
"""Raw columns, their `[N]` int64 manifest row numbers and which to return `[M]` in what order (None: all as they
stand) to encoded rows; must accept a table without rows."""

Urls = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(
        lambda value: (value,) if isinstance(value, str) else value, json_schema_input_type=str | tuple[str, ...]
    ),
]

Split = Literal["train", "validation", "test"]

_SPAN_ROWS = 65_536


class DataConfig(Frozen):
    """Where the data lies and how it is read."""

    train: Urls = Field(min_length=1, description="fsspec URLs, globs or directories (local, s3://, gs://, memory://).")
    validation: Urls = Field((), description="As `train`; the data that checkpoints are chosen by.")
    test: Urls = Field((), description="As `train`; scored once, at the end.")
    transforms: str = Field(description="Directory of the fitted transforms.")
    extends: str = Field(
        "",
        description="Directory of earlier transforms that `prepare` extends: known keys keep their rows, new ones "
        "follow, scaling and boundaries stay; empty: all is fitted anew.",
    )
    storage_options: dict[str, Any] = Field(
        {}, description="Of the file system, as fsspec takes them; credentials belong into the environment."
    )
    batch_size: int = Field(ge=1, description="Global batch: rows of one step over all ranks.")
    lanes: int = Field(8, ge=1, description="Equal parts of an epoch that a batch draws from; a multiple of the ranks.")
    block: int = Field(4, ge=1, description="Row groups whose rows are shuffled together; sets memory with `lanes`.")
    order: Order = Field(
        "shuffled", description="chronological: the order of the files, in which every rank decodes every row group."
    )
    threads: int = Field(2, ge=1, description="Decoding threads of a rank; they change its speed, never its rows.")
    prefetch: int = Field(1, ge=0, description="Blocks decoded ahead of the one in use, for every lane of a rank.")
    verify_checksums: bool = Field(True, description="Check page CRCs, where the writer stored them.")
    require_checksums: bool = Field(False, description="Refuse files without page CRCs; else they are warned of.")
    quarantine: QuarantineConfig = QuarantineConfig()
    retry: RetryConfig = RetryConfig()

    @property
    def store(self) -> Store:
        """Where the URLs lie."""
        return Store(self.storage_options, self.retry)

    def urls(self, split: Split) -> Urls:
        """Where a split lies.

        Raises:
            InputError: the configuration does not say.
        """
        urls: Urls = getattr(self, split)
        if not urls:
            raise InputError(f"data.{split}: missing; expected URLs of Parquet files")
        return urls

    def manifest(self, urls: Sequence[str], columns: Sequence[str] | None, key: str) -> Manifest:
        """What lies behind URLs; `key` names them in errors."""
        return Manifest.build(urls, columns, self.store, key, self.require_checksums)

    def decoder(self, manifest: Manifest, dictionaries: bool = False, keep: int = 0) -> Decoder:
        """A reader of the manifest's row groups."""
        verify = self.verify_checksums
        return Decoder(manifest, self.store, verify_checksums=verify, dictionaries=dictionaries, keep=keep)

    def row_groups(self, manifest: Manifest) -> Iterator[tuple[Int64, pa.Table]]:
        """Every row group that is not empty, in order, but for those in quarantine: row numbers `[N]`, and the rows."""
        decoder, quarantine = self.decoder(manifest), Quarantine(manifest, self.quarantine)
        first = 0
        for group, rows in enumerate(manifest.row_groups.tolist()):
            if not rows:
                continue
            table, kept = decoder.salvage(np.array([[group, 0, rows]]), quarantine.add)
            if quarantine.pending:
                quarantine.agree([quarantine.found])
            if kept.all():
                yield np.arange(first, first + rows), table
            first += rows

    def raw_rows(self, manifest: Manifest) -> Iterator[RawRows]:
        """`row_groups`, as rows whose errors name their file."""
        return (RawRows(table, index, manifest.located) for index, table in self.row_groups(manifest))

    def plan(self, manifest: Manifest, seed: int) -> Plan:
        """The order of examples under this configuration."""
        return Plan(
            manifest.row_groups,
            manifest.digest,
            seed=seed,
            batch_size=self.batch_size,
            lanes=self.lanes,
            block=self.block,
            order=self.order,
        )


@dataclass(frozen=True)
class Loader:
    """Iterates (position, this rank's rows of that global batch, `[B / size]`), in lane order, padded.

    Memory: at most `lanes owned * (1 + prefetch)` encoded blocks (chronological: `1 + prefetch`), two spans of 65 536
    rows (or one step, if that is more), a row group in each decoding thread and one at each end of a lane, however
    large the data. A block is `block` whole row groups: write small ones (some 10^5 rows). A batch is a view into its
    span: whoever keeps one keeps the span.

    Attributes:
        manifest: the data.
        plan: its order.
        encode: from raw columns to rows; called from several threads.
        config: threads, prefetch, checksums and storage options.
        rank: of this process.
        size: of the world.
        start: first position to yield; what lies before it is not read, but for the blocks it lies in.
        epochs: how many to read, the one started in included; None for no end.
        quarantine: takes damaged row groups, whose rows become padding where they stand; a new one when left out.

    Raises:
        InputError: on iteration, whatever decoding or encoding found wrong.
    """

    manifest: Manifest
    plan: Plan
    encode: Encode
    config: DataConfig
    rank: int = 0
    size: int = 1
    start: Position = field(default_factory=Position)
    epochs: int | None = None
    quarantine: Quarantine | None = None

    def __iter__(self) -> Generator[tuple[Position, Rows], None, None]:
        """A new stream from `start`; closing or dropping it ends its threads."""
        with _threads(1) as dealing, _threads(self.config.threads) as decoding:
            feeds = self._feeds(decoding)

            def deal(position: Position, steps: int) -> list[Rows]:
                return Rows.deal([feed.read(position.step, steps) for feed in feeds], steps)

            spans = ((position, dealing.submit(deal, position, steps)) for position, steps in self._spans())
            ahead = next(spans, None)
            while ahead:
                position, span = ahead
                batches = span.result()
                ahead = next(spans, None)  # dealt while these batches are used
                for step, rows in enumerate(batches, position.step):
                    yield Position(position.epoch, step), rows

    def _epochs(self) -> Iterator[Position]:
        """Where to start in each epoch to read."""
        first = self.start.epoch
        for epoch in count(first) if self.epochs is None else range(first, first + self.epochs):
            yield self.start if epoch == first else Position(epoch)

    def _spans(self) -> Iterator[tuple[Position, int]]:
        """Runs of steps dealt at once, so that a single step costs little: (first position, steps)."""
        span = max(1, _SPAN_ROWS * self.size // self.plan.batch_size)
        for start in self._epochs():
            for step in range(start.step, self.plan.steps, span):
                yield Position(start.epoch, step), min(span, self.plan.steps - step)

    def _feeds(self, pool: ThreadPoolExecutor) -> list[_Feed]:
        shares = self.plan.shares(self.rank, self.size)
        keep = len(shares) + 1 if self.plan.order == "shuffled" else 0  # lanes share row groups at their ends
        decoder = self.config.decoder(self.manifest, dictionaries=True, keep=keep)
        quarantine = self.quarantine or Quarantine(self.manifest, self.config.quarantine)
        empty = self.encode(self.manifest.columns.empty_table(), torch.zeros(0, dtype=torch.int64), None)

        def load(block: Block) -> Rows:
            """Decode and encode one block; damaged row groups leave padding in their places."""
            table, kept = decoder.salvage(block.pieces, quarantine.add)
            numbers = torch.from_numpy(self.plan.numbers(Block(block.pieces[kept])))
            places = block.order()
            order = None if places is None else torch.from_numpy(places)
            try:
                if kept.all():
                    return self.encode(table, numbers, order)
                rows = _with_gaps(self.encode(table, numbers, None), block.pieces, kept)
            except RowError as error:
                raise InputError(self.manifest.located(error)) from None
            return rows if order is None else rows.take(order)

        feeds = []
        for share in shares:
            loading = (pool.submit(load, block) for block in self._blocks(share))
            feeds.append(_Feed(self.plan.width(share), self.plan.share_rows(share), loading, empty))
        for _ in range(1 + self.config.prefetch):
            for feed in feeds:
                feed.fetch()
        return feeds

    def _blocks(self, share: range) -> Iterator[Block]:
        if self.plan.share_rows(share):
            for start in self._epochs():
                yield from self.plan.blocks(share, start.epoch, start.step)


class _Feed:
    """One share of the plan, read in its order; holds the block in use and those decoded ahead."""

    def __init__(self, width: int, rows: int, blocks: Iterator[Future[Rows]], empty: Rows) -> None:
        self._width, self._rows, self._blocks, self._empty = width, rows, blocks, empty
        self._ahead: deque[Future[Rows]] = deque()
        self._block, self._taken = empty, 0

    def fetch(self) -> None:
        """Start on one more block."""
        self._ahead.extend(islice(self._blocks, 1))

    def read(self, step: int, steps: int) -> Rows:
        """The share's `[steps * width]` next rows, which stand at `step` of their epoch."""
        wanted = steps * self._width
        stored = min(max(self._rows - step * self._width, 0), wanted)
        parts = list(self._take(stored))
        if stored < wanted:
            parts.append(self._empty.padding(wanted - stored))
        return Rows.cat(parts)

    def _take(self, rows: int) -> Iterator[Rows]:
        while rows:
            if self._taken == len(self._block):
                self._block, self._taken = self._ahead.popleft().result(), 0
            part = self._block.slice(self._taken, self._taken + rows)
            yield part
            rows -= len(part)
            self._taken += len(part)
            if self._taken == len(self._block):
                self._block, self._taken = self._empty, 0
                self.fetch()


def _with_gaps(rows: Rows, pieces: Int64, kept: Bool) -> Rows:
    """Padding in the place of every row of the pieces `[P, 3]` that were not `kept` `[P]`."""
    present = np.repeat(kept, pieces[:, 2] - pieces[:, 1])
    places = np.where(present, present.cumsum() - 1, len(rows))
    return Rows.cat([rows, rows.padding(1)]).take(torch.from_numpy(places))


@contextmanager
def _threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """A pool beside the training thread that, however it is left, drops what waits and joins what runs."""
    pool = ThreadPoolExecutor(number, thread_name_prefix="ranking-data", initializer=give_way)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
