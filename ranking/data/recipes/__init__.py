"""Recipes: how the raw files of one publisher become a data set; a new one is a file beside this and a line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from ranking.data.recipes.census import CensusConfig, prepare_census
from ranking.data.recipes.kuairand import KuairandConfig, prepare_kuairand
from ranking.data.writer import WriterConfig
from ranking.schema import Frozen


class Recipe(NamedTuple):
    """What `prepare` does for one publisher.

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


class PrepareConfig(Frozen):
    """Where a publisher's files are, and where the data set made of them goes."""

    source: Path = Field(description="Directory with the publisher's files.")
    output: Path = Field(description="Directory of the data set; `data.train` and the others point into it.")
    recipe: CensusConfig | KuairandConfig = Field(discriminator="type", description="Which data set, and how.")

    def run(self) -> None:
        """Write the data set; it appears whole or not at all.

        Raises:
            InputError: a file is missing or damaged, or not what the recipe expects.
        """
        RECIPES[self.recipe.type].prepare(self.source, self.output, self.recipe)
