#!/usr/bin/env python3
"""`ranking JOB [OPTION]...` runs a job of `pipelines`; any other command runs as it stands.

The command replaces this process, so signals and exit codes are its own.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path


def jobs() -> list[str]:
    """Names of the jobs: the modules of `pipelines` that have a `main`."""
    found = importlib.util.find_spec("pipelines")
    folders = found.submodule_search_locations or [] if found else []
    modules = [path for folder in folders for path in Path(folder).glob("*.py")]
    return sorted(path.stem for path in modules if "\nmain = " in path.read_text())


def main() -> None:
    """Become the command."""
    name, *arguments = sys.argv[1:] or ["help"]
    if name == "help":
        sys.exit(f"usage: {{{','.join(jobs())}}} -c CONFIG [--section.key=value]..., or any command of the image")
    job = [sys.executable, "-m", f"pipelines.{name}"] if name in jobs() else [name]
    os.execvp(job[0], [*job, *arguments])


if __name__ == "__main__":
    main()
