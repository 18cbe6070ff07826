"""Every architecture by name: a new one is a file beside this, a line here and a YAML."""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from ranking.models.base import Architecture, ArchitectureConfig
from ranking.models.mmoe import MMoE
from ranking.models.omoe import OMoE
from ranking.models.shared_bottom import SharedBottom
from ranking.models.single_task import SingleTask
from ranking.schema import Task

ZOO: dict[str, type[Architecture]] = {
    "single_task": SingleTask,
    "shared_bottom": SharedBottom,
    "omoe": OMoE,
    "mmoe": MMoE,
}

if TYPE_CHECKING:
    ModelConfig = ArchitectureConfig
else:
    _SECTIONS = functools.reduce(operator.or_, (model.Config for model in ZOO.values()))
    ModelConfig = Annotated[_SECTIONS, Field(discriminator="type")]


def build(config: ArchitectureConfig, width: int, tasks: tuple[Task, ...]) -> Architecture:
    """The architecture a `model` section describes, for inputs of `width`."""
    return ZOO[config.type](config, width, tasks)


def prefixes(config: ArchitectureConfig, tasks: tuple[Task, ...]) -> tuple[str, ...]:
    """Prefixes of the embedding-table copies that architecture needs."""
    return ZOO[config.type].prefixes(config, tasks)
