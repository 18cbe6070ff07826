"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "ranking").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")])
PYTHON = sorted([*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])

VOCABULARY = (
    "config_errors",
    "errors",
    "files",
    "redact",
    "yaml_file",
    "expression",
    "rows",
    "schema",
    "batch",
)  # modules of `ranking`

# A module may import what stands on a lower line, and its own package; packages on one line never import each other.
LAYERS = [
    ["ranking", *(f"ranking.{name}" for name in VOCABULARY)],
    ["ranking.distributed"],
    ["ranking.nn", "ranking.objective", "ranking.metrics", "ranking.data"],
    ["ranking.models"],
    ["ranking.training", "ranking.tracking", "ranking.promotion", "ranking.serving"],
    ["ranking.config"],
    ["pipelines"],
]
ENVIRONMENT_READERS = {"ranking/distributed/world.py", "ranking/config.py"}


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package(name: str) -> str:
    """The unit of the layers a module belongs to."""
    parts = name.split(".")
    return "pipelines" if parts[0] == "pipelines" else ".".join(parts[:2])


def level(name: str) -> int:
    return next(i for i, packages in enumerate(LAYERS) if package(name) in packages)


def imports(path: Path) -> Iterator[str]:
    known = {module(source) for source in SOURCES}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in ("ranking", "pipelines"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("ranking", "pipelines"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else str(node.module)


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_imports_point_down(path: Path) -> None:
    own = module(path)
    for target in imports(path):
        if package(target) == package(own) or (level(own) == level(target) == 0):
            continue
        assert level(target) < level(own), f"{own} imports {target}"


def test_there_are_no_import_cycles() -> None:
    graph = {module(path): set(imports(path)) - {module(path)} for path in SOURCES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for target in graph.get(name, ()):
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert len(done) >= len(graph)


def test_every_module_can_be_imported() -> None:
    names = [module(path) for path in SOURCES]
    code = f"import importlib\nfor name in {names}:\n    importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_jobs_that_train_nothing_start_without_torchrec() -> None:
    jobs = "prepare doctor simulate tune evaluate score registry report promote rollback retrain".split()
    imports = ", ".join(f"pipelines.{job}" for job in jobs)
    code = f"import sys, {imports}\nprint([name for name in ('torchrec', 'fbgemm_gpu') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "[]\n"


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_fit_a_reader(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_the_environment_is_read_in_two_places(path: Path) -> None:
    reads = re.search(r"os\.environ|os\.getenv", path.read_text())
    assert not reads or str(path.relative_to(ROOT)) in ENVIRONMENT_READERS


@pytest.mark.parametrize("package_name", ["ranking.serving", "ranking.models", "ranking.nn", "ranking.data"])
def test_what_serves_needs_no_torchrec(package_name: str) -> None:
    """Everything reachable from the serving packages, without batch and distributed, runs without TorchRec."""
    graph = {module(path): path for path in SOURCES}
    waiting, seen = [name for name in graph if package(name) == package_name], set()
    while waiting:
        name = waiting.pop()
        if name in graph and name not in seen:
            seen.add(name)
            needs = r"^(\s*(from|import) torchrec|(from|import) fbgemm_gpu)"  # only the shuffle, inside a function
            assert not re.search(needs, graph[name].read_text(), re.MULTILINE), name
            waiting += imports(graph[name])
    assert seen
