"""Transforms that grow from day to day, and which row of an earlier table belongs to each row of a later one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ranking.data.hashing import Int64
from ranking.data.transforms import Transforms
from ranking.errors import InputError
from ranking.schema import Schema

FRESH = -1
"""Stands for the earlier row of a row that has none."""


class Shift(NamedTuple):
    """How far a dense feature's new values lie from the scaling that is kept.

    Attributes:
        feature: its name.
        mean: difference of the means in kept standard deviations.
        spread: ratio of the standard deviations.
    """

    feature: str
    mean: float
    spread: float


def extended(schema: Schema, fitted: Transforms, earlier: Transforms) -> Transforms:
    """`fitted` on new data, with all that models of `earlier` rest on kept.

    Keys known before keep their rows; keys fitted now follow in their own order, as far as the declared rows go.
    Scaling and bucket boundaries stay, as weights were learned with them; only a number that was constant before,
    hence always an input of 0, is scaled anew. What no longer stands in `schema` is dropped.

    Raises:
        InputError: a feature was fitted with other settings, a table's keys are of another type, or its declared rows
            do not hold the keys of before.
    """
    for name, settings in fitted.features.items():
        before = earlier.features.get(name, settings)
        if before != settings:
            raise InputError(
                f"feature {name!r}: got {settings}; expected {before}, as the transforms to extend have it"
            )
    for name, kind in fitted.hashed.items():
        if earlier.hashed.get(name, kind) != kind:
            raise InputError(f"feature {name!r}: got {kind} keys; expected {earlier.hashed[name]}, as before")
    kept = {name: s for name, s in earlier.statistics.items() if name in fitted.statistics and s.varies}
    refitted = fitted.statistics.keys() - kept.keys()
    boundaries = {n: b for n, b in earlier.boundaries.items() if n in fitted.boundaries and n not in refitted}
    result = Transforms(
        features=fitted.features,
        statistics={**fitted.statistics, **kept},
        boundaries={**fitted.boundaries, **boundaries},
        vocabularies={
            table: _appended(table, earlier.vocabularies.get(table), keys, schema.table(table).rows)
            for table, keys in fitted.vocabularies.items()
        },
        hashed=dict(fitted.hashed) | {name: kind for name, kind in earlier.hashed.items() if name in fitted.features},
    )
    result.check(schema)
    return result


def shifts(fitted: Transforms, kept: Transforms) -> list[Shift]:
    """How far numbers moved from their kept scaling, farthest mean first; constant ones are left out."""
    pairs = {name: (now, kept.statistics[name]) for name, now in fitted.statistics.items() if now.count}
    moved = [
        Shift(name, (now.mean - before.mean) / before.std, now.std / before.std)
        for name, (now, before) in pairs.items()
        if before.varies
    ]
    return sorted(moved, key=lambda shift: -abs(shift.mean))


def earlier_rows(table: str, schema: Schema, now: Transforms, before_schema: Schema, before: Transforms) -> Int64:
    """Which row of an earlier table each row `[R]` of this one continues, or `FRESH`.

    A vocabulary's rows are found by key. Identity, hash and buckets number their rows by rules, which must be the same.

    Args:
        table: its name, the same in both.
        schema: of the table now.
        now: fitted for it.
        before_schema: of the earlier table.
        before: fitted for that.

    Raises:
        InputError: a feature of the table now finds its rows in another way than before.
    """
    rows, rows_before = now.table_rows(schema, table), before.table_rows(before_schema, table)
    _require_same_rules(table, (schema, now, rows), (before_schema, before, rows_before))
    source = np.arange(rows, dtype=np.int64)
    if table not in now.vocabularies:
        source[rows_before:] = FRESH
        return source
    keys, known = now.vocabularies[table], before.vocabularies[table]
    source[1:] = FRESH
    if len(known):  # an empty vocabulary has no type of its own
        found = pc.index_in(_typed(table, keys, known), known)
        source[1 : 1 + len(keys)] = pc.add(found.cast(pa.int64()), 1).fill_null(FRESH).to_numpy(zero_copy_only=False)
    return source


def _appended(table: str, known: pa.Array | None, keys: pa.Array, rows: int | None) -> pa.Array:
    """`known`, then those of `keys` that are not among them, at most as many as fit `rows`."""
    if known is None or not len(known):
        return keys
    keys = _typed(table, keys, known)
    new = keys.filter(pc.invert(pc.is_in(keys, known)))
    return pa.concat_arrays([known, new if rows is None else new.slice(0, max(0, rows - 1 - len(known)))])


def _typed(table: str, keys: pa.Array, known: pa.Array) -> pa.Array:
    if len(keys) and keys.type != known.type:
        raise InputError(f"vocabulary of table {table!r}: got {keys.type} keys; expected {known.type}, as before")
    return keys if len(keys) else known.slice(0, 0)


def _require_same_rules(
    table: str, now: tuple[Schema, Transforms, int], before: tuple[Schema, Transforms, int]
) -> None:
    """Every way into the table must have led to the same rows before, be it through another feature."""
    earlier = list(_rules(table, *before).values())
    for feature, rule in _rules(table, *now).items():
        if rule not in earlier:
            raise InputError(
                f"feature {feature!r}: its rows in table {table!r} follow {rule!s:.120}; "
                f"expected {' or '.join(f'{known!s:.120}' for known in earlier)}, as before"
            )
    if len({rule["type"] for rule in earlier}) > 1 and table in now[1].vocabularies:
        raise InputError(f"table {table!r}: a vocabulary beside another encoding; expected one encoding to carry over")


def _rules(table: str, schema: Schema, transforms: Transforms, rows: int) -> Mapping[str, dict[str, Any]]:
    """What decides the row of a value, for every feature of the table."""
    rules = {}
    for feature in schema.categorical:
        if feature.table_name == table:
            rule = feature.encoding.model_dump(mode="json", exclude={"min_count", "buckets", "boundaries"})
            if rule["type"] == "hash" or rule.get("out_of_range") == "modulo":
                rule["rows"] = rows
            if feature.name in transforms.boundaries:
                rule["boundaries"] = list(transforms.boundaries[feature.name])
            rules[feature.name] = rule
    return rules
