"""A profile survives its file, and two of them tell how far features moved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ranking.data.checks import drifts
from ranking.data.encode import Encoder
from ranking.data.profile import Profile
from ranking.data.transforms import Transforms
from ranking.errors import InputError
from ranking.schema import Schema
from tests.workspace import Workspace, impressions


@pytest.fixture(scope="module")
def encoder(workspace: Workspace) -> Encoder:
    schema = workspace.config().schema
    return Encoder(schema, Transforms.fit(schema, [pq.read_table(file) for file in workspace.files("train")]))


def test_what_is_saved_is_what_was_seen(encoder: Encoder, tmp_path: Path) -> None:
    seen = Profile.of("train", encoder, [impressions(300, 1), impressions(200, 2)], sample=100)
    seen.save(tmp_path)
    found = Profile.load(tmp_path)
    assert (found.name, found.rows, found.tasks, found.features) == ("train", 500, seen.tasks, seen.features)
    assert {name: len(values) for name, values in found.samples.items()} == dict.fromkeys(seen.samples, 100)
    np.testing.assert_equal(dict(found.samples), dict(seen.samples))


def test_a_saved_profile_runs_no_code_when_it_is_read(encoder: Encoder, tmp_path: Path) -> None:
    Profile.of("train", encoder, [impressions(50, 1)]).save(tmp_path)
    with (tmp_path / "samples.npz").open("wb") as file:
        np.savez(file, age=np.array([object()], dtype=object))
    with pytest.raises(InputError, match="expected the profile of a data set"):
        Profile.load(tmp_path)


def test_a_feature_may_have_any_name(tmp_path: Path) -> None:
    features = [{"kind": "dense", "name": name} for name in ("file", "allow_pickle")]
    schema = Schema(features=features, tasks=[{"name": "click", "label": "click"}])
    table = pa.table({"file": [1.0], "allow_pickle": [2.0], "click": [1]})
    Profile.of("train", Encoder(schema, Transforms.fit(schema, [table])), [table]).save(tmp_path)
    assert {name: values.tolist() for name, values in Profile.load(tmp_path).samples.items()} == {
        "file": [1.0],
        "allow_pickle": [2.0],
    }


def test_a_missing_profile_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"profile\.json"):
        Profile.load(tmp_path / "nowhere")


def test_drift_is_measured_between_a_saved_profile_and_a_new_day(encoder: Encoder, tmp_path: Path) -> None:
    Profile.of("train", encoder, [impressions(2000, 1)], sample=1000).save(tmp_path)
    day = impressions(1000, 2)
    moved = day.set_column(day.column_names.index("tab"), "tab", pa.array([4] * 1000))
    found = {
        drift.feature: drift
        for drift in drifts(encoder.schema, Profile.load(tmp_path), Profile.of("d", encoder, [moved]))
    }
    assert found["tab"].psi > 1
    assert found["tab"].ks is None
    assert found["duration"].ks is not None
    assert found["duration"].ks < 0.1
