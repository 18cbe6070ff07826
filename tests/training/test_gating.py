"""What an evaluation says about gates and experts: the same at any world size, and true."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from ranking.distributed.world import World
from ranking.metrics.gating import MixtureHealth
from ranking.training.evaluate import Evaluation
from tests.launch import launch
from tests.ranked import assembly
from tests.workspace import Workspace

MODELS = {
    "mmoe": "{model: {type: mmoe, bottom: [16, 12, 8], moe_layers: 2, experts: 4, tower: [4]}}",
    "ple": "{model: {type: ple, bottom: [12, 8], shared_experts: 2, task_experts: 1, tower: [4]}}",
    "switch": "{model: {type: mmoe, bottom: [12, 8], experts: 4, top_k: 1, tower: [4]}}",
}


def evaluated(world: World, files: dict[str, list[Path]]) -> dict[str, Evaluation]:
    """MMoE with a dead expert, dead units and two equal experts, and PLE as it is drawn."""
    found = {}
    for name, yaml in files.items():
        parts = assembly(world, yaml, ["--evaluation.batch_size=96"])
        state = parts.state(10)
        model = state.model.module.model.architecture
        if name == "mmoe":
            with torch.no_grad():
                spoil(model)
        found[name] = parts.evaluate(parts.manifest("validation"), state, 7)
    return found


def spoil(model: torch.nn.Module) -> None:
    """Top layer: expert 0 has no use, 1 and 2 are one, 3 has half its units off. Below: a gate that is stuck."""
    gate = model.gates.linear.weight.view(3, 4, -1)
    for layer in (model.bottom.layers[-1], model.stack[0].experts.layers[-1]):
        layer.bias.fill_(1.0)  # gates read something everywhere
    gate.zero_()
    top = model.experts.layers[-1]
    top.weight[2], top.bias[2] = top.weight[1], top.bias[1]
    top.bias[3, :4] = -1e6
    gate[:, 0] = -1e3
    model.stack[0].gates.linear.weight.zero_()[3] = 1e3


@pytest.fixture(scope="module")
def found(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Evaluation]]]:
    folder, files = tmp_path_factory.mktemp("models"), {}
    for name, text in MODELS.items():
        (folder / f"{name}.yaml").write_text(text)
        files[name] = [workspace.yaml, folder / f"{name}.yaml"]
    return {size: launch(evaluated, size, files) for size in (1, 2)}


def health(found, model: str, module: str, size: int = 1) -> MixtureHealth:
    return found[size][0][model].report.experts[module]


def test_every_mixture_and_gate_is_named(found) -> None:
    experts = found[1][0]["mmoe"].report.experts
    assert {name: list(each.gates) for name, each in experts.items()} == {
        "architecture": ["click", "like", "watch"],
        "architecture.stack.0": ["all"],
    }
    assert {name: list(each.gates) for name, each in found[1][0]["ple"].report.experts.items()} == {
        "architecture.levels.0": ["click", "like", "watch", "shared"],
        "architecture.levels.1": ["click", "like", "watch"],
    }


def test_a_dead_expert_dead_units_and_twins_are_seen(found) -> None:
    top = health(found, "mmoe", "architecture")
    assert top.dead_experts == 0.25
    assert top.gates["like"].weights == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3], abs=1e-6)
    assert top.gates["like"].entropy == pytest.approx(0.7925, abs=1e-3)  # log 3 / log 4
    assert top.dead_units is not None
    assert top.dead_units >= 4 / 32
    assert top.similarity is not None
    assert top.similarity > 1 / 6


def test_a_stuck_gate_counts_as_collapsed(found) -> None:
    assert health(found, "mmoe", "architecture.stack.0").collapsed(0.95) == ["all"]
    assert health(found, "mmoe", "architecture").collapsed(0.95) == []


def test_of_ple_a_task_gate_is_judged_by_the_experts_it_sees(found) -> None:
    level = health(found, "ple", "architecture.levels.0")
    assert [weight > 0 for weight in level.gates["like"].weights] == [False, True, False, True, True]
    assert level.gates["like"].entropy == pytest.approx(1, abs=0.2)


def test_all_numbers_are_those_of_one_process_on_every_rank(found) -> None:
    for model, evaluation in found[1][0].items():
        expected = {k: v for k, v in evaluation.report.metrics().items() if k.startswith("experts/")}
        assert len(expected) > 15
        for answer in found[2]:
            metrics = answer[model].report.metrics()
            assert {key: metrics[key] for key in expected} == pytest.approx(expected, abs=1e-6)


def test_a_gate_that_keeps_one_expert_is_judged_by_where_its_rows_go(found) -> None:
    for gate in health(found, "switch", "architecture").gates.values():
        assert sum(gate.weights) == pytest.approx(1)
        assert gate.row_entropy == pytest.approx(0)


def test_gate_means_stay_under_the_gates_own_names(found) -> None:
    for name in ("architecture.levels.0.gates", "architecture.levels.0.shared_gate", "architecture.levels.1.gates"):
        assert found[2][1]["ple"].gates[name].sum(1) == pytest.approx(1)


@pytest.mark.filterwarnings("ignore")
def test_a_run_warns_once(workspace: Workspace, tmp_path: Path) -> None:
    (line,) = launch(warned, 1, [workspace.yaml], str(tmp_path))
    assert [text for text in line if "gives" in text] == line[:1]
    assert "the gate of architecture for 'click'" in line[0]


def warned(world: World, files: list[Path], output: str) -> list[str]:
    """A training that any spread counts as a collapse for."""
    from tests.short_run import train

    said: list[str] = []

    class Ears(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logging.getLogger("ranking").addHandler(Ears(logging.WARNING))
    train(
        world, files, [f"--output={output}", "--training.steps=12", "--evaluation.every=4", "--evaluation.collapse=.1"]
    )
    return said
