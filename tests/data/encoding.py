"""One feature, a few values, and what the encoder makes of them."""

import pyarrow as pa
import torch

from ranking.data.encode import Encoder
from ranking.data.transforms import Transforms
from ranking.schema import Schema

CLICK = {"name": "click", "label": "click"}


def dense(name, **options):
    return {"kind": "dense", "name": name, **options}


def ids(name, encoding="hash", encoding_options=None, **options):
    return {"kind": "categorical", "name": name, "encoding": {"type": encoding, **(encoding_options or {})}, **options}


def encoder_of(*features, fit=None, rows=10, tasks=(CLICK,), **options):
    """An encoder fitted on `fit`; every table that needs declared rows has `rows`."""
    features = [*features] or [dense("unused")]
    names = {f.get("table") or f["name"] for f in features if f.get("encoding", {}).get("type") in ("hash", "identity")}
    schema = Schema(features=features, tasks=tasks, tables={name: {"rows": rows} for name in names}, **options)
    count = max(map(len, fit.values())) if fit else 0
    empty = {name: pa.nulls(count) for name in schema.feature_columns()}
    return Encoder(schema, Transforms.fit(schema, [pa.table(empty | (fit or {}))]))


def encode(feature, values, **options):
    """Table rows of one single-valued feature, and the counters."""
    encoder = encoder_of(feature, **options)
    return encoder.features(pa.table({feature["name"]: values}))[0][0].tolist(), encoder.counters


def lists(feature, values, extra=None, **options):
    """Rows, lengths and weights of one multi-hot feature."""
    encoder = encoder_of(feature, **options)
    _, (ragged,), _ = encoder.features(pa.table({feature["name"]: values, **(extra or {})}))
    weights = None if ragged.weights is None else ragged.weights.tolist()
    return ragged.values.tolist(), ragged.lengths.tolist(), weights


def numbers(feature, values, fit):
    encoder = encoder_of(feature, fit={feature["name"]: fit})
    found = encoder.features(pa.table({feature["name"]: values}))[2]
    assert found.dtype == torch.float32
    return found.tolist()
