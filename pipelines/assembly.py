"""Puts the packages together as a configuration says; shared by the jobs that train or evaluate."""

from __future__ import annotations

from functools import cached_property

import torch

from ranking.config import RunConfig
from ranking.data.encode import Encoder
from ranking.data.loader import DataConfig, Loader, Split
from ranking.data.manifest import Manifest
from ranking.data.plan import Plan, Position
from ranking.data.quarantine import Damage, Quarantine
from ranking.data.transforms import Transforms
from ranking.distributed.collectives import on_rank_zero
from ranking.distributed.embeddings import ShardedEmbeddings, fuse_optimizers
from ranking.distributed.sharding import fill_tables, shard
from ranking.distributed.world import World
from ranking.models import zoo
from ranking.models.ranker import RankingModel
from ranking.objective.loss import Objective
from ranking.training.evaluate import Evaluation, evaluate
from ranking.training.feed import Feed, Stop
from ranking.training.optimizer import Optimizers
from ranking.training.state import TrainState
from ranking.training.step import TrainStep


class Assembly:
    """The parts of one job on one rank.

    Args:
        config: the run's configuration.
        world: the ranks it runs on.

    Attributes:
        known_damage: what the run left out before it was resumed.
    """

    known_damage: tuple[Damage, ...] = ()

    def __init__(self, config: RunConfig, world: World) -> None:
        """Set what is global in torch; nothing is read yet."""
        self.config, self.world = config, world
        self._quarantines: dict[str, Quarantine] = {}
        torch.set_float32_matmul_precision(config.training.matmul)

    @cached_property
    def transforms(self) -> Transforms:
        """What `prepare` fitted."""
        return on_rank_zero(lambda: Transforms.load(self.config.data.transforms, self.config.schema), self.world)

    @cached_property
    def encoder(self) -> Encoder:
        """Raw columns to rows."""
        return Encoder(self.config.schema, self.transforms)

    @cached_property
    def table_rows(self) -> dict[str, int]:
        """Rows of every embedding table."""
        schema = self.config.schema
        return {table: self.transforms.table_rows(schema, table) for table in schema.table_names()}

    def manifest(self, split: Split) -> Manifest:
        """The footers of a split: read once, by rank 0."""
        data = self.config.data
        urls, columns = data.urls(split), self.config.schema.columns()
        return on_rank_zero(lambda: data.manifest(urls, columns, f"data.{split}"), self.world)

    def plan(self, manifest: Manifest) -> Plan:
        """The order of training examples, if the world's ranks can share it."""
        plan = self.config.data.plan(manifest, self.config.seed)
        on_rank_zero(lambda: plan.shares(0, self.world.size), self.world)
        return plan

    def training_feed(self, manifest: Manifest, start: Position, stop: Stop | None = None) -> Feed:
        """This rank's training batches from a position on, until a stop is asked for."""
        plan = self.plan(manifest)
        return self._feed(manifest, plan, self.config.data, start, None, stop)

    def evaluate(self, manifest: Manifest, state: TrainState, step: int, stop: Stop | None = None) -> Evaluation:
        """Score every row of a manifest once, by all ranks.

        Raises:
            AbandonedError: a stop was asked for meanwhile.
        """
        data = self.config.data.model_copy(
            update={"batch_size": self.config.evaluation.batch_size, "order": "shuffled", "block": 1}
        )
        feed = self._feed(manifest, data.plan(manifest, 0), data, Position(), 1, stop)
        with self.world.heartbeat.during("evaluation"):
            return evaluate(state.model, feed, self.config.schema, self.world, self.config.evaluation, step)

    def state(self, total_steps: int) -> TrainState:
        """Model and optimizers with fresh weights, sharded over the world."""
        config, schema, world = self.config, self.config.schema, self.world
        torch.manual_seed(config.seed)
        prefixes = zoo.prefixes(config.model, schema.tasks)
        embeddings = ShardedEmbeddings(schema, self.table_rows, prefixes)
        left = fuse_optimizers(embeddings, schema, config.optimizer.sparse)
        model = RankingModel(embeddings, zoo.build(config.model, schema.input_width, schema.tasks))
        step = TrainStep(model, Objective(config.objective, schema.tasks, world.size), config.training.precision)
        batch = config.data.batch_size // world.size
        sharded = shard(step, embeddings, schema, world, config.sharding, batch)
        fill_tables(sharded, schema, prefixes, config.seed)
        torch.manual_seed(config.seed * 1000 + world.rank)  # dropout differs between ranks
        return TrainState(sharded, Optimizers(sharded, config.optimizer, total_steps, left), world)

    def _feed(
        self, manifest: Manifest, plan: Plan, data: DataConfig, start: Position, epochs: int | None, stop: Stop | None
    ) -> Feed:
        quarantine = self._quarantine(manifest)
        world = self.world
        loader = Loader(manifest, plan, self.encoder.rows, data, world.rank, world.size, start, epochs, quarantine)
        return Feed(loader, self.config.schema, world, plan.steps, quarantine, stop)

    def damage(self) -> tuple[Damage, ...]:
        """Damaged row groups of all splits that were left out, as all ranks know."""
        found = [each for quarantine in self._quarantines.values() for each in quarantine.agreed]
        return tuple(dict.fromkeys([*self.known_damage, *found]))

    def _quarantine(self, manifest: Manifest) -> Quarantine:
        new = Quarantine(manifest, self.config.data.quarantine, self.known_damage)
        return self._quarantines.setdefault(manifest.digest, new)
