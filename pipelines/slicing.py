"""Which rows belong to the slices that the gate watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.offline import narrowed
from ranking.config import RunConfig
from ranking.data.columns import Bool, Column, RawRows, null_mask
from ranking.data.hashing import Int64, UInt64, hash_keys, integers
from ranking.data.manifest import Manifest
from ranking.errors import InputError, first_line
from ranking.expression import Expression
from ranking.promotion.slices import Slice, SliceConfig
from ranking.schema import CategoricalFeature, Vocabulary
from ranking.serving.ranker import Ranker

_PENDING = 4_000_000  # ids held back before they are merged into those known

Part = Callable[[RawRows], pa.Array]


def columns(config: RunConfig) -> list[str]:
    """Columns that the slices read beside those of the schema."""
    found: list[str] = []
    for part in config.gate.slices.values():
        found += [part.column] if part.column else []
        found += part.where.columns if part.where else []
    return found


def slices(ranker: Ranker, manifest: Manifest, config: RunConfig) -> list[Slice]:
    """Every slice of `gate.slices` as a mask over the rows that can be read.

    Args:
        ranker: the challenger, whose vocabularies say what is new.
        manifest: the rows, with the columns that the slices read.
        config: the slices and how to read.

    Raises:
        InputError: a column is missing, an expression does not fit it, or a feature cannot tell what is new.
    """
    if not config.gate.slices:
        return []
    parts = {name: _part(f"gate.slices.{name}", part, ranker, config) for name, part in config.gate.slices.items()}
    rows: list[Int64] = []
    found: dict[str, list[pa.Array]] = {name: [] for name in parts}
    unseen = {part.unseen for part in config.gate.slices.values()}
    read = (*columns(config), *(feature.source for feature in ranker.schema.categorical if feature.name in unseen))
    for raw in config.data.raw_rows(narrowed(manifest, read)):
        rows.append(raw.index)
        with raw.naming():
            for name, part in parts.items():
                found[name].append(part(raw))
    return [
        each
        for name, part in config.gate.slices.items()
        for each in _cut(name, part, np.concatenate(rows), pa.chunked_array(found[name]).combine_chunks())
    ]


def _cut(name: str, part: SliceConfig, rows: Int64, values: pa.Array) -> Iterator[Slice]:
    """One mask, or one for each of the most frequent values and one for the others."""
    if not part.column:
        yield Slice(name, rows, pc.fill_null(values, False).to_numpy(zero_copy_only=False), part)
        return
    counted = sorted(values.value_counts().to_pylist(), key=lambda each: (-each["counts"], str(each["values"])))
    codes = values.dictionary_encode("encode")
    place = {value: i for i, value in enumerate(codes.dictionary.to_pylist())}
    indices = codes.indices.to_numpy()
    frequent = [each["values"] for each in counted[: part.values]]
    for value in frequent:
        yield Slice(f"{name}={'null' if value is None else value}", rows, indices == place[value], part)
    if len(counted) > len(frequent):
        yield Slice(f"{name}=other", rows, ~np.isin(indices, [place[value] for value in frequent]), part)


def _part(key: str, part: SliceConfig, ranker: Ranker, config: RunConfig) -> Part:
    if part.column:
        return lambda raw: raw.column(part.column).values
    if part.where is not None:
        return _Where(key, part.where)
    feature = next((f for f in ranker.schema.categorical if f.name == part.unseen and not f.multi_hot), None)
    if feature is None:
        names = [f.name for f in ranker.schema.categorical if not f.multi_hot]
        raise InputError(f"{key}.unseen: got {part.unseen!r}; expected a categorical feature of one id: {names}")
    if isinstance(feature.encoding, Vocabulary):
        return lambda raw: _outside(ranker, feature, raw)
    known = _known(feature.source, config)
    return lambda raw: _new(raw.column(feature.source), known)


class _Where:
    """True where an expression is."""

    def __init__(self, key: str, expression: Expression) -> None:
        self._key, self._expression = key, expression

    def __call__(self, raw: RawRows) -> pa.Array:
        found: Mapping[str, pa.Array] = {name: raw.column(name).values for name in self._expression.columns}
        try:
            answer = self._expression(found)
            truth = answer if pa.types.is_boolean(answer.type) else pc.not_equal(answer, 0)
        except pa.ArrowException as error:
            text = first_line(error)
            raise InputError(f"{self._key}.where {str(self._expression)!r}: {text}; expected true or false") from None
        return pa.repeat(truth, len(raw)) if isinstance(truth, pa.Scalar) else truth


def _outside(ranker: Ranker, feature: CategoricalFeature, raw: RawRows) -> pa.Array:
    """Ids that the model's vocabulary does not know; null is no id."""
    unknown: Bool = ranker.encoder.ids(feature, raw) == 0
    missing = null_mask(raw.column(feature.source).keys())
    return pa.array(unknown if missing is None else unknown & ~missing)


def _new(column: Column, known: UInt64) -> pa.Array:
    missing = null_mask(column.keys())
    new: Bool = ~np.isin(_bits(column), known)
    return pa.array(new if missing is None else new & ~missing)


def _known(name: str, config: RunConfig) -> UInt64:
    """Every id of a column of data.train, 64 bits each, in one pass."""
    known, pending = np.zeros(0, np.uint64), [np.zeros(0, np.uint64)]
    for raw in config.data.raw_rows(config.data.manifest(config.data.train, [name], "data.train")):
        with raw.naming():
            pending.append(np.unique(_bits(raw.column(name))))
        if sum(map(len, pending)) > _PENDING:
            known, pending = np.unique(np.concatenate([known, *pending])), []
    return np.unique(np.concatenate([known, *pending]))


def _bits(column: Column) -> UInt64:
    keys = column.keys()
    return hash_keys(keys) if pa.types.is_large_string(keys.type) else integers(keys).view(np.uint64)
