"""Cases of the fuzz: classes of hostile inputs take turns, each drawn from seed and number alone."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

from tests.faults import hostile_parquet, hostile_yaml
from tests.faults.hostile import Case
from tests.workspace import content, impressions

KINDS = (*hostile_yaml.KINDS, *hostile_parquet.KINDS)
ROWS = 60


def draw_case(seed: int, number: int, folder: Path, models: list[dict[str, Any]]) -> Case:
    """Case `number` of a seed."""
    draw = Random(f"{seed}/{number}")
    kind = KINDS[number % len(KINDS)]
    if kind in hostile_yaml.KINDS:
        return Case(kind, overlay=hostile_yaml.KINDS[kind](draw, _base(draw, folder, models)))
    table = impressions(ROWS, 5)
    case = hostile_parquet.KINDS[kind](draw, hostile_parquet.shard(table), table)
    return Case(kind, file=case.file, name=case.name, table=case.table)


def _base(draw: Random, folder: Path, models: list[dict[str, Any]]) -> dict[str, Any]:
    base = deepcopy(content(folder))
    base["model"] = deepcopy(draw.choice([base["model"], *models]))
    return base
