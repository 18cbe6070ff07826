"""Fills the generated parts of README.md, the quickstart's tables and the packages, and writes docs/layout.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("ranking", "pipelines")
FOLDERS = {
    "configs/": "quickstart, data sets, studies, an overlay for every architecture; `schema.json` for editors",
    "docker/": "Dockerfile, compose, Kubernetes",
    "benchmarks/": "ratios measured in one run",
    "docs/": "reports and their figures",
    "requirements/": "pinned versions for CPU, CUDA, tests",
    "tests/": "mirrors the packages; `tests/data/kuairand` is real data",
}


def packages() -> str:
    """One line a package: its path and the first line of its docstring."""
    lines = [line for package in PACKAGES for line in _lines(ROOT / package, "__init__.py")]
    return _block([*lines, *(f"{name:<30}{text}" for name, text in FOLDERS.items())])


def files() -> str:
    """The page with one line a file."""
    head = "# Layout\n\nEvery module and the first line of its docstring; `make docs` writes this page.\n\n"
    return head + _block([line for package in PACKAGES for line in _lines(ROOT / package, "*.py")]) + "\n"


def quickstart() -> str:
    """The tables that `python -m pipelines.report --publish docs/quickstart` wrote."""
    return (ROOT / "docs/quickstart/auc.md").read_text().strip()


def filled(text: str) -> str:
    """README with its generated parts up to date."""
    for name, content in {"packages": packages(), "quickstart": quickstart()}.items():
        pattern = rf"(<!-- {name}:[^>]*-->\n).*?(\n<!-- /{name} -->)"
        text = re.sub(pattern, lambda match, content=content: match[1] + content + match[2], text, flags=re.DOTALL)
    return text


def _lines(folder: Path, pattern: str) -> Iterator[str]:
    for path in sorted(folder.rglob(pattern), key=lambda p: (p.parent.parts, p.name != "__init__.py", p.name)):
        depth = len(path.relative_to(ROOT).parts) - (2 if path.name == "__init__.py" else 1)
        name = path.parent.name + "/" if path.name == "__init__.py" else path.name
        yield f"{'  ' * depth + name:<30}{_headline(path)}"


def _block(lines: list[str]) -> str:
    return "\n".join(["```", *lines, "```"])


def _headline(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.split("\n")[0].removesuffix(".")


if __name__ == "__main__":
    (ROOT / "docs/layout.md").write_text(files())
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text()))
