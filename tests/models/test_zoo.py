"""What every architecture of the zoo keeps (contract 1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import TypeAdapter

from ranking.data.encode import Encoder
from ranking.data.transforms import Transforms
from ranking.models.base import predictions
from ranking.models.ranker import RankingModel
from ranking.models.zoo import ZOO, ModelConfig, build, prefixes
from ranking.nn.embeddings import EmbeddingTables
from ranking.objective.loss import Objective, ObjectiveConfig
from ranking.schema import Schema, Task
from ranking.serving.artefact import export
from ranking.serving.ranker import Ranker

from .conftest import CASES, SMALL, TASKS, config, inputs, network

every = pytest.mark.parametrize("section", CASES.values(), ids=CASES)


def labels(rows: int = 64) -> torch.Tensor:
    click, like, buy = torch.randint(0, 2, (3, rows), generator=torch.Generator().manual_seed(2)).float()
    return torch.stack([click, click * like, click * buy], dim=1)


def test_no_architecture_is_left_out() -> None:
    assert list(SMALL) == list(ZOO)


@every
def test_a_logit_for_every_row_and_task(section: dict[str, Any]) -> None:
    model = network(section)
    for rows in (1, 5):
        logits = model(inputs(rows))
        assert logits.shape == (rows, len(TASKS))
        assert logits.isfinite().all()


@every
def test_a_row_is_scored_on_its_own(section: dict[str, Any]) -> None:
    model = network(section).eval()
    torch.testing.assert_close(model(inputs())[7:9], model(inputs()[7:9]))


@every
def test_a_gradient_reaches_every_parameter(section: dict[str, Any]) -> None:
    model = network(section)
    (model(inputs()) - labels()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@every
def test_every_task_trains_its_own_head(section: dict[str, Any]) -> None:
    model = network(section).eval()
    x = inputs().requires_grad_()
    for task in range(len(TASKS)):
        (slope,) = torch.autograd.grad(model(x)[:, task].sum(), x)
        assert slope.abs().sum() > 0


@every
def test_the_state_goes_round(section: dict[str, Any]) -> None:
    model, other = network(section), build(config(section), inputs().shape[1], TASKS)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.eval()(inputs()), model.eval()(inputs()), rtol=0, atol=0)


@every
def test_it_learns_64_rows_by_heart(section: dict[str, Any]) -> None:
    model, objective = network(section), Objective(ObjectiveConfig(), TASKS, 1)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    masks, counts = torch.ones(64, 3), torch.full((3,), 64.0)
    for step in range(400):
        optimizer.zero_grad()
        shares = objective.task_losses(model(inputs()), labels(), masks, counts)
        objective(shares, 0, step, model.penalty(), counts).backward()
        optimizer.step()
        if shares.max() < 0.1:
            break
    learnt = objective.task_losses(model.eval()(inputs()), labels(), masks, counts)
    assert learnt.max() < 0.2, learnt


@every
def test_bfloat16_changes_little_and_keeps_the_penalty_exact(section: dict[str, Any]) -> None:
    model = network(section)
    torch.manual_seed(4)
    exact, penalty = model(inputs()), model.penalty()
    torch.manual_seed(4)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(inputs())
    assert (rough.float() - exact).abs().mean() < 0.1
    again = model.penalty()
    if penalty is not None:
        assert again.dtype == torch.float32
        torch.testing.assert_close(again, penalty, rtol=0.2, atol=1e-2)


@every
def test_its_settings_go_through_json(section: dict[str, Any]) -> None:
    settings = config(section)
    assert TypeAdapter(ModelConfig).validate_json(settings.model_dump_json()) == settings


def test_large_logits_are_probabilities_that_differ() -> None:
    watch = Task.model_validate({"name": "watch", "label": "x", "loss": "mse"})
    logits = torch.tensor([[17.0, 17.0], [18.0, 18.0], [30.0, 30.0]])
    found = predictions(logits, (TASKS[0], watch))
    assert 0 < 1 - found[2, 0] < 1 - found[1, 0] < 1 - found[0, 0]
    assert torch.equal(found[:, 1], logits[:, 1].double())


SCHEMA = Schema.model_validate(
    {
        "features": [
            {"kind": "dense", "name": "age"},
            {"kind": "categorical", "name": "user", "encoding": {"type": "vocabulary"}},
        ],
        "tasks": [task.model_dump() for task in TASKS],
        "embedding_dim": 8,
    }
)


@every
def test_the_artefact_scores_as_the_network_does(section: dict[str, Any], tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    table = pa.table({"age": draw.normal(30, 9, 200), "user": [f"u{i}" for i in draw.integers(0, 20, 200)]})
    transforms, settings = Transforms.fit(SCHEMA, [table]), config(section)
    torch.manual_seed(3)
    sizes = {"user": transforms.table_rows(SCHEMA, "user")}
    embeddings = EmbeddingTables(SCHEMA, sizes, prefixes(settings, TASKS))
    for weights in embeddings.tables.values():
        torch.nn.init.normal_(weights)
    model = RankingModel(embeddings, build(settings, SCHEMA.input_width, TASKS)).eval()
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors["model.embeddings.collection.embedding_bags.user.weight"] = tensors.pop("model.embeddings.tables.user")
    directory = export(tmp_path / "ranker", SCHEMA, settings, transforms, tensors)
    answer = Ranker.load(directory).predict(table)
    ids, lists, dense = Encoder(SCHEMA, transforms).features(table)
    with torch.no_grad():
        expected = predictions(model((ids, lists), dense), TASKS)
    np.testing.assert_allclose(
        np.column_stack([answer[task.name] for task in TASKS]), expected.numpy(), rtol=0, atol=1e-6
    )
