"""The order of examples as a pure function of (manifest digest, seed, epoch, global batch, lanes).

The row groups of the manifest are permuted, and their rows, one after another, form the epoch's sequence of N rows. It
is cut into V equal *lanes*, lane v holding rows `v*N//V .. (v+1)*N//V`. Inside a lane every K row groups (or pieces of
one, at its two ends) form a *block*, whose rows are permuted. A global batch of B takes the next B/V rows of every
lane, in lane order; rank r of W owns lanes `r*V/W .. (r+1)*V/W`. Nothing depends on W: every world size trains on the
same global batches, every row exactly once an epoch. All lanes take as many steps as the longest, padded at the end.

Chronological order permutes nothing: global batch s is rows `s*B .. (s+1)*B` of the manifest, lane v its v-th slice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ranking.data.hashing import splitmix64
from ranking.errors import InputError

Int64 = npt.NDArray[np.int64]
Order = Literal["shuffled", "chronological"]

VERSION = 1
"""Part of every hash: a change of the order below must change it, so that no run resumes into another order."""


@dataclass(frozen=True, order=True)
class Position:
    """A place in the training stream: `step` global batches of epoch `epoch` lie before it."""

    epoch: int = 0
    step: int = 0


@dataclass(frozen=True)
class Block:
    """Rows that are decoded together and permuted among themselves.

    Attributes:
        pieces: `[P, 3]` int64 (row group of the manifest, first row, end row within it).
        key: of the permutation; None leaves the rows as they stand.
        skip: how many rows of the permuted block were delivered before.
    """

    pieces: Int64
    key: int | None = None
    skip: int = 0

    def order(self) -> Int64 | None:
        """`[n - skip]` places in the pieces' n rows, in order of delivery; None for all of them as they stand."""
        if self.key is None:
            return None
        return permutation(self.key, int((self.pieces[:, 2] - self.pieces[:, 1]).sum()))[self.skip :]


