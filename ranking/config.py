"""One run's configuration: one YAML section = one field = one class, owned by the package that uses it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from ranking.data.loader import DataConfig
from ranking.data.recipes import PrepareConfig
from ranking.distributed.sharding import ShardingConfig
from ranking.errors import InputError
from ranking.models import zoo
from ranking.models.zoo import ModelConfig
from ranking.objective.loss import ObjectiveConfig
from ranking.schema import Schema
from ranking.serving.fusion import FusionConfig
from ranking.tracking.gate import GateConfig
from ranking.tracking.registry import RegistryConfig
from ranking.tracking.runs import TrackingConfig
from ranking.training.checkpoint import CheckpointConfig
from ranking.training.evaluate import EvaluationConfig
from ranking.training.optimizer import OptimizerConfig
from ranking.training.trainer import TrainingConfig


class Settings(BaseSettings):
    """What a job is configured by: read from YAML files, the environment and the command line."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, validate_default=True, env_prefix="RANKING_", env_nested_delimiter="__"
    )
    files: ClassVar[tuple[Path, ...]] = ()  # read where the command line names none

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # sources by name
        cls, settings_cls: type[BaseSettings], **sources: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment over the files, which arrive as constructor arguments; the command line over both."""
        return sources["env_settings"], sources["init_settings"]


Kind = TypeVar("Kind", bound=Settings)

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message='Field name "schema"')  # the section's natural name

    class RunConfig(Settings):
        """Everything a job needs to know."""

        name: str = Field("ranking", pattern=r"^[A-Za-z0-9._-]+$", description="Name of the run.")
        seed: int = Field(0, ge=0, description="Of initial weights, order of examples and dropout.")
        device: Literal["cpu", "cuda"] = "cpu"
        output: Path = Field(Path("runs/ranking"), description="Run directory: checkpoints, reports, spool.")
        data: DataConfig
        schema: Schema  # type: ignore[assignment]  # shadows a deprecated method of pydantic's
        model: ModelConfig
        prepare: PrepareConfig | None = Field(None, description="How `data` is made; left out: it is there already.")
        objective: ObjectiveConfig = ObjectiveConfig()
        optimizer: OptimizerConfig = OptimizerConfig()
        sharding: ShardingConfig = ShardingConfig()
        training: TrainingConfig = TrainingConfig()
        evaluation: EvaluationConfig = EvaluationConfig()
        checkpoints: CheckpointConfig = CheckpointConfig()
        tracking: TrackingConfig = TrackingConfig()
        registry: RegistryConfig = RegistryConfig()
        gate: GateConfig = GateConfig()
        fusion: FusionConfig = FusionConfig()

        @model_validator(mode="after")
        def _sections_agree(self) -> Self:
            zoo.check(self.model, self.schema.tasks)
            self._require_tasks()
            if self.evaluation.best == "gauc" and not self.schema.user:
                raise ValueError("evaluation.best: got 'gauc' without schema.user; expected a column to group by")
            length = self.fusion.length
            if length is not None and length.column not in self.schema.feature_columns():
                raise ValueError(f"fusion.length.column: got {length.column!r}; expected a column that a feature reads")
            if "://" in str(self.output) or ":/" in str(self.output):
                raise ValueError(f"output: got {self.output}; expected a directory on a file system all ranks share")
            if self.data.batch_size % self.data.lanes or self.evaluation.batch_size % self.data.lanes:
                raise ValueError(
                    f"data.lanes: got {self.data.lanes}; expected a divisor of data.batch_size "
                    f"{self.data.batch_size} and evaluation.batch_size {self.evaluation.batch_size}"
                )
            return self

        def _require_tasks(self) -> None:
            """Refuse sections that name a task the schema does not have, before hours of training rest on them."""
            known = self.schema.task_names
            named = {
                "evaluation.tasks": self.evaluation.tasks,
                "gate.tasks": self.gate.tasks,
                "gate.margins": tuple(self.gate.margins),
                "gate.floors": tuple(self.gate.floors),
                "fusion.powers": tuple(self.fusion.powers),
            }
            for path, tasks in named.items():
                for task in tasks:
                    if task not in known:
                        raise ValueError(f"{path}: unknown task {task!r}; expected some of {list(known)}")
            for task in self.evaluation.tasks:
                if self.schema.task(task).kind != "binary":
                    raise ValueError(f"evaluation.tasks: {task!r} is a regression task; AUC wants binary ones")

        @model_validator(mode="after")
        def _tables_suit_the_device(self) -> Self:
            for name in self.schema.table_names():
                table = self.schema.table(name)
                kind = table.optimizer or self.optimizer.sparse.type
                if self.device == "cpu" and kind == "adam" and table.sharding != "data_parallel":
                    path = f"schema.tables.{name}.optimizer" if table.optimizer else "optimizer.sparse.type"
                    raise ValueError(f"{path}: got 'adam' on cpu; expected rowwise_adagrad, adagrad or sgd")
            return self


def load(files: Sequence[Path], overrides: Sequence[str] = ()) -> RunConfig:
    """Read and check the configuration of a run, see `read`."""
    return read(RunConfig, files, overrides)


def read(kind: type[Kind], files: Sequence[Path], overrides: Sequence[str] = ()) -> Kind:
    """Read and check a configuration.

    Later files overlay earlier ones key by key; RANKING_<SECTION>__<KEY> environment variables overlay the files;
    dotted overrides overlay everything.

    Args:
        kind: class of the configuration.
        files: YAML files.
        overrides: `--section.key=value`, or `--section.key value`.

    Raises:
        InputError: a file is missing or not YAML, a key is unknown, a value does not fit.
    """
    data: dict[str, Any] = {}
    for file in files:
        data = _overlay(data, _read(file))
    try:
        return kind(**data, _cli_parse_args=list(overrides), _cli_exit_on_error=False, _cli_avoid_json=True)
    except ValidationError as error:
        raise InputError(f"{', '.join(map(str, files))}: {_explain(error, data)}") from None
    except SettingsError as error:
        raise InputError(f"command line: {str(error).splitlines()[0]}; expected --section.key=value") from None


def json_schema() -> str:
    """The JSON Schema of a configuration file, for editors and for checking YAML without running a job."""
    return json.dumps(RunConfig.model_json_schema(), indent=2, sort_keys=True) + "\n"


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; expected a YAML configuration") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{file}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{file}: got {content!r:.60} at the top; expected a mapping of named sections")
    return content


def _overlay(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Merge key by key; a section of another `type` replaces the one below, whose keys would not fit it."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict) and value.get("type") in (None, below.get("type")):
            merged[key] = _overlay(below, value)
        else:
            merged[key] = value
    return merged


def _explain(error: ValidationError, data: dict[str, Any]) -> str:
    """The first of pydantic's complaints as one line: path, value, expectation."""
    first, *others = error.errors(include_url=False)
    path = _path(first["loc"], data)
    match first["type"]:
        case "extra_forbidden":
            text = f"{path}: unknown key"
        case "union_tag_invalid":
            found = first["ctx"]
            text = f"{path}.{found['discriminator'].strip(chr(39))}: got {found['tag']!r}; expected one of "
            text += found["expected_tags"]
        case "missing":
            text = f"{path}: missing; expected a value"
        case "value_error":
            text = f"{path}: {first['ctx']['error']}" if path else str(first["ctx"]["error"])
        case _:
            text = f"{path}: got {first['input']!r:.80}; expected: {first['msg']}"
    return " ".join(text.split()) + (f" (and {len(others)} more)" if others else "")


def _path(location: tuple[int | str, ...], data: Any) -> str:
    """Dotted path of a complaint, without the names of union members that pydantic puts in between."""
    parts: list[str] = []
    for part in location:
        if (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int)):
            data = data[part]  # type: ignore[index]  # a list's part is an int
        elif isinstance(data, dict) and part not in (data.get("type"), data.get("kind")):
            data = {}  # missing, or from the environment or the command line
        else:
            continue
        parts.append(str(part))
    return ".".join(parts)
