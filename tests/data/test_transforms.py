"""What `prepare` fits: statistics, vocabularies, boundaries, and how they are kept."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ranking.data.encode import Encoder
from ranking.data.sketch import Moments, Sample, ValueCounts
from ranking.data.transforms import Transforms
from ranking.errors import InputError
from ranking.schema import Schema
from tests.data.encoding import dense

TASKS = [{"name": "click", "label": "click"}]


def schema_of(*features, **tables):
    return Schema(features=features, tasks=TASKS, tables=tables)


def ids(name, encoding="vocabulary", encoding_options=None, **options):
    encoding = {"type": encoding, **(encoding_options or {})}
    return {"kind": "categorical", "name": name, "encoding": encoding, **options}


def fit(schema, **columns):
    return Transforms.fit(schema, [pa.table(columns)])


def test_dense_statistics_leave_out_null_and_nan():
    found = fit(schema_of(dense("x")), x=pa.array([1.0, None, 3.0, float("nan"), 8.0])).statistics["x"]
    assert (found.count, found.minimum, found.maximum, found.mean) == (3, 1.0, 8.0, 4.0)
    assert found.std == pytest.approx(np.std([1, 3, 8]))


def test_log1p_comes_before_the_statistics_and_keeps_the_sign():
    found = fit(schema_of(dense("x", log1p=True)), x=[-3.0, 0.0, 7.0]).statistics["x"]
    assert (found.minimum, found.maximum) == (-math.log1p(3), math.log1p(7))


def test_a_constant_column_has_exactly_its_value_and_no_spread():
    found = fit(schema_of(dense("x")), x=[0.1] * 10).statistics["x"]
    assert (found.minimum, found.mean, found.maximum, found.std) == (0.1, 0.1, 0.1, 0.0)


def test_an_all_null_column_has_zero_statistics():
    found = fit(schema_of(dense("x")), x=pa.nulls(3, pa.float32())).statistics["x"]
    assert (found.count, found.mean, found.std) == (0, 0.0, 0.0)


def test_batches_and_tables_of_any_cut_give_the_same_fit():
    values = np.random.default_rng(0).normal(1e6, 1.0, 1000)
    table = pa.table({"x": values, "v": values.round().astype(int), "b": values})
    schema = schema_of(dense("x", scale="standardise"), ids("v"), ids("b", "bucketise"))
    whole, cut = Transforms.fit(schema, [table]), Transforms.fit(schema, table.to_batches(max_chunksize=7))
    assert cut.statistics["x"].std == pytest.approx(values.std(), rel=1e-9)
    assert cut.statistics["x"].mean == pytest.approx(whole.statistics["x"].mean, rel=1e-15)
    assert cut.vocabularies["v"].equals(whole.vocabularies["v"])
    assert cut.boundaries == whole.boundaries


def test_an_infinite_number_is_an_error_that_names_column_row_and_value():
    with pytest.raises(InputError, match=r"column 'x', row 3: got inf; expected a finite number"):
        Transforms.fit(schema_of(dense("x")), [pa.table({"x": [1.0, 2.0]}), pa.table({"x": [3.0, float("inf")]})])


def test_vocabulary_is_ordered_by_count_then_value():
    assert fit(schema_of(ids("v")), v=[5, 3, 9, 3, 9, 1, None]).vocabularies["v"].to_pylist() == [3, 9, 1, 5]
    assert fit(schema_of(ids("v")), v=["b", "é", "a", "b"]).vocabularies["v"].to_pylist() == ["b", "a", "é"]


def test_vocabulary_keeps_values_seen_min_count_times():
    schema = schema_of(ids("v", encoding_options={"min_count": 2}))
    assert fit(schema, v=[1, 2, 2, 3, 3, 3]).vocabularies["v"].to_pylist() == [3, 2]


def test_vocabulary_is_cut_to_the_declared_rows():
    transforms = fit(schema_of(ids("v"), v={"rows": 3}), v=[1, 2, 2, 3, 3, 3])
    assert transforms.vocabularies["v"].to_pylist() == [3, 2]


def test_a_shared_table_has_one_vocabulary_with_counts_added_up():
    schema = schema_of(ids("a", table="t"), ids("b", table="t", multi_hot=True))
    transforms = fit(schema, a=[1, 1, 2], b=[[2, 2], None, [3]])
    assert transforms.vocabularies["t"].to_pylist() == [2, 1, 3]
    assert transforms.table_rows(schema, "t") == 4


def test_features_of_one_table_must_agree_on_integers_or_strings():
    with pytest.raises(InputError, match="column 'b': got type string; expected int64, as 'a' of the same table"):
        fit(schema_of(ids("a", table="t"), ids("b", table="t")), a=[1], b=["1"])


def test_merging_counts_early_changes_nothing(monkeypatch):
    monkeypatch.setattr("ranking.data.sketch._MERGE_AT", 10)
    values = np.random.default_rng(1).zipf(1.5, 3000)
    table = pa.table({"v": values})
    found = Transforms.fit(schema_of(ids("v")), table.to_batches(max_chunksize=50)).vocabularies["v"].to_pylist()
    unique, counts = np.unique(values, return_counts=True)
    assert found == unique[np.lexsort((unique, -counts))].tolist()


def test_quantile_boundaries_are_exact_and_free_of_repeats():
    schema = schema_of(ids("b", "bucketise", {"buckets": 4}))
    assert fit(schema, b=np.arange(101.0)).boundaries["b"] == (25.0, 50.0, 75.0)
    assert fit(schema, b=[0.0] * 90 + [1.0] * 10).boundaries["b"] == (0.0,)


def test_given_boundaries_stand():
    assert fit(schema_of(ids("b", "bucketise", {"boundaries": [3.0, 1.0]})), b=[7]).boundaries["b"] == (1.0, 3.0)


def test_the_sample_is_bounded_uniform_and_independent_of_the_cut():
    values = np.arange(10_000.0)
    whole, cut = Sample(size=500), Sample(size=500)
    whole.add(values)
    for part in np.array_split(values, 13):
        cut.add(part)
    assert sorted(whole.values) == sorted(cut.values)
    assert len(set(whole.values)) == 500
    assert whole.values.mean() == pytest.approx(5000, rel=0.1)


def test_moments_match_numpy():
    values = np.random.default_rng(2).normal(5, 3, 1000)
    moments = Moments()
    for part in np.array_split(values, 7):
        moments.add(part)
    assert (moments.count, moments.minimum, moments.maximum) == (1000, values.min(), values.max())
    assert (moments.mean, moments.std) == (pytest.approx(values.mean()), pytest.approx(values.std()))


def test_no_values_make_an_empty_vocabulary():
    assert ValueCounts().most_frequent(1).to_pylist() == []
    assert fit(schema_of(ids("v")), v=pa.nulls(2)).vocabularies["v"].to_pylist() == []


@pytest.mark.parametrize(
    ("feature", "tables", "rows"),
    [
        (ids("f", "vocabulary"), {}, 4),
        (ids("f", "vocabulary"), {"f": {"rows": 10}}, 10),
        (ids("f", "bucketise", {"buckets": 8}), {}, 9),
        (ids("f", "bucketise", {"boundaries": [1.0, 2.0]}), {}, 4),
        (ids("f", "hash"), {"f": {"rows": 10}}, 10),
        (ids("f", "identity"), {"f": {"rows": 10}}, 10),
    ],
)
def test_table_rows_are_declared_or_what_the_encoding_needs(feature, tables, rows):
    schema = schema_of(feature, **tables)
    assert fit(schema, f=[1, 2, 3]).table_rows(schema, "f") == rows


@pytest.mark.parametrize("encoding", ["hash", "identity"])
def test_hash_and_identity_need_declared_rows(encoding):
    with pytest.raises(InputError, match=r"schema\.tables\.t\.rows: missing; expected a number"):
        fit(schema_of(ids("f", encoding, table="t")), f=[1])


def test_declared_rows_must_hold_all_buckets():
    with pytest.raises(InputError, match=r"schema\.tables\.f\.rows: got 3; expected >= 9 for feature 'f'"):
        fit(schema_of(ids("f", "bucketise", {"buckets": 8}), f={"rows": 3}), f=[1.0])


def test_a_missing_column_is_named():
    with pytest.raises(InputError, match="column 'x': missing"):
        fit(schema_of(dense("x")), y=[1])


SAVED = (dense("x"), ids("v"), ids("w", table="names"), ids("b", "bucketise"))


@pytest.fixture
def saved(tmp_path):
    generator = np.random.default_rng(3)
    columns = {"x": generator.normal(size=200) / 3, "v": generator.integers(-5, 5, 200), "b": generator.random(200)}
    transforms = fit(schema_of(*SAVED), **columns, w=["ä", "b"] * 100)
    transforms.save(str(tmp_path / "transforms"))
    return transforms, tmp_path / "transforms"


def test_load_gives_back_exactly_what_was_saved(saved):
    transforms, directory = saved
    loaded = Transforms.load(str(directory), schema_of(*SAVED))
    assert loaded.fingerprint == transforms.fingerprint
    assert (loaded.statistics, loaded.boundaries) == (transforms.statistics, transforms.boundaries)
    assert {t: k.to_pylist() for t, k in loaded.vocabularies.items()} == {
        t: k.to_pylist() for t, k in transforms.vocabularies.items()
    }


def test_the_files_are_json_and_one_parquet_a_vocabulary(saved):
    _, directory = saved
    assert sorted(p.name for p in directory.iterdir()) == [
        "names.vocabulary.parquet",
        "transforms.json",
        "v.vocabulary.parquet",
    ]
    assert json.loads((directory / "transforms.json").read_text())["features"]["x"] == {"column": "x", "log1p": False}


def test_fsspec_urls_work():
    schema = schema_of(*SAVED[:2])
    fit(schema, x=[1.0], v=[1]).save("memory://fitted")
    assert Transforms.load("memory://fitted", schema).vocabularies["v"].to_pylist() == [1]


def test_a_hashed_column_keeps_its_type(tmp_path):
    schema = schema_of(ids("h", "hash"), ids("l", "hash", multi_hot=True), h={"rows": 9}, l={"rows": 9})
    fit(schema, h=[None, 7], l=[["a"], []]).save(str(tmp_path))
    encoder = Encoder(schema, Transforms.load(str(tmp_path), schema))
    encoder.features(pa.table({"h": [8, 9], "l": [["b"], []]}))
    encoder.features(pa.table({"h": pa.nulls(2), "l": [["b"], []]}))
    with pytest.raises(
        InputError, match="column 'h': got type string; expected int64, as the transforms were fitted on"
    ):
        encoder.features(pa.table({"h": ["7", None], "l": [["b"], []]}))
    with pytest.raises(InputError, match="column 'l': got type int64; expected large_string, as the transforms"):
        encoder.features(pa.table({"h": [7, 7], "l": [[1], []]}))
    with pytest.raises(InputError, match="column 'h': got type string; expected int64 as before"):
        Transforms.fit(schema, [pa.table({"h": [1], "l": [["a"]]}), pa.table({"h": ["1"], "l": [["a"]]})])


def test_transforms_from_before_the_types_of_hashed_columns_were_kept_load(tmp_path):
    schema = schema_of(ids("h", "hash"), h={"rows": 9})
    fitted = fit(schema, h=[7])
    replace(fitted, hashed={}).save(str(tmp_path))
    content = json.loads((tmp_path / "transforms.json").read_text())
    assert content.pop("hashed") == {}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    encoder = Encoder(schema, Transforms.load(str(tmp_path), schema))
    assert encoder.features(pa.table({"h": ["7"]}))[0].shape == (1, 1)


def test_a_schema_with_fewer_features_loads(saved):
    assert Transforms.load(str(saved[1]), schema_of(*SAVED[:2])).fingerprint == saved[0].fingerprint


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (dense("y"), r"feature 'y': not in the transforms in .*; expected one of .*, or run `prepare`"),
        (dense("x", log1p=True), "feature 'x': got .*'log1p': True.*; expected .*'log1p': False.*, or run `prepare`"),
        (ids("v", "hash"), "feature 'v': got .*'hash'.*; expected .*'vocabulary'"),
        (ids("v", multi_hot=True), "feature 'v': got .*'multi_hot': True"),
        (ids("w"), "feature 'w': got .*'table': 'w'.*; expected .*'names'"),
    ],
)
def test_load_refuses_a_schema_that_was_not_fitted(saved, feature, message):
    with pytest.raises(InputError, match=message):
        Transforms.load(str(saved[1]), schema_of(feature))


def test_load_says_which_transforms_lack_a_feature(saved):
    where = (
        f"feature 'y': not in the transforms in {saved[1]}; expected one of {[*saved[0].features]}, or run `prepare`"
    )
    with pytest.raises(InputError, match=f"^{re.escape(where)}$"):
        Transforms.load(str(saved[1]), schema_of(dense("y")))


def test_load_refuses_a_vocabulary_larger_than_its_table(saved):
    with pytest.raises(InputError, match=r"schema\.tables\.v\.rows: got 5; expected >= 11"):
        Transforms.load(str(saved[1]), schema_of(SAVED[1], v={"rows": 5}))


def test_load_names_a_missing_file(saved, tmp_path):
    with pytest.raises(InputError, match=r"nowhere/transforms.json: no such file"):
        Transforms.load(str(tmp_path / "nowhere"), schema_of(*SAVED))
    with pytest.raises(
        InputError, match=r"^bogus://nowhere/transforms.json: .*expected a URL and options that fsspec knows$"
    ):
        Transforms.load("bogus://nowhere", schema_of(*SAVED))
    with pytest.raises(InputError, match=r"^\S+/two\\nlines/transforms.json: no such file"):
        Transforms.load(str(tmp_path / "two\nlines"), schema_of(*SAVED))
    (saved[1] / "v.vocabulary.parquet").unlink()
    with pytest.raises(InputError, match=r"v\.vocabulary\.parquet"):
        Transforms.load(str(saved[1]), schema_of(*SAVED))


@pytest.mark.parametrize("content", ["{", '{"version": 1}'])
def test_load_refuses_damaged_json(saved, content):
    (saved[1] / "transforms.json").write_text(content)
    with pytest.raises(InputError, match=r"transforms\.json: [^\n]*expected the transforms"):
        Transforms.load(str(saved[1]), schema_of(*SAVED))


def test_load_refuses_a_path_as_the_name_of_a_table(saved):
    content = json.loads((saved[1] / "transforms.json").read_text())
    content["vocabularies"] = {"../elsewhere": 1}
    (saved[1] / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"transforms\.json: [^\n]*elsewhere"):
        Transforms.load(str(saved[1]), schema_of(*SAVED))


def test_load_refuses_files_of_two_fits(saved):
    pq.write_table(pa.table({"value": [1, 2, 3]}), saved[1] / "v.vocabulary.parquet")
    with pytest.raises(InputError, match="fingerprint"):
        Transforms.load(str(saved[1]), schema_of(*SAVED))


def test_a_truncated_vocabulary_is_an_input_error(saved):
    file = saved[1] / "v.vocabulary.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"v\.vocabulary\.parquet"):
        Transforms.load(str(saved[1]), schema_of(*SAVED))


def test_a_vocabulary_of_more_keys_than_ids_can_tell_is_refused(monkeypatch) -> None:
    schema = schema_of(ids("f", "vocabulary"))
    fitted = fit(schema, f=[1, 2, 3])
    monkeypatch.setattr("ranking.data.transforms.MAX_ROWS", 3)
    with pytest.raises(InputError, match=r"schema\.tables\.f\.rows: got 4 by its vocabulary; expected at most 3"):
        fitted.table_rows(schema, "f")
