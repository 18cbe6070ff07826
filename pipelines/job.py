"""What every job shares: options, one-line errors, exit codes."""

from __future__ import annotations

import inspect
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ranking.config import Settings, read
from ranking.errors import EXIT_FAILURE, EXIT_INPUT, EXIT_OK, InputError, ToldError

Files = Annotated[
    list[Path], typer.Option("-c", "--config", help="YAML configuration; repeat to overlay.", show_default=False)
]
Debug = Annotated[bool, typer.Option("--debug", help="Show stack traces.")]

_PLAIN: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False}
_PASSED_ON: dict[str, Any] = {"context_settings": {"allow_extra_args": True, "ignore_unknown_options": True}}


def job(body: Callable[..., int | None]) -> typer.Typer:
    """Turn `body(config, **options)` into a command line.

    The command takes `-c CONFIG` (repeatable), `--debug`, the body's own typer options, and any
    `--section.key=value` of the configuration. Bad input ends in one line on stderr and exit code 2, anything
    unforeseen in one line and exit code 1; `--debug` shows the stack.

    Args:
        body: takes its configuration first, a RunConfig or other Settings as annotated; returns an exit code, None
            for success.

    Returns:
        An application without arguments that parses the command line and exits.
    """
    app = typer.Typer(**_PLAIN)
    app.command(**_PASSED_ON)(_command(body))
    return app


def jobs(bodies: Mapping[str, Callable[..., int | None]]) -> typer.Typer:
    """Like `job`, for several bodies, each under its own word on the command line."""
    app = typer.Typer(**_PLAIN, no_args_is_help=True)
    app.callback()(lambda: None)  # keeps the word even where there is one body only
    for name, body in bodies.items():
        app.command(name, **_PASSED_ON)(_command(body))
    return app


def _command(body: Callable[..., int | None]) -> Callable[..., None]:
    kind = _kind(body)

    def command(context: typer.Context, files: Files, debug: Debug = False, **options: object) -> None:
        """Replaced below by the body's own."""
        _quiet()
        try:
            code = body(read(kind, files, context.args), **options)
        except ToldError:
            raise typer.Exit(EXIT_INPUT) from None
        except InputError as error:
            _complain(str(error), EXIT_INPUT, debug)
        except Exception as error:
            reason = " ".join(str(error).split())
            _complain(f"{type(error).__name__}: {reason}", EXIT_FAILURE, debug)
        raise typer.Exit(code or EXIT_OK)

    command.__signature__ = _signature(command, body)  # type: ignore[attr-defined]
    command.__doc__ = inspect.getdoc(body)
    return command


def say(text: str = "") -> None:
    """A line for the person at the terminal."""
    typer.echo(text)


def _kind(body: Callable[..., int | None]) -> type[Settings]:
    """Class of a body's first parameter: what its configuration is read as."""
    hints = inspect.get_annotations(body, eval_str=True)
    kind: type[Settings] = hints[next(iter(inspect.signature(body).parameters))]
    return kind


def _signature(command: Callable[..., None], body: Callable[..., int | None]) -> inspect.Signature:
    hints = inspect.get_annotations(body, eval_str=True)
    own = list(inspect.signature(body).parameters.values())[1:]
    shared = dict(inspect.signature(command, eval_str=True).parameters)
    if files := _kind(body).files:
        shared["files"] = shared["files"].replace(default=list(files))
    options = [p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    common = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for n, p in shared.items() if n != "options"]
    return inspect.Signature([*common, *options])


def _complain(message: str, code: int, debug: bool) -> None:
    typer.echo(f"error: {message}", err=True)
    if debug:
        typer.echo(traceback.format_exc(), err=True)
    raise typer.Exit(code) from None


def _quiet() -> None:
    """Our own log lines and warnings; none of the libraries' about their own inner life."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr, force=True)
    for name in ("ranking", "pipelines"):
        logging.getLogger(name).setLevel(logging.INFO)
    for name in ("torchrec", "torch.distributed", "torch.fx", "mlflow.store.db.utils", "mlflow.pyfunc", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("torch", "torchrec", "fbgemm_gpu", "mlflow"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
    warnings.filterwarnings("ignore", message="Please use DTensor instead")
