"""What `prepare` fits on the training split, and training and serving both apply: ranges, vocabularies, boundaries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from ranking.data.columns import Column, Float, Float64, RawRows
from ranking.data.hashing import hash_keys
from ranking.data.sketch import Moments, Sample, ValueCounts
from ranking.data.storage import blame, file_system
from ranking.errors import InputError, first_line
from ranking.schema import (
    MAX_ROWS,
    Bucketised,
    CategoricalFeature,
    DenseFeature,
    Frozen,
    Hashed,
    Name,
    Schema,
    Vocabulary,
)

KeyType = Literal["int64", "large_string"]
_Value = TypeVar("_Value")
_Float = TypeVar("_Float", npt.NDArray[np.float32], Float64, Float)


class Statistics(Frozen):
    """Of one dense feature's present values, after `log1p` where the feature sets it; all 0 when none was present."""

    count: int
    minimum: float
    maximum: float
    mean: float
    std: float

    @property
    def varies(self) -> bool:
        """Whether the values differ, so that scaling makes an input of them; the spread of tiny ones can be 0."""
        return self.minimum < self.maximum and self.std > 0


class _File(Frozen):
    """Content of `transforms.json`: all but the vocabularies, which are Parquet files beside it."""

    version: Literal[1] = 1
    fingerprint: str
    features: dict[str, dict[str, Any]]
    statistics: dict[str, Statistics]
    boundaries: dict[str, tuple[float, ...]]
    vocabularies: dict[Name, int]
    hashed: Mapping[str, KeyType] = {}


@dataclass(frozen=True)
class Transforms:
    """Everything fitted on the training split.

    Attributes:
        features: what the fit depended on, for every feature by name; `load` compares it with the schema.
        statistics: of every dense feature by name.
        boundaries: ascending boundaries by feature name: of the buckets of every bucketised one, of the pieces of every
            piecewise one.
        vocabularies: keys by table name, most frequent first: key i owns table row i + 1.
        hashed: type of the keys of every hashed feature that had any, by name: 7 and "7" hash to different rows.
    """

    features: Mapping[str, dict[str, Any]]
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    boundaries: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    vocabularies: Mapping[str, pa.Array] = field(default_factory=dict)
    hashed: Mapping[str, KeyType] = field(default_factory=dict)

    @classmethod
    def fit(cls, schema: Schema, batches: Iterable[RawRows | pa.RecordBatch | pa.Table]) -> Transforms:
        """Fit in one pass over `batches`, holding the vocabularies and a bounded sample of what needs quantiles.

        Raises:
            InputError: a column is missing, of a wrong type, infinite, or mixes integers and strings in one table.
        """
        fit = _Fit(schema)
        for batch in batches:
            raw = RawRows.of(batch, fit.rows)
            with raw.naming():
                fit.add(raw)
        transforms = fit.result()
        transforms.check(schema)
        return transforms

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything fitted, as hexadecimal digits."""
        numbers = [self.features, {k: v.model_dump() for k, v in self.statistics.items()}, self.boundaries]
        numbers += [self.hashed] if self.hashed else []
        digest = hashlib.sha256(json.dumps(numbers, sort_keys=True).encode())
        for table in sorted(self.vocabularies):
            digest.update(table.encode() + b"\0" + hash_keys(self.vocabularies[table]).tobytes())
        return digest.hexdigest()

    def table_rows(self, schema: Schema, table: str) -> int:
        """Rows of an embedding table: as declared, else what its vocabulary or buckets need.

        Raises:
            InputError: nothing says how many rows, fewer are declared than there are buckets, or too many are needed.
        """
        declared = schema.table(table).rows
        needs = {f.name: self._rows(f) for f in schema.categorical if f.table_name == table}
        if declared is None and not any(needs.values()):
            raise InputError(
                f"schema.tables.{table}.rows: missing; expected a number, as identity and hash fit no number of rows"
            )
        for name, need in needs.items():
            if declared is not None and need > declared:
                raise InputError(f"schema.tables.{table}.rows: got {declared}; expected >= {need} for feature {name!r}")
        rows = declared or max([2, *needs.values()])
        if rows > MAX_ROWS:
            raise InputError(f"schema.tables.{table}.rows: got {rows} by its vocabulary; expected at most {MAX_ROWS}")
        return rows

    def save(self, directory: str) -> None:
        """Write `transforms.json` and `<table>.vocabulary.parquet` into `directory`, a path or an fsspec URL."""
        content = _File(
            fingerprint=self.fingerprint,
            features=dict(self.features),
            statistics=dict(self.statistics),
            boundaries=dict(self.boundaries),
            vocabularies={table: len(keys) for table, keys in self.vocabularies.items()},
            hashed=dict(self.hashed),
        )
        fs, root = _place(directory)
        fs.makedirs(root, exist_ok=True)
        for table, keys in self.vocabularies.items():
            with fs.open(f"{root}/{_vocabulary_file(table)}", "wb") as file:
                pq.write_table(pa.table({"value": keys}), file, write_page_checksum=True)
        with fs.open(f"{root}/transforms.json", "wb") as file:
            file.write(json.dumps(content.model_dump(), indent=2).encode())

    @classmethod
    def load(cls, directory: str, schema: Schema | None = None) -> Transforms:
        """Read what `save` wrote and check that it fits `schema`, where one is given.

        Raises:
            InputError: a file is missing or damaged, or a feature was not fitted, or was with other settings.
            ServiceError: the store failed.
        """
        fs, root = _place(directory)
        content = _read(fs, f"{root}/transforms.json")
        vocabularies = {table: _read_keys(fs, f"{root}/{_vocabulary_file(table)}") for table in content.vocabularies}
        transforms = cls(content.features, content.statistics, content.boundaries, vocabularies, content.hashed)
        if transforms.fingerprint != content.fingerprint:
            raise InputError(
                f"{root}: fingerprint {transforms.fingerprint[:12]}; expected {content.fingerprint[:12]}, "
                "as transforms.json says: its files are damaged or of different fits"
            )
        if schema is not None:
            transforms.check(schema, f"the transforms in {directory}")
        return transforms

    def check(self, schema: Schema, what: str = "the transforms") -> None:
        """Check that every feature of `schema` was fitted with the settings it has now; `what` is for messages.

        Raises:
            InputError: naming the feature and the settings that differ, or the table whose rows do not suffice.
        """
        for feature in schema.features:
            fitted, now = self.features.get(feature.name), _settings(feature)
            if fitted is None:
                known = [*self.features]
                raise InputError(f"feature {feature.name!r}: not in {what}; expected one of {known}, or run `prepare`")
            if fitted != now:
                raise InputError(
                    f"feature {feature.name!r}: got {now}; expected {fitted}, as {what} were fitted, or run `prepare`"
                )
        for table in schema.table_names():
            self.table_rows(schema, table)

    def _rows(self, feature: CategoricalFeature) -> int:
        """Rows the feature's encoding needs; 0 when any number will do."""
        match feature.encoding:
            case Vocabulary():
                return 1 + len(self.vocabularies[feature.table_name])
            case Bucketised(boundaries=(), buckets=buckets):  # not the fitted number: ties would shrink the table
                return 1 + buckets
            case Bucketised():
                return 2 + len(self.boundaries[feature.name])
        return 0


