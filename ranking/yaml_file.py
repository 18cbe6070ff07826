"""Reading YAML: a mapping of named sections, or one line that says why not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from ranking.errors import InputError, one_line

_MOST_VALUES = 1_000_000


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which YAML's own loader takes the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it stands in the file; `<<` has not been followed yet."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in lines:
                raise InputError(
                    f"line {line}: {key.value}: got the key again; expected it once, as in line {lines[name]}"
                )
            lines[name] = line
        return node


def read_sections(file: Path) -> dict[str, Any]:
    """The content of a YAML file.

    Raises:
        InputError: it is missing, not YAML, no mapping with names as keys, has a key twice, or its aliases never end.
    """
    try:
        content = yaml.load(file.read_text(), _Loader)  # a SafeLoader
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; expected a YAML configuration") from None
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    except RecursionError:
        raise InputError(f"{file}: not readable as YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError, OSError) as error:  # a date with month 13 is a ValueError
        raise InputError(f"{file}: not readable as YAML: {one_line(error)}") from None
    if _size(content, {}) > _MOST_VALUES:
        raise InputError(f"{file}: its aliases stand for more than {_MOST_VALUES} values; expected fewer")
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{file}: got {content!r:.60} at the top; expected a mapping of named sections")
    return content


def _size(value: Any, known: dict[int, float]) -> float:
    """How many values there are, each counted wherever an alias repeats it; infinite if one contains itself."""
    if not isinstance(value, dict | list | set | tuple):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf  # until its parts are counted
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(value)]
