"""What a study leaves behind: one JSON file, the source of every number its report shows."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from ranking.errors import InputError
from ranking.redact import redact_words
from ranking.schema import Frozen
from ranking.tracking.runs import git_revision

Row = dict[str, Any]


class Record(Frozen):
    """The results of one study."""

    command: str
    revision: str
    machine: str
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Record:
        """Results of the command that runs now, on this machine and checkout."""
        command = shlex.join(["python", "-m", "pipelines.study", *redact_words(sys.argv[1:])])
        return cls(command=command, revision=git_revision(), machine=machine(), rows=tuple(map(dict, rows)))

    def write(self, path: Path) -> None:
        """One row a line, so that a changed number is a changed line."""
        head = self.model_dump(exclude={"rows"})
        lines = ",\n".join(json.dumps(row, allow_nan=False) for row in self.rows)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(head, indent=0)[:-2] + ',\n"rows": [\n' + lines + "\n]\n}\n")

    @classmethod
    def read(cls, path: Path) -> Record:
        """What `write` wrote.

        Raises:
            InputError: the file is missing or holds something else.
        """
        try:
            return cls.model_validate_json(path.read_text())
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; expected the results of a study") from None
        except ValidationError:
            raise InputError(f"{path}: not the results of a study; expected command, revision, machine, rows") from None


def machine() -> str:
    """Processor, its vector instructions, cores, threads and the library that computes."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = f"{names[0] if names else platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"
    threads = torch.get_num_threads()
    return f"{processor}, {os.cpu_count()} cores, {threads} thread{'s'[: threads > 1]}, torch {torch.__version__}"