class _Fit:
    """The running state of `Transforms.fit`."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.rows = 0
        self.moments = {f.name: Moments() for f in schema.dense}
        self.samples = {f.name: Sample() for f in schema.categorical if isinstance(f.encoding, Bucketised)}
        self.samples |= {f.name: Sample() for f in self._piecewise()}
        self.counts = {f.table_name: ValueCounts() for f in schema.categorical if isinstance(f.encoding, Vocabulary)}
        self.hashed: dict[str, KeyType] = {}

    def add(self, raw: RawRows) -> None:
        """Take the next rows in."""
        self.rows += len(raw)
        for dense in self.schema.dense:
            numbers = compress(dense, raw.column(dense.source).finite())
            self.moments[dense.name].add(numbers)
            if dense.name in self.samples:
                self.samples[dense.name].add(numbers[~np.isnan(numbers)])
        for feature in self.schema.categorical:
            match feature.encoding:
                case Vocabulary():
                    self.counts[feature.table_name].add(_values(raw, feature))
                case Bucketised(boundaries=()):
                    numbers = _values(raw, feature).numbers()
                    self.samples[feature.name].add(numbers[~np.isnan(numbers)])
                case Hashed():
                    self._note_type(feature, _values(raw, feature))

    def _note_type(self, feature: CategoricalFeature, column: Column) -> None:
        keys = column.keys()
        if keys.null_count < len(keys):
            known = self.hashed.setdefault(feature.name, str(keys.type))  # type: ignore[arg-type]  # one of the two
            if str(keys.type) != known:
                raise column.wrong_type(f"{known} as before")

    def result(self) -> Transforms:
        """What all rows so far fit."""
        return Transforms(
            features={f.name: _settings(f) for f in self.schema.features},
            statistics={name: _statistics(moments) for name, moments in self.moments.items()},
            boundaries={f.name: self._boundaries(f.name, e) for f, e in self._with(Bucketised)}
            | {f.name: _ends(self.samples[f.name].values, f.pieces) for f in self._piecewise()},
            vocabularies={table: self._keys(table) for table in self.counts},
            hashed=self.hashed,
        )

    def _with(self, kind: type[_Value]) -> Iterator[tuple[CategoricalFeature, _Value]]:
        yield from ((f, f.encoding) for f in self.schema.categorical if isinstance(f.encoding, kind))

    def _piecewise(self) -> Iterator[DenseFeature]:
        yield from (f for f in self.schema.dense if f.scale == "piecewise")

    def _boundaries(self, name: str, encoding: Bucketised) -> tuple[float, ...]:
        if encoding.boundaries:
            return tuple(sorted(set(encoding.boundaries)))
        values = self.samples[name].values
        inner = np.linspace(0, 1, encoding.buckets + 1)[1:-1]
        return tuple(np.unique(np.quantile(values, inner)).tolist()) if values.size else ()

    def _keys(self, table: str) -> pa.Array:
        smallest = min(e.min_count for f, e in self._with(Vocabulary) if f.table_name == table)
        keys = self.counts[table].most_frequent(smallest)
        rows = self.schema.table(table).rows
        return keys if rows is None else keys.slice(0, rows - 1)


def compress(feature: DenseFeature, values: _Float) -> _Float | Float64:
    """The feature's `log1p`, if it has one, of the magnitude of `values` `[N]` in float64, keeping the sign."""
    return np.copysign(np.log1p(np.abs(values, dtype=np.float64)), values) if feature.log1p else values


