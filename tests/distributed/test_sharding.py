"""From a configuration to a plan, or to a line that says why there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ranking.distributed.world import World
from ranking.errors import InputError
from tests.launch import launch
from tests.ranked import assembly
from tests.workspace import Workspace


def placements(world: World, files: list[Path]) -> dict[str, object]:
    tables = {"users": {"sharding": "data_parallel"}, "videos": {"sharding": "column_wise", "rows": 40, "dim": 256}}
    state = assembly(world, files, [f"--schema.tables={json.dumps(tables | {'tab': {'rows': 5}})}"]).state(1)
    ((_, module),) = state.model.plan.plan.items()
    chosen = {name: (spec.sharding_type, len(spec.ranks)) for name, spec in module.items()}
    problems = []
    impossible = {"users": {"sharding": "row_wise"}, "videos": {"rows": 9}, "tab": {"rows": 5}}
    for wrong in (f"--schema.tables={json.dumps(impossible)}", "--sharding.ddr_gib=1e-9"):
        with pytest.raises(InputError) as caught:
            assembly(world, files, [wrong]).state(1)
        problems.append((type(caught.value).__name__, str(caught.value)))
    return {"chosen": chosen, "problems": problems}


def test_tables_are_placed_as_the_schema_says_and_impossible_wishes_are_named(workspace: Workspace) -> None:
    found = launch(placements, 2, [workspace.yaml])
    for rank, answer in enumerate(found):
        assert answer["chosen"] == {
            "users": ("data_parallel", 2),
            "videos": ("column_wise", 2),
            "tab": ("table_wise", 1),
        }
        kinds, messages = zip(*answer["problems"], strict=True)
        assert set(kinds) == {"ToldError" if rank else "InputError"}
        rows, memory = messages
        assert rows.startswith("schema.tables.users.sharding: got 'row_wise' on cpu; expected auto")
        assert memory.startswith("sharding: no plan for 2 x cpu: ")
        assert not any("\n" in message for message in messages)
