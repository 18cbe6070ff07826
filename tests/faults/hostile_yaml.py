"""Hostile configurations by class: each function spoils a good one, with draws of a random generator."""

from __future__ import annotations

from copy import deepcopy
from random import Random
from typing import Any

import yaml

from tests.faults.hostile import NAMES

VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    -(2**63) - 1,
    10**40,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    [],
    [[]],
    {},
    {"a": {"b": []}},
    [None],
    {"type": "nothing"},
    "1",
    "1e400",
    "log1p(",
    "is_click +",
    "nothing",
    "nowhere/*.parquet",
    "bogus://x",
    "memory://x",
    "http://127.0.0.1:9/x",
    *NAMES,
]
LIKELY: dict[type, list[Any]] = {
    bool: [True, False],
    int: [0, 1, 2, 3, 5, 7, 64, 10**4, 2**31, 2**40, -1],
    float: [0.0, 1e-9, 0.5, 1.0, 2.0, 1e9, -1.0],
    str: ["is_like", "tab", "click", "watch", "all", "mse", "bce", "none", "adam", "recent", "duration"],
}
YAML_TEXTS = [
    "!!python/object/apply:os.system ['true']",
    "!!binary x",
    "&a [*a]",
    "*nothing",
    "2024-13-45",
    "0o777",
    "0x",
    "1_000",
    "<<: {a: 1}",
    "? [a]",
    "|\n  text",
    "%YAML 9.9",
    "---\na: 1\n---\nb: 2",
    "{a: b",
    "\t- x",
    "key: value: other",
]


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in entries for place in [(*path, key), *_places(value, (*path, key))]]


def _parent(tree: Any, place: tuple[Any, ...]) -> Any:
    for key in place[:-1]:
        tree = tree[key]
    return tree


def yaml_bytes(draw: Random, base: dict[str, Any]) -> str:
    """Flipped bits, lost and repeated stretches of the text."""
    text = bytearray(yaml.safe_dump(base, sort_keys=False).encode())
    for _ in range(draw.choice([1, 1, 2, 8])):
        start = draw.randrange(max(len(text), 1))
        match draw.randrange(4):
            case 0:
                text[start : start + 1] = bytes([text[start] ^ (1 << draw.randrange(8))] if text else [])
            case 1:
                del text[start : start + draw.choice([1, 4, 40])]
            case 2:
                text[start:start] = text[start : start + draw.choice([1, 10, 100])]
            case _:
                del text[max(start, 1) :]
    return text.decode("latin-1")


def yaml_values(draw: Random, base: dict[str, Any]) -> str:
    """A value of another kind, in one or several places."""
    for _ in range(draw.choice([1, 1, 1, 3])):
        place = draw.choice(_places(base))
        parent, key = _parent(base, place), place[-1]
        likely = LIKELY.get(type(parent[key])) if draw.random() < 0.5 else None
        parent[key] = deepcopy(draw.choice(likely or VALUES))
    return yaml.safe_dump(base, sort_keys=False, allow_unicode=draw.random() < 0.5)


def yaml_keys(draw: Random, base: dict[str, Any]) -> str:
    """Keys lost, renamed, added, or moved elsewhere."""
    place = draw.choice([place for place in _places(base) if isinstance(place[-1], str)])
    parent = _parent(base, place)
    match draw.randrange(4):
        case 0:
            del parent[place[-1]]
        case 1:
            parent[draw.choice([*NAMES, place[-1].upper(), place[-1] + "s"])] = parent.pop(place[-1])
        case 2:
            parent[draw.choice([*NAMES, 1, None, 2.5, True])] = draw.choice(VALUES)
        case _:
            base[place[-1]] = parent[place[-1]]
    return yaml.safe_dump(base, sort_keys=False)


def yaml_names(draw: Random, base: dict[str, Any]) -> str:
    """Hostile names of features, columns, tables, tasks, files and the run."""
    schema, name = base["schema"], draw.choice(NAMES)
    match draw.randrange(6):
        case 0:
            draw.choice(schema["features"])[draw.choice(["name", "column", "table"])] = name
        case 1:
            draw.choice(schema["tasks"])[draw.choice(["name", "label", "given", "group"])] = name
        case 2:
            schema["tables"][name] = schema["tables"].pop("tab")
        case 3:
            base["data"][draw.choice(["train", "transforms", "validation"])] = name
        case 4:
            base["name"] = name
        case _:
            schema["user"] = name
    return yaml.safe_dump(base, sort_keys=False)


def yaml_syntax(draw: Random, base: dict[str, Any]) -> str:
    """What only YAML has: tags, anchors, dates, documents, bombs."""
    if draw.random() < 0.1:
        levels = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]\n" for i in range(12))
        return levels + f"name: {draw.choice(['*a11', 'x'])}\n"
    if draw.random() < 0.1:
        return "name: " + draw.choice(["[", "{a: "]) * draw.choice([50, 3000])
    lines = yaml.safe_dump(base, sort_keys=False).splitlines()
    place = draw.randrange(len(lines))
    text = draw.choice(YAML_TEXTS)
    lines[place] = lines[place].split(":")[0] + ": " + text if draw.random() < 0.6 else text
    return "\n".join(lines)


KINDS = {f.__name__: f for f in (yaml_bytes, yaml_values, yaml_keys, yaml_names, yaml_syntax)}
