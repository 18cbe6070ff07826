from __future__ import annotations

import re

import pytest
from huggingface_hub import ModelCard

from ranking.metrics.report import EvaluationReport, SpaceReport, TaskReport
from ranking.schema import ColumnSpace, Task
from ranking.tracking.card import CardData, CardFacts, model_card

TASKS = (
    Task(name="click", label="is_click"),
    Task(name="like", label="is_like", given="click", group="satisfaction"),
    Task(name="play", label="log1p(play_ms)", loss="mse", given=ColumnSpace(column="seen | kept")),
)
GOOD = SpaceReport(rows=12_000, positives=600, auc=0.75, auc_interval=(0.74, 0.76), calibration=1.02, ece=0.01)
UNDEFINED = SpaceReport(rows=10, positives=0, undefined="0 positives in 10 rows")
REGRESSION = SpaceReport(rows=500, r2=0.25, r2_interval=(0.2, 0.3), rmse=0.5)


def evaluation(step: int) -> dict[str, object]:
    tasks = {
        "click": TaskReport(kind="binary", sample_space=GOOD, entire_space=GOOD),
        "like": TaskReport(kind="binary", sample_space=UNDEFINED, entire_space=GOOD),
        "play": TaskReport(kind="regression", sample_space=REGRESSION, entire_space=REGRESSION),
    }
    return EvaluationReport(step=step, tasks=tasks).model_dump()


FACTS = CardFacts(
    name="kuairand-mmoe",
    tasks=TASKS,
    data=CardData(name="kuairand", digest="abc123", rows=1_234_567, days="2022-04-08 to 2022-04-20"),
    settings={"optimizer": "adam", "store_password": "canary"},
    history=(evaluation(100), evaluation(2000)),
    best_step=2000,
    usage='mlflow.pyfunc.load_model("models:/kuairand@champion")',
    revision="abc1234+dirty",
    caveats=("Trained on one market.",),
)


@pytest.fixture(scope="module")
def card() -> str:
    return model_card(FACTS)


@pytest.mark.parametrize(
    "line",
    [
        "| like | binary | `is_like` | positives of click | satisfaction | bce | 1 |",
        r"| play | regression | `log1p(play_ms)` | rows where `seen \| kept` | engagement | mse | 1 |",
        "| rows | 1,234,567 |",
        "| digest | `abc123` |",
        "| days | 2022-04-08 to 2022-04-20 |",
        "| 2,000 (best) | 0.7500 | undefined | 0.2500 |",
        "| click | sample | 12,000 | 600 | 0.7500 | 0.7400 to 0.7600 |  |  |  |",
        "| play | sample | 500 |  | 0.2500 | 0.2000 to 0.3000 |  |  | 0.5000 |",
        "| click | 1.0200 | 0.0100 |  |  |",
        "- like: undefined in its sample space: 0 positives in 10 rows.",
        "- Trained on one market.",
        'mlflow.pyfunc.load_model("models:/kuairand@champion")',
        "Code revision: `abc1234+dirty`",
    ],
)
def test_the_card_says(card: str, line: str) -> None:
    assert line in card.splitlines()


def test_every_table_is_rectangular(card: str) -> None:
    widths: list[set[int]] = [set()]
    for line in card.splitlines():
        if line.startswith("|"):
            widths[-1].add(len(re.findall(r"(?<!\\)\|", line)))
        elif widths[-1]:
            widths.append(set())
    assert [len(width) for width in widths[:-1]] == [1] * 6


def test_the_hub_reads_its_header(card: str) -> None:
    header = ModelCard(card).data
    assert header.license == "apache-2.0"
    assert header.tags == ["ranking", "multi-task", "engagement", "satisfaction"]


def test_secrets_stay_out(card: str) -> None:
    assert "canary" not in card


def test_the_best_step_must_have_been_evaluated() -> None:
    with pytest.raises(ValueError, match=r"best_step 7: expected one of \[100, 2000\]"):
        model_card(FACTS.model_copy(update={"best_step": 7}))
