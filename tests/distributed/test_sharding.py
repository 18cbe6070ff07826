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
    chosen: dict[str, tuple[str, int]] = {}
    for users in ("data_parallel", "row_wise"):
        tables = {"users": {"sharding": users}, "videos": {"sharding": "column_wise", "rows": 40, "dim": 256}}
        state = assembly(world, files, [f"--schema.tables={json.dumps(tables | {'tab': {'rows': 5}})}"]).state(1)
        ((_, module),) = state.model.plan.plan.items()
        chosen |= {f"{users}: {name}": (spec.sharding_type, len(spec.ranks)) for name, spec in module.items()}
    with pytest.raises(InputError) as caught:
        assembly(world, files, ["--sharding.ddr_gib=1e-9"]).state(1)
    return {"chosen": chosen, "problem": (type(caught.value).__name__, str(caught.value))}


def test_tables_are_placed_as_the_schema_says_and_impossible_wishes_are_named(workspace: Workspace) -> None:
    found = launch(placements, 2, [workspace.yaml])
    for rank, answer in enumerate(found):
        others = {"videos": ("column_wise", 2), "tab": ("table_wise", 1)}
        expected = {users: others | {"users": (users, 2)} for users in ("data_parallel", "row_wise")}
        assert answer["chosen"] == {
            f"{u}: {name}": where for u, all_ in expected.items() for name, where in all_.items()
        }
        kind, message = answer["problem"]
        assert kind == ("RankZeroReportsError" if rank else "InputError")
        assert message.startswith("sharding: no plan for 2 x cpu: ")
        assert "\n" not in message
