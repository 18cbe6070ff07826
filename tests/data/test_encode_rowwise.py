"""The vectorised encoder against a plain one, row by row in Python."""

import math
from itertools import pairwise

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.data.encode import Encoder
from ranking.data.transforms import Transforms
from ranking.schema import Schema
from tests.data.encoding import dense, ids

MASK = 2**64 - 1


def mix(state):
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def hash_one(value, seed):
    salt = mix(seed) if seed else 0
    if isinstance(value, int):
        return mix(value & MASK ^ salt)
    data = value.encode()
    found = mix(len(data) ^ salt)
    for start in range(0, len(data), 8):
        found = mix(found ^ int.from_bytes(data[start : start + 8], "little"))
    return found


def row_of(value, encoding, rows, vocabulary, boundaries):
    if encoding["type"] == "identity":
        return value % rows
    if value is None or value != value:
        return 0
    if encoding["type"] == "hash":
        return 1 + ((hash_one(value, encoding["seed"]) >> 32) * (rows - 1) >> 32)
    if encoding["type"] == "vocabulary":
        return vocabulary.index(value) + 1 if value in vocabulary else 0
    return 1 + sum(boundary <= value for boundary in boundaries)


INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 15)
STRINGS = st.text(max_size=40)
NUMBERS = st.floats(-1e6, 1e6) | st.just(float("nan")) | st.integers(-3, 3).map(float)
ROWS = 13
FEATURES = (
    ids("wrapped", "identity", {"out_of_range": "modulo"}),
    ids("hashed", "hash", {"seed": 0}),
    ids("words", "hash", {"seed": 5}),
    ids("known", "vocabulary"),
    ids("bucket", "bucketise", {"boundaries": [-1.0, 0.0, 100.0]}),
    ids("listed", "vocabulary", multi_hot=True, table="known"),
    ids("mean", "hash", {"seed": 0}, multi_hot=True, pooling="mean"),
    ids("sqrtn", "hash", {"seed": 0}, multi_hot=True, pooling="sqrtn", weights="w"),
    dense("minmax", log1p=True, indicator=True),
    dense("standard", scale="standardise", null="zero"),
    dense("pieces", scale="piecewise", pieces=3, log1p=True, indicator=True),
)
KINDS = {
    **{"wrapped": pa.int64(), "hashed": pa.int64(), "words": pa.string(), "known": pa.int64(), "bucket": pa.float64()},
    **{"listed": pa.list_(pa.int64()), "mean": pa.list_(pa.string()), "sqrtn": pa.list_(pa.int64())},
    **{"w": pa.list_(pa.float64()), "minmax": pa.float64(), "standard": pa.float64(), "pieces": pa.float64()},
}


def maybe(strategy):
    return st.none() | strategy


@st.composite
def raw_rows(draw):
    count = draw(st.integers(1, 12))
    row = st.fixed_dictionaries(
        {
            "wrapped": INTEGERS,
            "hashed": maybe(INTEGERS),
            "words": maybe(STRINGS),
            "known": maybe(st.integers(0, 6)),
            "bucket": maybe(NUMBERS),
            "listed": maybe(st.lists(maybe(st.integers(0, 6)), max_size=5)),
            "mean": maybe(st.lists(maybe(STRINGS), max_size=5)),
            "sqrtn": maybe(st.lists(maybe(INTEGERS), max_size=5)),
            "minmax": maybe(NUMBERS),
            "standard": maybe(NUMBERS),
            "pieces": maybe(NUMBERS),
        }
    )
    rows = draw(st.lists(row, min_size=count, max_size=count))
    weight = st.sampled_from([0.0, 0.5, 1.0, 3.0])
    for found in rows:
        found["w"] = [draw(weight) for _ in found["sqrtn"] or ()]
    return rows


def pairs_of(values, weights):
    """(id, weight) of one list without its nulls."""
    pairs = zip(values, weights or [1.0] * len(values), strict=True)
    return [(value, weight) for value, weight in pairs if value is not None]


