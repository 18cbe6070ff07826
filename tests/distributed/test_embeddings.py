"""Sharded tables: the same weights, vectors and updates whatever the plan and the world size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ranking.config import load
from ranking.distributed.config import ShardingConfig, SparseOptimizerConfig
from ranking.distributed.embeddings import ShardedEmbeddings, fill_table, fuse_optimizers, table_of
from ranking.distributed.sharding import fill_tables, shard
from ranking.distributed.world import World
from ranking.errors import InputError
from ranking.nn.embeddings import EmbeddingTables
from ranking.schema import Schema
from tests.launch import launch
from tests.ranked import assembly, batch_of, encoded, share_of, step, whole, whole_model
from tests.workspace import Workspace

OPTIMIZERS = ("rowwise_adagrad", "adagrad", "sgd")
LAYOUTS = {
    1: [("table_wise", optimizer) for optimizer in OPTIMIZERS] + [("data_parallel", "rowwise_adagrad")],
    2: [("data_parallel", optimizer) for optimizer in OPTIMIZERS]
    + [("auto", "rowwise_adagrad"), ("column_wise", "sgd"), ("column_wise", "adagrad")],
}
BAG = "embedding_bags."


def overrides(plan: str, *more: str) -> list[str]:
    tables = {"users": {"sharding": plan}, "videos": {"sharding": plan, "rows": 40, "dim": 256}, "tab": {"rows": 5}}
    return [f"--schema.tables={json.dumps(tables)}", "--model.dropout=0", *more]


def layouts(world: World, files: list[Path]) -> dict:
    """By plan: initial weights; a look-up compared with plain tables; weights and state after two updates."""
    found: dict = {}
    for plan, optimizer in LAYOUTS[world.size]:
        parts = assembly(world, files, overrides(plan, f"--optimizer.sparse.type={optimizer}"))
        rows = encoded(parts, 96)
        state = parts.state(10)
        before = whole_model(state)
        batch = batch_of(parts, rows, world)
        embeddings = state.model.module.model.embeddings
        with torch.no_grad():
            vectors = embeddings(batch.sparse)
        plain = EmbeddingTables(parts.config.schema, parts.table_rows)
        for name, table in plain.tables.items():
            table.copy_(next(v for n, v in before.items() if n.endswith(f"{BAG}{name}.weight")))
        own = share_of(rows, world)
        torch.testing.assert_close(vectors, plain((own.ids, own.lists)))
        for number in range(2):
            step(state, batch_of(parts, rows, world, step=number))
        moments = whole(state.optimizers.tensors(), world)
        found[plan, optimizer] = before, whole_model(state), {n: m for n, m in moments.items() if BAG in n}
    return found


@pytest.fixture(scope="module")
def found(workspace: Workspace) -> dict[int, dict]:
    return {size: launch(layouts, size, [workspace.yaml])[0] for size in (1, 2)}


def test_initial_weights_depend_on_neither_plan_nor_world_size(found) -> None:
    reference = found[1]["table_wise", "rowwise_adagrad"][0]
    for by_plan in found.values():
        for before, _, _ in by_plan.values():
            assert before.keys() == reference.keys()
            assert all(torch.equal(before[name], reference[name]) for name in reference)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_updates_depend_on_neither_plan_nor_world_size(found, optimizer) -> None:
    _, reference, _ = found[1]["table_wise", optimizer]
    for by_plan in found.values():
        for plan, (before, after, _) in ((p, parts) for (p, kind), parts in by_plan.items() if kind == optimizer):
            for name in reference:
                torch.testing.assert_close(after[name], reference[name], rtol=1e-4, atol=2e-5)
                assert not torch.equal(after[name], before[name]), f"{plan}: {name} was not updated"


def test_data_parallel_tables_have_the_optimizer_they_were_given(found) -> None:
    by_plan = found[2]
    for optimizer, size in (("rowwise_adagrad", 1), ("adagrad", 256)):
        sums = {name: value for name, value in by_plan["data_parallel", optimizer][2].items() if name.endswith("/sum")}
        assert [value.shape[1] for name, value in sums.items() if "videos" in name] == [size]
    assert not any("videos" in name or "users" in name for name in by_plan["data_parallel", "sgd"][2])


def without_tables(world: World, files: list[Path]) -> tuple[float, bool]:
    parts = assembly(world, files, ["--model.dropout=0"])
    state = parts.state(1)
    before = whole_model(state)
    loss = step(state, batch_of(parts, encoded(parts, 96), world))
    after = whole_model(state)
    return loss, all(not torch.equal(after[name], before[name]) for name in before if "towers" in name)


def test_a_schema_of_dense_features_alone_trains_too(workspace: Workspace, tmp_path: Path) -> None:
    settings = yaml.safe_load(workspace.yaml.read_text())
    settings["schema"] |= {"tables": {}, "features": [{"kind": "dense", "name": "duration", "log1p": True}]}
    file = tmp_path / "dense.yaml"
    file.write_text(yaml.safe_dump(settings))
    ((alone, moved),) = launch(without_tables, 1, [file])
    assert moved
    assert [loss for loss, _ in launch(without_tables, 2, [file])] == pytest.approx([alone] * 2)


class Looked(nn.Module):
    """A model that is little more than its tables; the layer is what DDP wraps."""

    def __init__(self, embeddings: ShardedEmbeddings) -> None:
        super().__init__()
        self.embeddings, self.layer = embeddings, nn.Linear(1, 1)

    def forward(self, sparse: KeyedJaggedTensor) -> Tensor:
        return self.embeddings(sparse)


def decayed(world: World, decay: float) -> tuple[Tensor, Tensor]:
    """Four rows of a fused table before and after a step on two of them, whose gradient is 2 in every column.

    FBGEMM's kernel for CPU leaves the decay out where one feature alone reads a table, which is why configurations for
    CPU refuse it; two features take the one that has it, and show that the setting arrives there.
    """
    features = [{"kind": "categorical", "name": name, "table": "t", "encoding": {"type": "identity"}} for name in "ab"]
    tables = {"t": {"rows": 4, "dim": 4, "sharding": "table_wise", "init_scale": 1.0}}
    schema = Schema.model_validate({"features": features, "tables": tables, "tasks": [{"name": "y", "label": "y"}]})
    embeddings = ShardedEmbeddings(schema, {"t": 4})
    fuse_optimizers(embeddings, schema, SparseOptimizerConfig(learning_rate=0.1, weight_decay=decay))
    model = shard(Looked(embeddings), embeddings, schema, world, ShardingConfig(), 2)
    fill_tables(model, schema, ("",), seed=1)
    before = whole_model_of(model)
    ids = KeyedJaggedTensor(["a", "b"], torch.tensor([1, 2, 1, 2]), lengths=torch.ones(4, dtype=torch.int32))
    model(ids).sum().backward()
    return before, whole_model_of(model)


def whole_model_of(model: nn.Module) -> Tensor:
    (table,) = (value for name, value in model.state_dict().items() if BAG in name)
    return table.local_shards()[0].tensor.detach().clone()


def test_decay_is_l2_on_the_rows_a_step_touches() -> None:
    for decay in (0.0, 0.5):
        ((before, after),) = launch(decayed, 1, decay)
        gradient = torch.tensor([0.0, 2.0, 2.0, 0.0]).unsqueeze(1) + decay * before * torch.tensor([[0], [1], [1], [0]])
        root = gradient.square().mean(1, keepdim=True).sqrt() + 1e-8
        torch.testing.assert_close(after, before - 0.1 * gradient / root)


@pytest.mark.parametrize("tables", [{"sharding": "data_parallel"}, {"optimizer": "adagrad"}, {"optimizer": "sgd"}, {}])
def test_decay_is_refused_where_there_is_none(tables: dict[str, str], workspace: Workspace) -> None:
    settings = ["--optimizer.sparse.weight_decay=0.1", f"--schema.tables={json.dumps({'users': tables})}"]
    assert load([workspace.yaml], settings[1:])
    with pytest.raises(InputError, match=r"optimizer.sparse.weight_decay: got 0.1 with table 'users'"):
        load([workspace.yaml], [*settings, f"--device={'cuda' if tables else 'cpu'}"])
    assert not tables or load([workspace.yaml], [settings[0], "--device=cuda"])


def test_a_cell_is_drawn_from_seed_table_row_and_column_alone() -> None:
    whole_table = torch.empty(300, 16)
    fill_table(whole_table, "videos", 3, 0, 0, 0.5)
    part = torch.empty(7, 5)
    fill_table(part, "videos", 3, 100, 11, 0.5)
    assert torch.equal(part, whole_table[100:107, 11:16])
    for other in (("videos", 4), ("users", 3)):
        drawn = torch.empty(300, 16)
        fill_table(drawn, *other, 0, 0, 0.5)
        assert (drawn == whole_table).float().mean() < 0.01


def test_cells_are_uniform_and_independent() -> None:
    drawn = torch.empty(2000, 32)
    fill_table(drawn, "t", 0, 0, 0, 1.0)
    values = drawn.flatten().double().numpy()
    assert -1 <= values.min() < -0.99
    assert 0.99 < values.max() < 1
    counts = np.histogram(values, 50, (-1, 1))[0]
    assert ((counts - 1280) ** 2 / 1280).sum() < 100  # chi-square with 49 degrees of freedom
    assert abs(np.corrcoef(drawn[:-1].flatten(), drawn[1:].flatten())[0, 1]) < 0.02
    assert abs(np.corrcoef(drawn[:, :-1].flatten(), drawn[:, 1:].flatten())[0, 1]) < 0.02


def test_large_tables_are_filled_in_chunks_without_a_seam() -> None:
    wide = torch.empty(5, 1 << 20)  # four rows a chunk
    fill_table(wide, "t", 0, 0, 0, 1.0)
    row = torch.empty(1, 8)
    fill_table(row, "t", 0, 4, 0, 1.0)
    assert torch.equal(wide[4:, :8], row)


@pytest.mark.parametrize(
    ("parameter", "prefixes", "table"),
    [
        ("model.embeddings.collection.embedding_bags.user.weight", ("",), "user"),
        ("embedding_bags.click__user.weight", ("click__", "like__"), "user"),
        ("embedding_bags.like__user.weight", ("click__", "like__"), "user"),
    ],
)
def test_table_of_a_parameter(parameter: str, prefixes: tuple[str, ...], table: str) -> None:
    assert table_of(parameter, prefixes) == table
