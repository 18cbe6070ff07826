"""Log lines: text for people, JSON for machines; both without secrets."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field

from ranking.distributed.world import keep_mlflow_from_logging
from ranking.redact import redact_text
from ranking.schema import Frozen

Fact = str | int | None | Callable[[], str | int | None]

_FACTS: dict[str, Fact] = {}


class LoggingConfig(Frozen):
    """What a job writes to stderr."""

    format: Literal["text", "json"] = Field(
        "text", description="json: one object a line with time, level, run, step, rank, logger and message."
    )


class TextLines(logging.Formatter):
    """Time and message, for a terminal."""

    def __init__(self) -> None:
        """Fix the format."""
        super().__init__("%(asctime)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """One record; URLs lose their credentials."""
        return redact_text(super().format(record))


class JsonLines(logging.Formatter):
    """One JSON object a line; what `bind` told is in every one."""

    def format(self, record: logging.LogRecord) -> str:
        """One record; URLs lose their credentials, a stack is in `stack`."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **{name: fact() if callable(fact) else fact for name, fact in _FACTS.items()},
            "logger": record.name,
            "message": redact_text(record.getMessage()),
        }
        if record.exc_info:
            line["stack"] = redact_text(self.formatException(record.exc_info))
        return json.dumps(line, default=str)


def use(config: LoggingConfig) -> None:
    """Write every line of this process as the configuration says, from now on."""
    formatter = JsonLines() if config.format == "json" else TextLines()
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter)
    logging.captureWarnings(config.format == "json")
    if config.format == "json":
        keep_mlflow_from_logging()
        for name in ("mlflow", "alembic", "sqlalchemy"):  # where MLflow was imported before
            logging.getLogger(name).handlers, logging.getLogger(name).propagate = [], True


def structured() -> bool:
    """Whether lines are JSON."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers)


def bind(**facts: Fact) -> None:
    """Say in every JSON line from now on: values, or what gives them at the time of the line."""
    _FACTS.update(facts)


def error_in(line: str) -> str:
    """The message of a job's error line, in either format; "" for any other line."""
    if line.startswith("error: "):
        return line.removeprefix("error: ").strip()
    try:
        found = json.loads(line) if line.startswith("{") else {}
    except json.JSONDecodeError:
        return ""
    return str(found.get("message", "")) if found.get("level") == "error" else ""
