"""What every job shares: options, one-line errors, exit codes."""

from __future__ import annotations

import gc
import inspect
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from ranking.config import RunConfig, Settings, read
from ranking.distributed.world import own_rank, speaks
from ranking.errors import EXIT_FAILURE, EXIT_OK, InputError, RankZeroReportsError, ReportedError, described, one_line
from ranking.redact import redact_text
from ranking.tracking import logs
from ranking.tracking.textfile import Textfile

log = logging.getLogger(__name__)

Files = Annotated[
    list[Path], typer.Option("-c", "--config", help="YAML configuration; repeat to overlay.", show_default=False)
]
Debug = Annotated[bool, typer.Option("--debug", help="Show stack traces.")]

_begun: list[tuple[str, Textfile]] = []
"""The job of this process, until it is noted how it ended."""

_PLAIN: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False}
_TALKATIVE = (
    *("torchrec", "torch.distributed", "torch.fx", "mlflow.store.db.utils", "mlflow.pyfunc", "alembic"),
    "urllib3",  # tells of every attempt
)
_PASSED_ON: dict[str, Any] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
    "epilog": "--section.key=value sets any key of the configuration, over files and RANKING_SECTION__KEY variables.",
}


class Command(NamedTuple):
    """What a job was configured by, for bodies that call other jobs: a parameter of this type receives it.

    Attributes:
        files: YAML files.
        overrides: `--section.key=value` words.
    """

    files: tuple[Path, ...]
    overrides: tuple[str, ...]

    def arguments(self, more: Sequence[str]) -> list[str]:
        """Command line of another job on the same configuration, with `more` over it."""
        return [*(word for file in self.files for word in ("-c", str(file))), *self.overrides, *more]

    def load(self, more: Sequence[str]) -> RunConfig:
        """The configuration of that job."""
        return read(RunConfig, self.files, [*self.overrides, *more])


def job(body: Callable[..., int | None]) -> typer.Typer:
    """Turn `body(config, **options)` into a command line.

    The command takes `-c CONFIG` (repeatable), `--debug`, the body's own typer options, and any
    `--section.key=value` of the configuration. Bad input ends in one line on stderr and exit code 2, a service
    that fails and anything unforeseen in one line and exit code 1; `--debug` shows the stack.

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
    kind, asking = _kind(body), _asking(body)

    def command(context: typer.Context, files: Files, debug: Debug = False, **options: object) -> None:
        """Replaced below by the body's own."""
        collect_garbage()
        _quiet()
        words = {name: Command(tuple(files), tuple(context.args)) for name in asking}
        try:
            config = _read(kind, files, context.args)
            _begin(config, body.__name__)
            code = body(config, **words, **options) or EXIT_OK
        except Exception as error:
            code = _failed(error, debug)
        conclude(code)
        raise typer.Exit(code)

    command.__signature__ = _signature(command, body)  # type: ignore[attr-defined]
    command.__doc__ = inspect.getdoc(body)
    return command


def conclude(code: int) -> None:
    """Note in the metrics, once, how this process's job ended; whoever ends the process in its middle calls it too."""
    while _begun:
        name, record = _begun.pop()
        record.end(name, code)


def collect_garbage() -> None:
    """Collect garbage from here on, but never look through what imports made: that takes half a second each time."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def say(text: str = "") -> None:
    """A line for the person at the terminal."""
    typer.echo(text)


def complain(line: str) -> None:
    """The line a person reads when the job fails; `logs.error_in` finds it."""
    if logs.structured():
        log.error(line)
    else:
        typer.echo(f"error: {redact_text(line)}", err=True)


def _kind(body: Callable[..., int | None]) -> type[Settings]:
    """Class of a body's first parameter: what its configuration is read as."""
    hints = inspect.get_annotations(body, eval_str=True)
    kind: type[Settings] = hints[next(iter(inspect.signature(body).parameters))]
    return kind


def _asking(body: Callable[..., int | None]) -> list[str]:
    """A body's parameters that receive the Command."""
    return [name for name, hint in inspect.get_annotations(body, eval_str=True).items() if hint is Command]


def _signature(command: Callable[..., None], body: Callable[..., int | None]) -> inspect.Signature:
    hints = inspect.get_annotations(body, eval_str=True)
    own = [p for p in list(inspect.signature(body).parameters.values())[1:] if hints[p.name] is not Command]
    shared = dict(inspect.signature(command, eval_str=True).parameters)
    if files := _kind(body).files:
        shared["files"] = shared["files"].replace(default=list(files))
    options = [p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    common = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for n, p in shared.items() if n != "options"]
    return inspect.Signature([*common, *options])


def _read(kind: type[Settings], files: Sequence[Path], overrides: Sequence[str]) -> Settings:
    """The configuration; what is wrong with it all ranks of a host find out, and one says it."""
    try:
        return read(kind, files, overrides)
    except InputError as error:
        raise error if speaks() else RankZeroReportsError(str(error)) from None


def _begin(config: Settings, name: str) -> None:
    """Log as the configuration says, and note in the metrics that the job begins; rank 0 does it for all."""
    logs.bind(run="", step=None, rank=own_rank())
    if not isinstance(config, RunConfig):
        return
    logs.use(config.logging)
    if own_rank() == 0:
        record = Textfile(config.metrics, config.registry.name)
        record.begin(name)
        _begun[:] = [(name, record)]


def _failed(error: Exception, debug: bool) -> int:
    """Say in one line what went wrong, unless that was said already; the exit code."""
    if isinstance(error, RankZeroReportsError):
        return error.code
    if not isinstance(error, ReportedError):
        complain(one_line(error) if isinstance(error, InputError) else described(error))
    if debug:
        typer.echo(traceback.format_exc(), err=True)
    return error.code if isinstance(error, InputError | ReportedError) else EXIT_FAILURE


def _quiet() -> None:
    """Our own log lines and warnings; none of the libraries' about their own inner life."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, force=True)
    logs.use(logs.LoggingConfig())
    for name in ("ranking", "pipelines"):
        logging.getLogger(name).setLevel(logging.INFO)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("torch", "torchrec", "fbgemm_gpu", "mlflow"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
    warnings.filterwarnings("ignore", message="Please use DTensor instead")
