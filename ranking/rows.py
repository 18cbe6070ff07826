"""Encoded rows: what a slice of Parquet becomes, as plain tensors, before any notion of device or rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Self

import numpy.typing as npt
import torch
from torch import Tensor

_OnArray = Callable[[npt.NDArray[Any], int], npt.NDArray[Any]]
_OnRagged = Callable[["Ragged"], "Ragged"]
_AXES = {"ids": 1} | dict.fromkeys(("dense", "labels", "observed", "masks", "groups", "index"), 0)
"""Every tensor of rows, and along which of its dimensions the rows lie."""


@dataclass(frozen=True)
class Ragged:
    """Lists of ids, one list a row.

    Attributes:
        values: `[V]` int32, table rows, all lists one after another.
        lengths: `[N]` int32, how many ids each row has; sums to V.
        weights: `[V]` float32 per-id weights (pooling already folded in), or None when every id weighs one.
    """

    values: Tensor
    lengths: Tensor
    weights: Tensor | None = None

    def take(self, index: Tensor) -> Ragged:
        """The rows at `index` `[M]`, in that order."""
        lengths, values, weights = _permuted(index, self.lengths, self.values, self.weights)
        return Ragged(values, lengths, weights)

    @cached_property
    def ends(self) -> Tensor:
        """`[N]` int64, where in `values` each row's list ends."""
        return self.lengths.cumsum(0)

    def slice(self, start: int, stop: int) -> Ragged:
        """Rows start .. stop-1, as views."""
        first, last = (int(self.ends[row - 1]) if row else 0 for row in (start, min(stop, len(self.lengths))))
        weights = None if self.weights is None else self.weights[first:last]
        return Ragged(self.values[first:last], self.lengths[start:stop], weights)

    @classmethod
    def cat(cls, parts: Sequence[Ragged]) -> Self:
        """All parts' rows, one part after another."""
        weights = None if parts[0].weights is None else torch.cat([p.weights for p in parts if p.weights is not None])
        return cls(torch.cat([p.values for p in parts]), torch.cat([p.lengths for p in parts]), weights)

    @classmethod
    def deal(cls, parts: Sequence[Ragged], runs: int) -> list[Ragged]:
        """As `Rows.deal`."""
        lengths = torch.stack([part.lengths.view(runs, -1) for part in parts], 1)
        counts = lengths.sum(2)
        sizes = counts.t().tolist()

        def dealt(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
            cut = [torch.split(tensor, of) for tensor, of in zip(tensors, sizes, strict=True)]
            pieces = list(chain.from_iterable(zip(*cut, strict=True)))  # run by run
            return torch.split(torch.cat(pieces) if len(cut) > 1 else tensors[0], counts.sum(1).tolist())

        weights = [part.weights for part in parts if part.weights is not None]
        columns = dealt([part.values for part in parts]), lengths.flatten(1).unbind(0)
        return list(map(cls, *columns, dealt(weights))) if weights else list(map(cls, *columns))


@dataclass(frozen=True)
class Rows:
    """N encoded rows in schema order.

    Attributes:
        ids: `[S, N]` int32 table rows of the S single-valued categorical features, one feature after another as a
            KeyedJaggedTensor has them.
        lists: the multi-hot features, in schema order.
        dense: `[N, D]` float32, scaled, never NaN.
        labels: `[N, T]` float32, 0 where not observed.
        observed: `[N, T]` bool, label neither null nor NaN: the entire space.
        masks: `[N, T]` bool, observed and inside the task's sample space; padding is in none.
        groups: `[N]` int64 GAUC group (user), `NO_USER` where null; 0 without a user column, and for padding.
        index: `[N]` int64 row number in the manifest; -1 for padding.
    """

    ids: Tensor
    lists: tuple[Ragged, ...]
    dense: Tensor
    labels: Tensor
    observed: Tensor
    masks: Tensor
    groups: Tensor
    index: Tensor

    def __len__(self) -> int:
        """Number of rows N."""
        return len(self.index)

    @property
    def real(self) -> Tensor:
        """`[N]` bool, false for padding."""
        return self.index >= 0

    def take(self, index: Tensor) -> Rows:
        """The rows at `index` `[M]`, in that order."""
        places = index.numpy()
        return self._each(lambda array, axis: array.take(places, axis), lambda ragged: ragged.take(index))

    def slice(self, start: int, stop: int) -> Rows:
        """Rows start .. stop-1, as views where tensors allow it."""
        run = slice(start, stop)
        return self._each(
            lambda array, axis: array[:, run] if axis else array[run], lambda ragged: ragged.slice(start, stop)
        )

    def padding(self, count: int) -> Rows:
        """`count` rows of the same widths that are not real: id 0, empty lists, zeros, nothing observed."""
        return Rows(
            ids=self.ids.new_zeros(len(self.ids), count),
            lists=tuple(_empty(ragged, count) for ragged in self.lists),
            dense=self.dense.new_zeros(count, self.dense.shape[1]),
            labels=self.labels.new_zeros(count, self.labels.shape[1]),
            observed=self.observed.new_zeros(count, self.observed.shape[1]),
            masks=self.masks.new_zeros(count, self.masks.shape[1]),
            groups=self.groups.new_zeros(count),
            index=self.index.new_full((count,), -1),
        )

    @classmethod
    def cat(cls, parts: Sequence[Rows]) -> Rows:
        """All parts' rows, one part after another."""
        if len(parts) == 1:
            return parts[0]
        columns = {name: torch.cat([getattr(part, name) for part in parts], axis) for name, axis in _AXES.items()}
        lists = tuple(Ragged.cat([part.lists[i] for part in parts]) for i in range(len(parts[0].lists)))
        return cls(lists=lists, **columns)

    @classmethod
    def deal(cls, parts: Sequence[Rows], runs: int) -> list[Rows]:
        """Batches, as views: the first run of every part, the second of every part, and so on.

        All parts have as many rows, which `runs` divides. Several parts are copied once, tensor by tensor, so that the
        ids of every batch lie together; of one part nothing is copied, and the ids of a batch lie apart.
        """

        def dealt(name: str, axis: int) -> tuple[Tensor, ...]:
            cut = [getattr(part, name).unflatten(axis, (runs, -1)).movedim(axis, 0) for part in parts]
            return (torch.cat(cut, axis + 1) if len(cut) > 1 else cut[0]).unbind(0)

        tensors = zip(*(dealt(name, axis) for name, axis in _AXES.items()), strict=True)
        ragged = [Ragged.deal(feature, runs) for feature in zip(*(part.lists for part in parts), strict=True)]
        lists = zip(*ragged, strict=True) if ragged else [()] * runs
        batches = zip(lists, tensors, strict=True)
        return [cls(lists=those, **dict(zip(_AXES, these, strict=True))) for those, these in batches]

    def _each(self, array: _OnArray, ragged: _OnRagged) -> Rows:
        """Through numpy, which gathers short rows faster than torch."""
        arrays = {name: array(getattr(self, name).numpy(), axis) for name, axis in _AXES.items()}
        lists = tuple(ragged(item) for item in self.lists)
        return Rows(lists=lists, **{name: torch.from_numpy(values) for name, values in arrays.items()})


def _permuted(
    index: Tensor, lengths: Tensor, values: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Lengths, values and weights of the segments at `index`, in that order."""
    import fbgemm_gpu  # noqa: F401  # registers the operator; serving, which never shuffles, does without

    return torch.ops.fbgemm.permute_1D_sparse_data(index.int(), lengths, values, weights)  # type: ignore[no-any-return]


def _empty(ragged: Ragged, count: int) -> Ragged:
    weights = None if ragged.weights is None else ragged.weights.new_zeros(0)
    return Ragged(ragged.values.new_zeros(0), ragged.lengths.new_zeros(count), weights)
