"""Simulate: a log whose ground truth is known, or the benchmark workload, of any size."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel, ValidationError, create_model
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsError

from pipelines.job import Debug, collect_garbage, say
from ranking.config_errors import expected, unrecognised
from ranking.data.synthetic.impressions import ImpressionsConfig, write_impressions
from ranking.data.synthetic.workload import WorkloadConfig, write_workload
from ranking.errors import EXIT_FAILURE, EXIT_INPUT, InputError, described
from ranking.files import make_directory

PRESETS: dict[str, tuple[type[Any], Any]] = {
    "impressions": (ImpressionsConfig, write_impressions),
    "workload": (WorkloadConfig, write_workload),
}

Preset = Annotated[Literal["impressions", "workload"], typer.Option(help="What to write.")]
Output = Annotated[Path, typer.Option(help="New directory of the data set.")]


def simulate(context: typer.Context, preset: Preset, output: Output, debug: Debug = False) -> None:
    """Write a data set that appears whole or not at all.

    Settings of the preset follow as `--rows=N` or, inside a section, `--population.users=N`.
    """
    collect_garbage()
    try:
        kind, write = PRESETS[preset]
        config = settings(kind, context.args)
        make_directory(output.parent, "--output")
        write(output, config)
    except Exception as error:
        known = isinstance(error, InputError)
        reason = str(error) if known else described(error)
        typer.echo(f"error: {reason}", err=True)
        if debug:
            typer.echo(traceback.format_exc(), err=True)
        raise typer.Exit(EXIT_INPUT if known else EXIT_FAILURE) from None
    say(f"wrote {config.rows} rows to {output}")


class _CommandLine(BaseSettings):
    """Reads the command line, not the environment."""

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # sources by name
        cls, settings_cls: type[BaseSettings], **sources: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (sources["init_settings"],)


def settings(kind: type[BaseModel], overrides: list[str]) -> Any:
    """A `kind` with the values of `--key=value` or `--section.key=value`.

    Raises:
        InputError: a key is unknown, or a value does not fit.
    """
    reader = create_model(kind.__name__, __base__=(kind, _CommandLine))
    try:
        return reader(_cli_parse_args=overrides, _cli_exit_on_error=False, _cli_avoid_json=True)
    except ValidationError as error:
        raise InputError(_first(error)) from None
    except SettingsError as error:
        raise InputError(unrecognised(error, kind)) from None


def _first(error: ValidationError) -> str:
    """The first of pydantic's complaints as one line."""
    first = error.errors(include_url=False)[0]
    path = ".".join(map(str, first["loc"]))
    if first["type"] == "value_error":
        return f"{path}.{first['ctx']['error']}".lstrip(".")
    return f"{path}: got {first['input']!r:.80}; {expected(first['msg'])}"


main = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
main.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(simulate)

if __name__ == "__main__":
    main()
