"""From the sharded training model through a committed checkpoint to the artefact: the same predictions."""

import numpy as np
import pytest
import torch

from ranking.data.encode import Encoder
from ranking.models.base import predictions
from ranking.models.single_task import SingleTaskConfig
from ranking.models.zoo import build, prefixes
from ranking.serving.artefact import export
from ranking.serving.ranker import Ranker

from .conftest import ARCHITECTURE, SCHEMA, impressions

ROWS = 257


@pytest.mark.filterwarnings("ignore")  # TorchRec's own deprecations
@pytest.mark.parametrize(
    "config",
    [ARCHITECTURE, SingleTaskConfig(share_embeddings=False, bottom=(8,), tower=(4,), cross_layers=1, cross_rank=3)],
    ids=["mmoe", "single_task_own_tables"],
)
def test_the_artefact_predicts_as_the_trainer_does(config, transforms, tmp_path):
    table = impressions(ROWS, seed=2)
    rows = Encoder(SCHEMA, transforms).rows(table, torch.arange(ROWS))
    trainers, tensors = _train_and_save(config, transforms, rows, tmp_path)
    directory = export(tmp_path / "ranker", SCHEMA, config, transforms, tensors)
    answer = Ranker.load(directory).predict(table)
    served = np.column_stack([answer[task] for task in SCHEMA.task_names])
    np.testing.assert_allclose(served, trainers, rtol=0, atol=1e-6)


def _train_and_save(config, transforms, rows, directory):
    """One update of the sharded model, its predictions after it, and its tensors read back in one process."""
    from ranking.batch import RankingBatch
    from ranking.distributed.config import ShardingConfig, SparseOptimizerConfig
    from ranking.distributed.embeddings import ShardedEmbeddings, fuse_optimizers
    from ranking.distributed.sharding import fill_tables, shard
    from ranking.distributed.world import join
    from ranking.models.ranker import RankingModel
    from ranking.objective.loss import Objective, ObjectiveConfig
    from ranking.training.checkpoint import Checkpoints, read_model
    from ranking.training.commits import CheckpointConfig
    from ranking.training.config import OptimizerConfig
    from ranking.training.optimizer import Optimizers
    from ranking.training.state import TrainState
    from ranking.training.step import TrainStep

    with join("cpu") as world:
        torch.manual_seed(5)
        names = prefixes(config, SCHEMA.tasks)
        sizes = {table: transforms.table_rows(SCHEMA, table) for table in SCHEMA.table_names()}
        embeddings = ShardedEmbeddings(SCHEMA, sizes, names)
        fuse_optimizers(embeddings, SCHEMA, SparseOptimizerConfig())
        model = RankingModel(embeddings, build(config, SCHEMA.input_width, SCHEMA.tasks))
        step = TrainStep(model, Objective(ObjectiveConfig(), SCHEMA.tasks, world.size), "fp32")
        sharded = shard(step, embeddings, SCHEMA, world, ShardingConfig(), ROWS)
        fill_tables(sharded, SCHEMA, names, 7)
        state = TrainState(sharded, Optimizers(sharded, OptimizerConfig(), 10), world)
        batch = RankingBatch.build(SCHEMA, rows, rows.masks.sum(0).float(), 0, 0)
        state.optimizers.set_rates(0)
        state.optimizers.zero_grad()
        sharded(batch)[0].backward()
        state.optimizers.step()
        sharded.eval()
        with torch.no_grad():
            _, output = sharded(batch)
        commit = Checkpoints(directory / "checkpoints", CheckpointConfig(), world).save(state, 0.5)
        tensors = read_model(directory / "checkpoints", commit)
    return predictions(output.logits, SCHEMA.tasks).numpy(), tensors
