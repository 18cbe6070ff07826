"""Fills the generated parts of README.md: the quickstart's tables and the layout. `make docs` runs it."""

from __future__ import annotations

import ast
import re
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


def layout() -> str:
    """One line a file: its path and the first line of its docstring."""
    lines = []
    for package in PACKAGES:
        for path in sorted(
            (ROOT / package).rglob("*.py"), key=lambda p: (p.parent.parts, p.name != "__init__.py", p.name)
        ):
            depth = len(path.relative_to(ROOT).parts) - (2 if path.name == "__init__.py" else 1)
            name = path.parent.name + "/" if path.name == "__init__.py" else path.name
            lines.append(f"{'  ' * depth + name:<30}{_headline(path)}")
    lines += [f"{name:<30}{text}" for name, text in FOLDERS.items()]
    return "```\n" + "\n".join(lines) + "\n```"


def quickstart() -> str:
    """The tables that `python -m pipelines.report --publish docs/quickstart` wrote."""
    return (ROOT / "docs/quickstart/auc.md").read_text().strip()


def filled(text: str) -> str:
    """README with its generated parts up to date."""
    for name, content in {"layout": layout(), "quickstart": quickstart()}.items():
        pattern = rf"(<!-- {name}:[^>]*-->\n).*?(\n<!-- /{name} -->)"
        text = re.sub(pattern, lambda match, content=content: match[1] + content + match[2], text, flags=re.DOTALL)
    return text


def _headline(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.split("\n")[0].removesuffix(".")


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text()))