class Plan:
    """Which rows every lane reads, and in what order. Holds O(row groups) numbers, whatever the number of rows.

    Args:
        row_groups: rows of every row group of the manifest, in its order.
        digest: of the manifest, in hexadecimal.
        seed: another seed gives another order.
        batch_size: global batch B.
        lanes: V; world sizes must divide it.
        block: K, row groups permuted together.
        order: `shuffled` or `chronological`.

    Attributes:
        rows: N.
        steps: steps of an epoch, the same on every rank: `ceil(ceil(N / V) / (B / V))`.
        digest: SHA-256 of all the order depends on; a position means the same rows only under the same digest.

    Raises:
        InputError: `lanes` does not divide `batch_size`.
    """

    def __init__(
        self,
        row_groups: Sequence[int] | Int64,
        digest: str,
        *,
        seed: int = 0,
        batch_size: int,
        lanes: int = 8,
        block: int = 4,
        order: Order = "shuffled",
    ) -> None:
        """Check and take the sums; nothing is permuted yet."""
        if batch_size % lanes:
            raise InputError(f"data.lanes: got {lanes} with data.batch_size {batch_size}; expected lanes to divide it")
        self.order, self.batch_size, self.lanes, self.block = order, batch_size, lanes, block
        self._groups = np.asarray(row_groups, np.int64)
        self._first = np.cumsum(self._groups) - self._groups
        self._nonempty = np.flatnonzero(self._groups)
        self._key = _key(VERSION, int(digest[:16], 16), seed)
        settings = (VERSION, digest, seed, batch_size, lanes, block, order)
        self.digest = hashlib.sha256(repr(settings).encode()).hexdigest()
        self.rows = int(self._groups.sum())
        longest = self.rows if order == "chronological" else -(-self.rows // lanes) * lanes
        self.steps = -(-longest // batch_size)

    def after(self, position: Position) -> Position:
        """The position one step on; the end of an epoch is the start of the next."""
        step = position.step + 1
        return Position(position.epoch, step) if step < self.steps else Position(position.epoch + 1, 0)

    def shares(self, rank: int, size: int) -> list[range]:
        """The lanes of a rank, grouped as they are read: one by one, or all together in chronological order.

        Raises:
            InputError: the world size does not divide the lanes.
        """
        if self.lanes % size:
            raise InputError(f"data.lanes: got {self.lanes} in a world of {size} ranks; expected a multiple of {size}")
        each = self.lanes // size
        owned = range(rank * each, (rank + 1) * each)
        return [owned] if self.order == "chronological" else [range(lane, lane + 1) for lane in owned]

    def width(self, share: range) -> int:
        """Rows a share puts into every global batch, padding included."""
        return len(share) * self.batch_size // self.lanes

    def share_rows(self, share: range) -> int:
        """Rows a share reads in an epoch."""
        if self.order == "shuffled":
            start, stop = self._bounds(share)
            return stop - start
        full, rest = divmod(self.rows, self.batch_size)
        start, width = self._offset(share), self.width(share)
        return full * width + min(max(rest - start, 0), width)

    def blocks(self, share: range, epoch: int, step: int = 0) -> Iterator[Block]:
        """What a share reads from `step` of an epoch on; of what lies before, at most the rest of its first block."""
        if self.order == "shuffled":
            return self._shuffled(share, epoch, step * self.width(share))
        return self._chronological(share, step)

    def numbers(self, block: Block) -> Int64:
        """`[n]` manifest row numbers of the block's pieces, not permuted."""
        group, start, stop = block.pieces.T
        return ranges(self._first[group] + start, self._first[group] + stop)

    def global_rows(self, epoch: int, step: int) -> Int64:
        """`[B]` manifest row numbers of one global batch, -1 for padding: the definition that tests hold loaders to."""
        lanes = []
        for lane in range(self.lanes):
            share = range(lane, lane + 1)
            parts = [np.zeros(0, np.int64)]
            for block in self.blocks(share, epoch, step):
                numbers, order = self.numbers(block), block.order()
                parts.append(numbers if order is None else numbers[order])
                if sum(map(len, parts)) >= self.width(share):
                    break
            rows = np.concatenate(parts)[: self.width(share)]
            lanes.append(np.pad(rows, (0, self.width(share) - len(rows)), constant_values=-1))
        return np.concatenate(lanes)

    def _bounds(self, share: range) -> tuple[int, int]:
        return share.start * self.rows // self.lanes, share.stop * self.rows // self.lanes

    def _offset(self, share: range) -> int:
        return share.start * self.batch_size // self.lanes

    def _shuffled(self, share: range, epoch: int, skip: int) -> Iterator[Block]:
        start, stop = self._bounds(share)
        sequence = self._nonempty[permutation(_key(self._key, epoch), len(self._nonempty))]
        pieces = _cut(sequence, self._groups[sequence], start, stop)
        for place in range(0, len(pieces), self.block):
            block = pieces[place : place + self.block]
            rows = int((block[:, 2] - block[:, 1]).sum())
            if skip < rows:
                yield Block(block, _key(self._key, epoch, share.start, place), max(skip, 0))
            skip -= rows

    def _chronological(self, share: range, step: int) -> Iterator[Block]:
        offset, width = self._offset(share), self.width(share)
        first = step * self.batch_size
        for place in range(0, len(self._nonempty), self.block):
            groups = self._nonempty[place : place + self.block]
            pieces = [self._windows(int(group), first, offset, width) for group in groups]
            if any(map(len, pieces)):
                yield Block(np.concatenate(pieces))

    def _windows(self, group: int, first: int, offset: int, width: int) -> Int64:
        """`[P, 3]` the rows of a group that lie at `offset .. offset+width` of a global batch, from row `first` on."""
        begin = int(self._first[group])
        end = begin + int(self._groups[group])
        lowest, period = max(begin, first), self.batch_size
        if width == period:
            starts, stops = np.array([lowest]), np.array([end])
        else:
            batches = np.arange(lowest // period, -(-end // period)) * period + offset
            starts, stops = np.maximum(batches, lowest), np.minimum(batches + width, end)
        kept = starts < stops
        starts, stops = starts[kept] - begin, stops[kept] - begin
        return np.stack([np.full_like(starts, group), starts, stops], axis=1)


def permutation(key: int, count: int) -> Int64:
    """`[count]` the places 0 .. count-1 in the order of their 64-bit hashes under `key`.

    The place replaces the low bits of its hash: keys are unique, so that every sort gives the same order.
    """
    places = np.arange(count, dtype=np.uint64)
    bits = np.uint64(max(count - 1, 0).bit_length())
    mask = (np.uint64(1) << bits) - np.uint64(1)
    keys = splitmix64(places ^ splitmix64(np.array([key], np.uint64)))
    keys &= ~mask
    keys |= places
    keys.sort()
    keys &= mask
    return keys.view(np.int64)


def ranges(starts: Int64, stops: Int64) -> Int64:
    """All of `start .. stop-1`, one range after another."""
    lengths = stops - starts
    shift = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return shift + np.arange(len(shift))


def _cut(sequence: Int64, counts: Int64, start: int, stop: int) -> Int64:
    """`[P, 3]` pieces of the row groups in `sequence` that lie in rows `start .. stop` of it."""
    ends = np.cumsum(counts)
    begins = ends - counts
    kept = (ends > start) & (begins < stop)
    sequence, begins, ends = sequence[kept], begins[kept], ends[kept]
    return np.stack([sequence, np.maximum(start - begins, 0), np.minimum(stop, ends) - begins], axis=1)


def _key(*words: int) -> int:
    state = np.zeros(1, np.uint64)
    for word in words:
        state = splitmix64(state ^ np.uint64(word % 2**64))
    return int(state[0])
