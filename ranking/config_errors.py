"""What is wrong with a configuration, in one line: the path, the value, what was expected, the key that was meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError

from ranking.errors import first_line

_UNRECOGNISED = re.compile(r"unrecognized arguments: --([^\s=]+)")

Location = Sequence[int | str]
"""Where pydantic found something: keys, places in lists, and names of union members in between."""


def explain(error: ValidationError, data: dict[str, Any], kind: type[BaseModel]) -> str:
    """One of pydantic's complaints: the first unknown key, which can be why another one is missing; else the first.

    Args:
        error: the complaints.
        data: what was read from files.
        kind: the model it was read as.
    """
    found = error.errors(include_url=False)
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    path, more = _path(first["loc"], data), len(found) - 1
    match first["type"]:
        case "extra_forbidden":
            text = unknown(path, str(first["loc"][-1]), _siblings(kind, first["loc"]))
        case "union_tag_invalid":
            of = first["ctx"]
            text = f"{path}.{of['discriminator'].strip(chr(39))}: got {of['tag']!r}; expected one of "
            text += of["expected_tags"]
        case "union_tag_not_found":
            text = f"{path}.{first['ctx']['discriminator'].strip(chr(39))}: missing; expected a value"
        case "missing":
            text = f"{path}: missing; expected a value"
        case "value_error":
            text = f"{path}: {first['ctx']['error']}" if path else str(first["ctx"]["error"])
        case _:
            text = f"{path}: got {first['input']!r:.80}; {expected(first['msg'])}"
    return " ".join(text.split()) + (f" (and {more} more)" if more else "")


def expected(message: str) -> str:
    """What pydantic expected of a value, as the end of a sentence."""
    if message.startswith(("Input should be greater", "Input should be less")):
        return message.replace("Input should be", "expected a number", 1)
    return message.replace("Input should be", "expected", 1) if message.startswith("Input") else f"expected: {message}"


def unknown(path: str, key: str, known: Collection[str]) -> str:
    """The complaint about a key that is not among those known."""
    nearest = difflib.get_close_matches(key, known, n=1)
    return f"{path}: unknown key; " + (f"did you mean {nearest[0]!r}?" if nearest else f"expected one of {list(known)}")


def unrecognised(error: SettingsError, kind: type[BaseModel]) -> str:
    """The complaint about a command line of `--section.key=value` words."""
    text, known = first_line(error), list(paths(kind))
    found = _UNRECOGNISED.search(text)
    whole = tuple(f"{path}." for path in known if not any(other.startswith(f"{path}.") for other in known))
    if not found:
        return f"command line: {text}; expected --section.key=value"
    if found[1].startswith(whole):
        own = """--section.key='{"name": value}' where names are your own, such as those of tasks"""
        return f"command line: {text}; expected --section.key=value, or {own}"
    nearest = difflib.get_close_matches(found[1], known, n=1)
    hint = f"did you mean --{nearest[0]}?" if nearest else "expected --section.key=value or an option of --help"
    return f"command line: --{found[1]}: unknown key; {hint}"


def paths(model: type[BaseModel], prefix: str = "") -> dict[str, bool]:
    """Dotted paths of a model's keys, and whether keys of the user's own may follow."""
    found = {}
    for key, field in model.model_fields.items():
        found[prefix + key] = get_origin(field.annotation) is dict
        for inner in _models(field.annotation, (Union, UnionType, Annotated)):
            found |= paths(inner, f"{prefix}{key}.")
    return found


def _siblings(model: type[BaseModel], location: Location) -> list[str]:
    """The keys that may stand where the last one of a location does."""
    here = [model]
    for part in location[:-1]:
        fields = [each.model_fields[part] for each in here if part in each.model_fields]
        below = [inner for field in fields for inner in _models(field.annotation)]
        here = below or [each for each in here if _is_called(each, part)] or here
    return list(dict.fromkeys(key for each in here for key in each.model_fields))


def _is_called(model: type[BaseModel], tag: int | str) -> bool:
    """Whether a member of a union goes by that tag."""
    return any(tag in get_args(field.annotation) for field in model.model_fields.values())


def _models(annotation: Any, through: Collection[Any] | None = None) -> Iterator[type[BaseModel]]:
    """Models that a field may hold: itself, or what stands inside annotations of some origins, of all when left out."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif through is None or get_origin(annotation) in through:
        for member in get_args(annotation):
            yield from _models(member, through)


def _path(location: Location, data: Any) -> str:
    """Dotted path of a complaint, entries of lists by their names, without what pydantic calls members of unions."""
    parts: list[str] = []
    for part in location:
        if isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
            name = data.get("name") if isinstance(data, dict) else None
            parts.append(name if isinstance(name, str) else str(part))
        elif isinstance(data, dict) and part in data:
            data = data[part]
            parts.append(str(part))
        elif isinstance(data, dict) and part not in (data.get("type"), data.get("kind")):
            data = {}  # missing, or from the environment or the command line
            parts.append(str(part))
    return ".".join(parts)