def _ends(values: Float64, pieces: int) -> tuple[float, ...]:
    """Where pieces end, at most `pieces` + 1: at values frequent enough to fill a piece, else at the others' quantiles.

    Without the first rule a column that is mostly 0 would have one piece.
    """
    distinct, counts = np.unique(values, return_counts=True)
    frequent = distinct[counts * pieces >= values.size]
    others = values[~np.isin(values, frequent)]
    quantiles = np.quantile(others, np.linspace(0, 1, pieces + 1 - frequent.size)) if others.size else others
    return tuple(np.union1d(frequent, quantiles).tolist())


def _statistics(moments: Moments) -> Statistics:
    if not moments.count:
        return Statistics(count=0, minimum=0.0, maximum=0.0, mean=0.0, std=0.0)
    minimum, maximum = moments.minimum, moments.maximum
    mean = min(max(moments.mean, minimum), maximum)  # rounding can carry the mean of equal values past them
    return Statistics(count=moments.count, minimum=minimum, maximum=maximum, mean=mean, std=moments.std)


def _values(raw: RawRows, feature: CategoricalFeature) -> Column:
    return raw.lists(feature.source).column if feature.multi_hot else raw.column(feature.source)


def _settings(feature: DenseFeature | CategoricalFeature) -> dict[str, Any]:
    """The part of the schema that the fit of `feature` depends on."""
    if isinstance(feature, DenseFeature):
        pieces = {"pieces": feature.pieces} if feature.scale == "piecewise" else {}
        return {"column": feature.source, "log1p": feature.log1p, **pieces}
    encoding = feature.encoding.model_dump(mode="json")
    return {"column": feature.source, "multi_hot": feature.multi_hot, "table": feature.table_name, "encoding": encoding}


def _place(directory: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of the directory, and its path there; errors name the file that is wanted in it."""
    fs, path = file_system(f"{directory}/transforms.json")
    return fs, path.rpartition("/")[0]


def _vocabulary_file(table: str) -> str:
    return f"{table}.vocabulary.parquet"


def _read(fs: fsspec.AbstractFileSystem, path: str) -> _File:
    try:
        return _File.model_validate(json.loads(fs.cat_file(path)))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected the transforms that `prepare` fits") from None
    except (ValidationError, ValueError, OSError) as error:
        text = "; ".join(str(error).splitlines()[:3])
        raise blame(error)(f"{path}: {text}; expected the transforms that `prepare` fits") from None


def _read_keys(fs: fsspec.AbstractFileSystem, path: str) -> pa.Array:
    try:
        with fs.open(path, "rb") as file:
            return pq.read_table(file, page_checksum_verification=True)["value"].combine_chunks()
    except (OSError, pa.ArrowException, KeyError) as error:
        text = first_line(error)
        raise blame(error)(f"{path}: {text}; expected the vocabulary that `prepare` fits") from None
