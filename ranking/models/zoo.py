"""Every architecture by name: a new one is a file beside this, a line here and a YAML."""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from ranking.models.base import Architecture, ArchitectureConfig
from ranking.models.cgc import CGC
from ranking.models.cross_stitch import CrossStitchNetwork
from ranking.models.esmm import ESMM
from ranking.models.l2_constrained import L2Constrained
from ranking.models.mmoe import MMoE
from ranking.models.omoe import OMoE
from ranking.models.ple import PLE
from ranking.models.shared_bottom import SharedBottom
from ranking.models.single_task import SingleTask
from ranking.models.tensor_factorization import TensorFactorization
from ranking.schema import Task

ZOO: dict[str, type[Architecture]] = {
    "single_task": SingleTask,
    "shared_bottom": SharedBottom,
    "l2_constrained": L2Constrained,
    "cross_stitch": CrossStitchNetwork,
    "tensor_factorization": TensorFactorization,
    "omoe": OMoE,
    "mmoe": MMoE,
    "cgc": CGC,
    "ple": PLE,
    "esmm": ESMM,
}

if TYPE_CHECKING:
    ModelConfig = ArchitectureConfig
else:
    _SECTIONS = functools.reduce(operator.or_, (model.Config for model in ZOO.values()))
    ModelConfig = Annotated[_SECTIONS, Field(discriminator="type")]


def build(config: ArchitectureConfig, width: int, tasks: tuple[Task, ...]) -> Architecture:
    """The architecture a `model` section describes, for inputs of `width`."""
    return ZOO[config.type](config, width, tasks)


def check(config: ArchitectureConfig, tasks: tuple[Task, ...]) -> None:
    """Raise InputError where a `model` section does not fit the tasks, before anything is built."""
    ZOO[config.type].check(config, tasks)


def shares(config: ArchitectureConfig, tasks: tuple[Task, ...]) -> bool:
    """Whether the tasks of that architecture share a layer, see `Architecture.shared_layer`."""
    with torch.device("meta"):
        return bool(build(config, 1, tasks).shared_layer())


def prefixes(config: ArchitectureConfig, tasks: tuple[Task, ...]) -> tuple[str, ...]:
    """Prefixes of the embedding-table copies that architecture needs."""
    return ZOO[config.type].prefixes(config, tasks)