def expected_weights(feature, pairs):
    """Pooled weights of one list of (id, weight) without nulls."""
    total = {"sum": 1.0, "mean": sum(w for _, w in pairs), "sqrtn": math.sqrt(sum(w * w for _, w in pairs))}
    scale = total[feature.get("pooling", "sum")]
    return [w / scale if scale else 0.0 for _, w in pairs]


def expected_number(feature, transforms, value):
    fitted = transforms.statistics[feature["name"]]
    missing = value is None or value != value
    if feature.get("log1p") and not missing:
        value = math.copysign(math.log1p(abs(value)), value)
    if missing:
        value = 0.0 if feature.get("null") == "zero" else fitted.mean
    indicator = [float(missing)] if feature.get("indicator") else []
    if feature.get("scale") == "piecewise":
        inside = pairwise(transforms.boundaries[feature["name"]])
        pieces = [min(max((value - low) / (high - low), 0.0), 1.0) for low, high in inside]
        return [*pieces, *[0.0] * (feature["pieces"] - len(pieces)), *indicator]
    if fitted.minimum >= fitted.maximum:
        scaled = 0.0
    elif feature.get("scale") == "standardise":
        scaled = (value - fitted.mean) / fitted.std
    else:
        scaled = min(max((value - fitted.minimum) / (fitted.maximum - fitted.minimum), 0.0), 1.0)
    return [scaled, *indicator]


STRING = pa.dictionary(pa.int32(), pa.string())
DICTIONARIES = {"words": STRING, "mean": pa.list_(STRING)}
FIT = {"known": [3, 3, 0], "listed": [[1, 1], [5], None], "minmax": [-2.0, 50.0, None], "standard": [1.0, 2.0, 7.0]}
FIT["pieces"] = [0.0, None, 9.0]
FITTED = pa.table({name: pa.array(FIT.get(name, [None] * 3), kind) for name, kind in KINDS.items()})
SCHEMA = Schema(
    features=FEATURES,
    tasks=[{"name": "click", "label": "click"}],
    tables={name: {"rows": ROWS} for name in ("wrapped", "hashed", "words", "mean", "sqrtn")},
)


@settings(deadline=None, max_examples=150)
@given(raw_rows(), st.integers(0, 3), st.sampled_from([KINDS, KINDS | DICTIONARIES]))
def test_the_vectorised_encoder_is_the_row_by_row_one(raw, cut, kinds):
    encoder = Encoder(SCHEMA, Transforms.fit(SCHEMA, [FITTED]))
    vocabulary = encoder.transforms.vocabularies["known"].to_pylist()
    table = pa.table({name: pa.array([row[name] for row in raw], kind) for name, kind in kinds.items()})
    table, raw = table.slice(min(cut, len(raw) - 1)), raw[min(cut, len(raw) - 1) :]
    found, ragged, numbers_found = encoder.features(table)

    def row(feature, value):
        return row_of(value, feature["encoding"], ROWS, vocabulary, feature["encoding"].get("boundaries"))

    singles = [f for f in FEATURES if f["kind"] == "categorical" and not f.get("multi_hot")]
    assert found.t().tolist() == [[row(f, r[f["name"]]) for f in singles] for r in raw]
    for feature, part in zip([f for f in FEATURES if f.get("multi_hot")], ragged, strict=True):
        pairs = [pairs_of(r[feature["name"]] or [], r["w"] if "weights" in feature else None) for r in raw]
        assert part.lengths.tolist() == [len(p) for p in pairs]
        assert part.values.tolist() == [row(feature, v) for p in pairs for v, _ in p]
        assert part.weights.tolist() == pytest.approx([w for p in pairs for w in expected_weights(feature, p)])
    fitted = encoder.transforms
    expected = [
        [x for f in FEATURES if f["kind"] == "dense" for x in expected_number(f, fitted, r[f["name"]])] for r in raw
    ]
    torch.testing.assert_close(numbers_found, torch.tensor(expected), rtol=1e-6, atol=1e-6)
