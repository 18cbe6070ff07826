"""A loaded artefact scores raw rows as the network it came from."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ranking.errors import InputError
from ranking.models.omoe import OMoEConfig
from ranking.models.shared_bottom import SharedBottomConfig
from ranking.models.single_task import SingleTaskConfig
from ranking.serving import ranker as module
from ranking.serving.artefact import export
from ranking.serving.ranker import Ranker

from .conftest import ARCHITECTURE, SCHEMA, impressions

TASKS = ["click", "like", "watch"]


@pytest.fixture(scope="module")
def ranker(artefact) -> Ranker:
    return Ranker.load(artefact)


@pytest.fixture(scope="module")
def request_rows() -> pa.Table:
    return impressions(300, seed=1).drop_columns(["clicked", "liked"])


def as_frame(table: pa.Table) -> pd.DataFrame:
    """With Python lists in the cells, as a client builds one."""
    return pd.DataFrame(table.to_pydict())


@pytest.mark.parametrize(
    "config",
    [ARCHITECTURE, OMoEConfig(), SharedBottomConfig(), SingleTaskConfig(), SingleTaskConfig(share_embeddings=False)],
    ids=["mmoe", "omoe", "shared_bottom", "single_task", "single_task_own_tables"],
)
def test_predictions_are_the_networks_own(config, trained, request_rows, tmp_path):
    original = trained(config)
    directory = export(tmp_path / "ranker", SCHEMA, config, original.transforms, original.tensors)
    answer = Ranker.load(directory).predict(request_rows)
    assert answer.column_names == [*TASKS, "score"]
    got = np.column_stack([answer[task] for task in TASKS])
    np.testing.assert_allclose(got, original.predictions(request_rows), rtol=0, atol=1e-6)


def test_the_score_is_the_configured_product(ranker, request_rows):
    answer = ranker.predict(request_rows).to_pandas()
    seconds = request_rows["seconds"].to_numpy()
    expected = answer["click"] * answer["watch"].clip(lower=1e-12) ** 0.5 * seconds
    np.testing.assert_allclose(answer["score"], expected, rtol=1e-9)


def test_a_data_frame_answers_as_a_table_does_and_keeps_its_index(ranker, request_rows):
    frame = as_frame(request_rows).set_index(np.arange(300) * 10)
    answer = ranker.predict(frame)
    assert answer.index.tolist() == frame.index.tolist()
    np.testing.assert_array_equal(answer.to_numpy(), ranker.predict(request_rows).to_pandas().to_numpy())


@pytest.mark.parametrize("row", range(8))
def test_a_row_alone_scores_as_among_others(ranker, request_rows, row):
    alone = ranker.predict(as_frame(request_rows.slice(row, 1)))
    among = ranker.predict(request_rows).to_pandas().iloc[[row]].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, among, rtol=1e-5, check_exact=False)


def test_rows_are_scored_a_bounded_number_at_a_time(ranker, request_rows, monkeypatch):
    whole = ranker.values(request_rows)
    seen = []
    ranker.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[1])))
    monkeypatch.setattr(module, "_CHUNK", 128)
    np.testing.assert_allclose(ranker.values(request_rows), whole, rtol=1e-6)
    assert seen == [128, 128, 44]


def test_no_rows_give_no_answers_but_still_need_the_columns(ranker, request_rows):
    assert ranker.predict(request_rows.slice(0, 0)).num_rows == 0
    with pytest.raises(InputError, match="'video'"):
        ranker.predict(request_rows.slice(0, 0).drop_columns("video"))


def test_nothing_but_the_inputs_is_read(ranker, request_rows):
    frame = as_frame(request_rows).assign(note=[object()] * 300)
    assert set(ranker.inputs) == set(request_rows.column_names)
    assert len(ranker.predict(frame)) == 300


@pytest.mark.parametrize("column", ["age", "user", "tags", "tag_weights", "seconds"])
def test_a_missing_column_is_named(ranker, request_rows, column):
    with pytest.raises(InputError, match=f"column '{column}': missing"):
        ranker.predict(request_rows.drop_columns(column))
    with pytest.raises(InputError, match=f"column '{column}': missing"):
        ranker.predict(as_frame(request_rows).drop(columns=column))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("age", "old"),
        ("day", 7),
        ("day", None),
        ("size", [1.0]),
        ("tags", "dance"),
        ("views", np.inf),
        ("seconds", None),
    ],
)
def test_a_wrong_column_is_named(ranker, request_rows, column, value):
    frame = as_frame(request_rows.slice(0, 1))
    frame[column] = pd.Series([value])
    with pytest.raises(InputError, match=f"column '{column}'"):
        ranker.predict(frame)


def test_a_bad_value_is_named_by_its_row_in_the_whole_request(ranker, request_rows, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 128)
    days = request_rows["day"].to_numpy().copy()
    days[200] = 9
    place = request_rows.column_names.index("day")
    with pytest.raises(InputError, match="column 'day', row 200: got 9"):
        ranker.predict(request_rows.set_column(place, "day", pa.array(days)))


def test_the_model_is_frozen_and_in_eval_mode(ranker):
    assert not ranker.model.training
    assert not any(parameter.requires_grad for parameter in ranker.model.parameters())
    assert not any(tensor.is_meta for tensor in ranker.model.state_dict().values())
