"""What a hostile input is, and names that nobody expects."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

NAMES = [
    "../../etc/passwd",
    "a/b",
    "/nowhere/",  # "/" would list the whole disk, as it says
    ".",
    "",
    " ",
    "a\nb",
    "a\tb",
    "\x00",
    "\u202e",
    "é",
    "😀",
    "%s%n",
    "{0}",
    "${HOME}",
    "$(id)",
    "'; --",
    "__class__",
    "__init__",
    "keys",
    "forward",
    "*",
    "[",
    "day=1",
    "x" * 300,
    "None",
    "nan",
    "true",
]


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Attributes:
        kind: its class.
        overlay: configuration to lay over the good one.
        file: bytes of a second Parquet shard.
        name: of that shard.
        table: what the shard means, where it still means something; rows must be its rows.
    """

    kind: str
    overlay: str = ""
    file: bytes = b""
    name: str = "part-1.parquet"
    table: pa.Table | None = None
