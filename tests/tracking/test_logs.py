"""Log lines as JSON: one object a line that knows run, step and rank, and no secret."""

import io
import json
import logging
import warnings

import pytest

from ranking.tracking import logs


@pytest.fixture
def stream(monkeypatch):
    """A root logger of our own, written by nobody else."""
    stream, root = io.StringIO(), logging.getLogger()
    handler = logging.StreamHandler(stream)
    monkeypatch.setattr(root, "handlers", [handler])
    monkeypatch.setattr(logs, "_FACTS", {})
    monkeypatch.setenv("MLFLOW_CONFIGURE_LOGGING", "true")
    for name in ("mlflow", "alembic", "sqlalchemy"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [logging.NullHandler()])
        monkeypatch.setattr(logging.getLogger(name), "propagate", False)
    logs.use(logs.LoggingConfig(format="json"))
    yield stream
    logging.captureWarnings(False)


def test_a_line_says_when_where_and_what(stream):
    step = iter([7, 8])
    logs.bind(run="abc", step=lambda: next(step), rank=1)
    log = logging.getLogger("ranking.training")
    log.warning("loss %.2f", 0.5)
    log.error("two\nlines")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "warning",
        "run": "abc",
        "step": 7,
        "rank": 1,
        "logger": "ranking.training",
        "message": "loss 0.50",
    }
    assert (second["level"], second["step"], second["message"]) == ("error", 8, "two\nlines")


def test_what_libraries_say_becomes_lines_of_the_same_form(stream):
    logging.getLogger("mlflow.tracking").warning("is slow")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("is old", DeprecationWarning, stacklevel=1)
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["logger"], first["message"]) == ("mlflow.tracking", "is slow")
    assert (second["logger"], "is old" in second["message"]) == ("py.warnings", True)


def test_a_stack_is_a_field_of_the_line(stream):
    try:
        raise ValueError("s3://user:hunter2@bucket")
    except ValueError:
        logging.getLogger("x").exception("failed")
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert "ValueError" in line["stack"]
    assert "hunter2" not in stream.getvalue()


@pytest.mark.parametrize("kind", ["json", "text"])
def test_no_format_shows_a_secret(stream, kind):
    logs.use(logs.LoggingConfig(format=kind))
    logging.getLogger("x").warning("reading %s", "https://user:hunter2@host/a?token=hunter2&b=1")
    assert "https://***@host/a?token=***&b=1" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()
    assert logs.structured() == (kind == "json")


def test_an_error_is_found_in_either_format(stream):
    logging.getLogger("pipelines.job").error("data.train: missing")
    assert logs.error_in(stream.getvalue()) == "data.train: missing"
    assert logs.error_in("error: data.train: missing\n") == "data.train: missing"
    for line in ("", "{", "{}", '{"level": "info", "message": "x"}', "step 3"):
        assert logs.error_in(line) == ""
