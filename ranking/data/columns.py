"""Raw columns read by name and by meaning (numbers, keys, lists), with errors that name column, row and value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ranking.data.hashing import Int64
from ranking.errors import InputError, first_line, listed
from ranking.expression import nan_to_null

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Float64 = npt.NDArray[np.float64]
Float = npt.NDArray[np.float32] | Float64
FLOAT32_MAX = float(np.finfo(np.float32).max)
_LAST_WHOLE = {pa.float16(): 2.0**11, pa.float32(): 2.0**24}  # from there on floats skip integers; others: 2^53


class RowError(InputError):
    """A value that cannot be used.

    Args:
        where: what the row is a row of, such as a column.
        row: its number.
        reason: the value, and what was expected.

    Attributes:
        row: its number.
    """

    def __init__(self, where: str, row: int, reason: str) -> None:
        """Keep the number for whoever knows what file it is in."""
        super().__init__(f"{where}, row {row}: {reason}")
        self.row = row
        self._where, self._reason = where, reason

    def at(self, row: int) -> RowError:
        """The same of a row that is told by another number."""
        return RowError(self._where, row, self._reason)


@dataclass(frozen=True)
class Column:
    """The values of one column, or the ids of a column of lists one after another.

    Attributes:
        name: the column's name.
        stored: `[N]` Arrow array as it came, possibly dictionary-encoded.
        row: row number of the value at a position, for messages.
        what: what the name names, for messages.
    """

    name: str
    stored: pa.Array
    row: Callable[[int], int]
    what: str = "column"

    @cached_property
    def values(self) -> pa.Array:
        """`[N]` Arrow array, never dictionary-encoded."""
        return plain(self.stored)

    def bad(self, position: int, expected: str) -> InputError:
        """The error for the value at `position`."""
        got = self.values[position].as_py()
        return RowError(f"{self.what} {self.name!r}", self.row(position), f"got {got!r}; expected {expected}")

    def wrong_type(self, expected: str) -> InputError:
        """The error for a column of another type than `expected`."""
        return InputError(f"{self.what} {self.name!r}: got type {self.values.type}; expected {expected}")

    @property
    def _advice(self) -> str:
        """What to do about a column of times, whose unit is not ours to choose."""
        return "; store it as a number, such as seconds" if pa.types.is_temporal(self.values.type) else ""

    def numbers(self) -> Float64:
        """`[N]` float64, NaN at nulls; possibly read-only.

        Raises:
            InputError: the column is not of integers, floats, decimals or booleans.
        """
        if not _is_number(self.values.type):
            raise self.wrong_type(f"numbers or booleans{self._advice}")
        numbers: Float64 = pc.cast(self.values, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return numbers

    def finite(self) -> Float64:
        """As `numbers`, NaN only where missing.

        Raises:
            InputError: also for an infinite value, or one that float32 cannot hold.
        """
        return self.finite_and_missing()[0].astype(np.float64, copy=False)

    def finite_and_missing(self) -> tuple[Float, Bool | None]:
        """What `finite` returns; and where it is NaN, `[N]`, None when nowhere: then float32 stays what it is."""
        whole = pa.types.is_float32(self.values.type) and not self.values.null_count
        numbers: Float = self.values.to_numpy() if whole else self.numbers()
        if fit_float32(numbers):
            return numbers, None
        bad = np.abs(numbers) > FLOAT32_MAX
        if bad.any():
            raise self.bad(int(bad.argmax()), "a finite number that fits float32")
        return numbers.astype(np.float64, copy=False), np.isnan(numbers)

    def keys(self) -> pa.Array:
        """`[N]` int64 or large_string, null where the value is null or NaN. Unsigned 64-bit keys keep their bits.

        Raises:
            InputError: neither integers nor strings, or a float that is no whole number or may stand for several.
        """
        kind = self.values.type
        if pa.types.is_int64(kind) or pa.types.is_large_string(kind):
            return self.values
        if _is_string(kind):
            return pc.cast(self.values, pa.large_string())
        if pa.types.is_uint64(kind):
            return self.values.view(pa.int64())
        if not _is_number(kind):
            raise self.wrong_type(f"integers or strings{self._advice}")
        return self._whole()

    def coded(self, code: Callable[[pa.Array], Int64], null: int) -> tuple[Int64, int]:
        """What `code` makes of the keys, asked only once for each string of a dictionary.

        Args:
            code: from keys `[U]`, as `keys` gives them, to new numbers `[U]`.
            null: the number of a null or NaN.

        Returns:
            numbers `[N]`; how many are null.
        """
        stored = self.stored
        if not _is_text_dictionary(stored) or len(stored.dictionary) > len(stored) - stored.null_count:
            keys = self.keys()
            found, missing = code(keys), null_mask(keys)
            if missing is not None:
                found[missing] = null
            return found, keys.null_count
        places = stored.indices
        if stored.null_count:
            places = places.cast(pa.int64()).fill_null(-1)  # the last of `found`
        found = np.append(code(pc.cast(stored.dictionary, pa.large_string())), null)
        return found.take(places.to_numpy()), stored.null_count

    def _whole(self) -> pa.Array:
        values = nan_to_null(self.values)
        if pa.types.is_floating(values.type):
            numbers, limit = self.numbers(), _LAST_WHOLE.get(values.type, 2.0**53)
            bad = (numbers != np.floor(numbers)) & ~np.isnan(numbers) | (np.abs(numbers) >= limit)
            if bad.any():
                raise self.bad(
                    int(bad.argmax()), f"whole numbers below {limit:.0f}, from where {values.type} skips some"
                )
        try:
            return pc.cast(values, pa.int64())
        except pa.ArrowInvalid as error:
            raise self.wrong_type(f"whole numbers within 64 bits ({first_line(error)})") from None


@dataclass(frozen=True)
class Lists:
    """A column of lists.

    Attributes:
        name: the column's name.
        values: `[V]` Arrow array, all lists one after another; NaN is null, strings may be dictionary-encoded.
        lengths: `[N]` int32, values in each row's list.
        row: row number of the list at a position, for messages.
    """

    name: str
    values: pa.Array
    lengths: Int32
    row: Callable[[int], int]

    @property
    def column(self) -> Column:
        """The values as a column that knows the row each is in."""
        return Column(self.name, self.values, lambda p: self.row(int(self.lengths.cumsum().searchsorted(p, "right"))))

    def present(self) -> tuple[Lists, Bool | None]:
        """The lists without their nulls, and which of the values `[V]` were kept, None when all."""
        null = null_mask(self.values)
        if null is None:
            return self, None
        rows = np.repeat(np.arange(self.lengths.size), self.lengths)
        lengths = np.bincount(rows[~null], minlength=self.lengths.size).astype(np.int32)
        return Lists(self.name, self.values.drop_null(), lengths, self.row), ~null


class RawRows:
    """A slice of raw rows.

    Args:
        table: columns as Parquet, pandas or a request gave them.
        index: `[N]` row numbers for messages; positions in `table` when left out.
        located: what an error over a row of that number says with the file it lies in, see `Manifest.located`.
    """

    def __init__(self, table: pa.Table, index: Int64 | None = None, located: Callable[[RowError], str] = str) -> None:
        """Wrap; nothing is read yet."""
        self.table = table
        self.index = np.arange(table.num_rows) if index is None else index
        self._located = located

    @classmethod
    def of(cls, rows: RawRows | pa.Table | pa.RecordBatch, first: int) -> RawRows:
        """Rows as they come, numbered from `first` on where they have no numbers yet."""
        if isinstance(rows, RawRows):
            return rows
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
        return cls(table, np.arange(first, first + table.num_rows))

    def head(self, rows: int) -> RawRows:
        """The first rows, at most so many."""
        return RawRows(self.table.slice(0, rows), self.index[:rows], self._located)

    def named(self, error: InputError) -> str:
        """What an error over these rows says, with the file where it is about one of them."""
        return self._located(error) if isinstance(error, RowError) else str(error)

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Where an error over one of these rows becomes what `named` says of it."""
        try:
            yield
        except RowError as error:
            raise InputError(self.named(error)) from None

    def __len__(self) -> int:
        """Number of rows N."""
        return int(self.table.num_rows)

    def column(self, name: str) -> Column:
        """The column, one value a row.

        Raises:
            InputError: there is no such column.
        """
        return Column(name, self._array(name), self.row)

    def lists(self, name: str) -> Lists:
        """The column of lists; a null list is an empty one.

        Raises:
            InputError: there is no such column, or it holds no lists.
        """
        array = self._array(name)
        if pa.types.is_null(array.type):
            array = array.cast(pa.list_(pa.int64()))
        if not _is_list(array.type):
            raise Column(name, array, self.row).wrong_type("lists")
        values = pc.list_flatten(array)
        values = values if _is_text_dictionary(values) else nan_to_null(plain(values))
        return Lists(name, values, _lengths(array), self.row)

    def _array(self, name: str) -> pa.Array:
        place = self.table.schema.get_field_index(name)
        if place < 0:
            names = listed(self.table.column_names)
            raise InputError(f"column {name!r}: missing or repeated; expected once, got {names}")
        return joined(self.table.column(place))

    def row(self, position: int) -> int:
        """Number of the row at `position`."""
        return int(self.index[position])


