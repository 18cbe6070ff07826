"""Recipes: how the files of one publisher become a data set; a new one is a file beside this and a line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.recipes.census import CensusConfig, prepare_census
from pipelines.recipes.kuairand import KuairandConfig, prepare_kuairand
from ranking.data.writer import WriterConfig


class Recipe(NamedTuple):
    """What `prepare <name>` does.

    Attributes:
        config: class of its settings.
        prepare: reads `source`, writes the new directory `output`: `prepare(source, output, config)`.
    """

    config: type[WriterConfig]
    prepare: Callable[[Path, Path, Any], None]


RECIPES = {
    "census": Recipe(CensusConfig, prepare_census),
    "kuairand": Recipe(KuairandConfig, prepare_kuairand),
}
