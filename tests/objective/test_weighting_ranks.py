"""Weightings in a real training: the same on any number of ranks, and after a resume."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.launch import launch
from tests.short_run import Left, assert_same, steady, train_each
from tests.workspace import Workspace

ADAPTIVE = ("uncertainty", "dwa", "dtp", "gradnorm")


@pytest.mark.filterwarnings("ignore")  # TorchRec's own deprecations
def test_ranks_agree_and_a_resumed_run_weighs_as_if_never_stopped(workspace: Workspace, tmp_path: Path) -> None:
    def runs(*steps: int) -> dict[str, list[str]]:
        """A chain of runs for every weighting, each going on where the one before stopped."""
        folder = tmp_path / "-".join(map(str, steps))
        return {
            f"{name} {n}": steady(folder / name, n) + section(name) for name in (*ADAPTIVE, "static") for n in steps
        }

    def train(size: int, *steps: int) -> list[dict[str, Left]]:
        return launch(train_each, size, [workspace.yaml], runs(*steps))

    first, second = train(2, 20)
    resumed, _ = train(2, 10, 20)  # 10 is inside a window and inside a t
    shutil.rmtree(tmp_path / "20")
    (alone,) = train(1, 20)
    for name in ADAPTIVE:
        run = f"{name} 20"
        assert np.abs(first[run]["weights"] - first["static 20"]["weights"]).min() > 1e-3
        assert_same(second[run], first[run])
        assert_same(resumed[run], first[run])
        for key, values in alone[run].items():
            if key == "weights" or "weighting" in key:
                np.testing.assert_allclose(first[run][key], values, rtol=1e-3, atol=1e-4, err_msg=f"{name} {key}")


def section(name: str) -> list[str]:
    return [f"--objective.weighting.type={name}", "--objective.weighting.interval=6", "--model.dropout=0"]