def fit_float32(numbers: Float) -> bool:
    """Whether all are numbers that float32 can hold: none is NaN or infinite."""
    low, high = numbers.min(initial=0.0), numbers.max(initial=0.0)  # NaN if any is
    return bool(-FLOAT32_MAX <= low and high <= FLOAT32_MAX)


def null_mask(array: pa.Array) -> Bool | None:
    """`[N]` bool, true at nulls, or None when there are none."""
    return array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None


def joined(column: pa.ChunkedArray) -> pa.Array:
    """The column in one piece; Arrow copies even where it is one already."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def plain(array: pa.Array) -> pa.Array:
    """The array without its dictionary, if it has one."""
    if not pa.types.is_dictionary(array.type):
        return array
    return array.cast(pa.large_string()) if _is_string(array.type.value_type) else array.dictionary_decode()


def _lengths(array: pa.Array) -> Int32:
    """Of the lists `[N]`, 0 where null."""
    if array.null_count or pa.types.is_fixed_size_list(array.type):
        return pc.fill_null(pc.list_value_length(array), 0).to_numpy().astype(np.int32)  # type: ignore[no-any-return]
    lengths: Int32 = np.diff(array.offsets.to_numpy()).astype(np.int32, copy=False)
    return lengths


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    checks = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
    return any(check(kind) for check in checks)


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_string_view(kind))


def _is_text_dictionary(array: pa.Array) -> bool:
    """Of strings, none of them null."""
    kind = array.type.value_type if pa.types.is_dictionary(array.type) else None
    return kind is not None and (_is_string(kind) or pa.types.is_large_string(kind)) and not array.dictionary.null_count


def _is_list(kind: pa.DataType) -> bool:
    return any(check(kind) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))
