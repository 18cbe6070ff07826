"""Labels, and the masks that say which rows train and score each task."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ranking.data.columns import FLOAT32_MAX, Bool, Column, Float64, RawRows, fit_float32, plain
from ranking.data.hashing import Int64, hash_keys, integers
from ranking.errors import InputError, first_line
from ranking.expression import Expression
from ranking.schema import NO_USER, ColumnSpace, Schema, Task

Count = Callable[[str, int], None]


def targets(schema: Schema, raw: RawRows, count: Count) -> tuple[Tensor, Tensor, Tensor]:
    """Evaluate every task's label and sample space.

    Args:
        schema: its tasks are the columns of the results.
        raw: N rows.
        count: told `<task>/unobserved` and how many labels are null, NaN or infinite.

    Returns:
        labels `[N, T]` float32, 0 where not observed; observed `[N, T]` bool; masks `[N, T]` bool.

    Raises:
        InputError: a column is missing or of a wrong type, or a binary label is neither 0 nor 1.
    """
    shape = (len(raw), len(schema.tasks))
    labels, observed, masks = np.zeros(shape, np.float32), np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    found = {task.name: _label(task, raw) for task in schema.tasks}
    positive = {name: seen & (values == 1) for name, (values, seen) in found.items()}
    for place, task in enumerate(schema.tasks):
        values, seen = found[task.name]
        count(f"{task.name}/unobserved", len(raw) - int(np.count_nonzero(seen)))
        labels[:, place], observed[:, place] = values, seen
        masks[:, place] = seen & _space(schema, task, raw, positive)
    return torch.from_numpy(labels), torch.from_numpy(observed), torch.from_numpy(masks)


def groups(schema: Schema, raw: RawRows) -> Tensor:
    """The user of every row `[N]` int64: integers as they are, strings hashed, `NO_USER` where null; else zeros."""
    if not schema.user:
        return torch.zeros(len(raw), dtype=torch.int64)
    return torch.from_numpy(raw.column(schema.user).coded(_user, null=NO_USER)[0])


def _user(keys: pa.Array) -> Int64:
    return hash_keys(keys).view(np.int64) if pa.types.is_large_string(keys.type) else integers(keys).copy()


def _label(task: Task, raw: RawRows) -> tuple[Float64, Bool]:
    column = _evaluate(task.label, raw, f"task {task.name!r}: label")
    values = column.numbers()
    observed = np.ones(len(values), np.bool_)
    if not fit_float32(values):
        observed = np.abs(values) <= FLOAT32_MAX  # false for NaN
        values = np.where(observed, values, 0.0)
    if task.kind == "binary":
        _refuse(column, (values != 0) & (values != 1))
    return values, observed


def _space(schema: Schema, task: Task, raw: RawRows, positive: dict[str, Bool]) -> Bool:
    """Rows inside the sample space: those of `given`, or positives of every task up the chain."""
    if isinstance(task.given, ColumnSpace):
        column = _evaluate(task.given.column, raw, f"task {task.name!r}: given")
        values = column.numbers()
        _refuse(column, (values != 0) & (values != 1) & ~np.isnan(values))
        return np.equal(values, 1)
    if task.given == "all":
        return np.ones(len(raw), np.bool_)
    parent = schema.task(task.given)
    return positive[parent.name] & _space(schema, parent, raw, positive)


def _evaluate(expression: Expression, raw: RawRows, where: str) -> Column:
    columns = {name: raw.column(name).values for name in expression.columns}
    try:
        result = expression(columns)
    except pa.ArrowException as error:
        types = ", ".join(f"{name}: {values.type}" for name, values in columns.items())
        reason = first_line(error)
        raise InputError(f"{where} {str(expression)!r}: got {types}; expected what it can use ({reason})") from None
    values = pa.repeat(result, len(raw)) if isinstance(result, pa.Scalar) else plain(result)
    return Column(str(expression), values, raw.row, where)


def _refuse(column: Column, bad: Bool) -> None:
    if bad.any():
        raise column.bad(int(bad.argmax()), "0 or 1")
