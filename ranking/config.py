"""One run's configuration: one YAML section = one field = one class, owned by the package that uses it."""

from __future__ import annotations

import difflib
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from ranking.config_errors import explain, paths, unrecognised
from ranking.data.loader import DataConfig
from ranking.data.recipes import PrepareConfig
from ranking.distributed.config import ShardingConfig
from ranking.errors import InputError
from ranking.models import zoo
from ranking.models.zoo import ModelConfig
from ranking.objective.loss import ObjectiveConfig
from ranking.promotion.gate import GateConfig
from ranking.promotion.registry import RegistryConfig
from ranking.schema import Schema
from ranking.serving.fusion import FusionConfig
from ranking.tracking.logs import LoggingConfig
from ranking.tracking.runs import TrackingConfig
from ranking.tracking.textfile import MetricsConfig
from ranking.training.commits import CheckpointConfig
from ranking.training.config import (
    CompareConfig,
    EvaluationConfig,
    OptimizerConfig,
    TrainingConfig,
    WarmStartConfig,
)
from ranking.training.nightly import RetrainConfig
from ranking.training.search import TuneConfig
from ranking.yaml_file import read_sections


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

_LINK = re.compile(r"_(SERVICE_HOST|SERVICE_PORT\w*|PORT|PORT_\d+_(TCP|UDP|SCTP)\w*)$")
"""What Kubernetes tells every pod of a Service whose name begins with `ranking`."""

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message='Field name "schema"')  # the section's natural name

    class RunConfig(Settings):
        """Everything a job needs to know."""

        name: str = Field("ranking", pattern=r"^[A-Za-z0-9._-]+$", description="Name of the run.")
        seed: int = Field(0, ge=0, description="Of initial weights, order of examples and dropout.")
        device: Literal["cpu", "cuda"] = Field("cpu", description="Where to train.")
        output: Path = Field(Path("runs/ranking"), description="Run directory: checkpoints, reports, spool.")
        data: DataConfig
        schema: Schema  # type: ignore[assignment]  # shadows a deprecated method of pydantic's
        model: ModelConfig = Field(description="The architecture, and its settings.")
        prepare: PrepareConfig | None = Field(None, description="How `data` is made; left out: it is there already.")
        objective: ObjectiveConfig = ObjectiveConfig()
        optimizer: OptimizerConfig = OptimizerConfig()
        sharding: ShardingConfig = ShardingConfig()
        warm_start: WarmStartConfig = WarmStartConfig()
        training: TrainingConfig = TrainingConfig()
        evaluation: EvaluationConfig = EvaluationConfig()
        checkpoints: CheckpointConfig = CheckpointConfig()
        tracking: TrackingConfig = TrackingConfig()
        registry: RegistryConfig = RegistryConfig()
        gate: GateConfig = GateConfig()
        logging: LoggingConfig = LoggingConfig()
        metrics: MetricsConfig = MetricsConfig()
        fusion: FusionConfig = FusionConfig()
        tune: TuneConfig = TuneConfig()
        compare: CompareConfig = CompareConfig()
        retrain: RetrainConfig = RetrainConfig()

        @model_validator(mode="after")
        def _sections_agree(self) -> Self:
            zoo.check(self.model, self.schema.tasks)
            if self.objective.weighting.type == "gradnorm" and not zoo.shares(self.model, self.schema.tasks):
                raise ValueError(
                    f"objective.weighting.type: got 'gradnorm' with model.type {self.model.type!r}, whose tasks share "
                    "no layer; expected another weighting, or a model with a layer that tasks share"
                )
            self._require_tasks()
            self._require_slices()
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
                "tune.tasks": self.tune.tasks,
                "compare.baselines": tuple(self.compare.baselines),
                "tune.fusion.weights": tuple(self.tune.fusion.weights),
                "tune.fusion.powers": tuple(self.tune.fusion.powers),
            }
            for path, tasks in named.items():
                for task in tasks:
                    if task not in known:
                        raise ValueError(f"{path}: unknown task {task!r}; expected some of {list(known)}")
            by_auc = self.evaluation.best != "r2" and any(task.kind == "binary" for task in self.schema.tasks)
            for task in self.evaluation.tasks:
                if by_auc and self.schema.task(task).kind != "binary":
                    raise ValueError(f"evaluation.tasks: {task!r} is a regression task; AUC wants binary ones")

        def _require_slices(self) -> None:
            """Refuse a slice of new ids in a feature that has not one id a row."""
            known = [feature.name for feature in self.schema.categorical if not feature.multi_hot]
            for name, part in self.gate.slices.items():
                if part.unseen and part.unseen not in known:
                    raise ValueError(f"gate.slices.{name}.unseen: got {part.unseen!r}; expected one of {known}")

        @model_validator(mode="after")
        def _tables_suit_the_device(self) -> Self:
            for name in self.schema.table_names():
                table = self.schema.table(name)
                kind = table.optimizer or self.optimizer.sparse.type
                if self.device == "cpu" and kind == "adam" and table.sharding != "data_parallel":
                    path = f"schema.tables.{name}.optimizer" if table.optimizer else "optimizer.sparse.type"
                    raise ValueError(f"{path}: got 'adam' on cpu; expected rowwise_adagrad, adagrad or sgd")
                decay, decays = self.optimizer.sparse.weight_decay, kind in ("rowwise_adagrad", "adam")
                if decay and (self.device == "cpu" or table.sharding == "data_parallel" or not decays):
                    raise ValueError(
                        f"optimizer.sparse.weight_decay: got {decay} with table {name!r} ({kind}, {table.sharding}) on "
                        f"{self.device}; expected 0, or rowwise_adagrad or adam on cuda and no data_parallel table"
                    )
            return self


class _Complete(RunConfig):
    """A configuration whose environment and command line have been read already."""

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # sources by name
        cls, settings_cls: type[BaseSettings], **sources: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What it is made of, and nothing over it."""
        return (sources["init_settings"],)


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
        InputError: a file is missing or not YAML, a key or a RANKING_ variable is unknown, a value does not fit.
    """
    _require_known(kind)
    data: dict[str, Any] = {}
    for file in files:
        data = _overlay(data, read_sections(file))
    try:
        return kind(**data, _cli_parse_args=list(overrides) or None, _cli_exit_on_error=False, _cli_avoid_json=True)
    except ValidationError as error:
        raise InputError(f"{', '.join(map(str, files))}: {explain(error, data, kind)}") from None
    except SettingsError as error:
        raise InputError(unrecognised(error, kind)) from None


def overlay(config: RunConfig, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The YAML content that, laid over `config`, sets values at dotted paths.

    An entry of a list goes by its name, as in `schema.tasks.like.weight`; the whole list is then in the overlay.

    Raises:
        InputError: a list has no entry of that name.
    """
    data, found = config.model_dump(mode="json"), dict[str, Any]()
    for path, value in changes.items():
        found = _overlay(found, _change(_overlay(data, found), path.split("."), value, path))
    return found


def setting(config: RunConfig, path: str) -> Any:
    """The value at a dotted path as YAML would hold it; None where nothing is."""
    found: Any = config.model_dump(mode="json")
    for key in path.split("."):
        if isinstance(found, list):
            found = {entry.get("name"): entry for entry in found if isinstance(entry, dict)}
        found = found.get(key) if isinstance(found, dict) else None
    return found


def revise(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """The configuration with `overlay(config, changes)` laid over it; neither files nor the environment are read.

    Raises:
        InputError: a path does not exist, or a value does not fit.
    """
    return complete(_overlay(config.model_dump(mode="json"), overlay(config, changes)))


def complete(data: Mapping[str, Any]) -> RunConfig:
    """The configuration a resolved mapping holds, such as a checkpoint's; the environment is not read.

    Raises:
        InputError: a key is unknown, or a value does not fit.
    """
    try:
        return _Complete(**data)
    except ValidationError as error:
        raise InputError(explain(error, dict(data), _Complete)) from None


def json_schema() -> str:
    """The JSON Schema of a configuration file, for editors and for checking YAML without running a job."""
    return json.dumps(RunConfig.model_json_schema(), indent=2, sort_keys=True) + "\n"


def _require_known(kind: type[Settings]) -> None:
    """Refuse RANKING_ variables that name no key, which would otherwise be left out in silence."""
    keys = paths(RunConfig) | paths(kind)
    known = {f"RANKING_{path.upper().replace('.', '__')}": is_free for path, is_free in keys.items()}
    free = tuple(f"{name}__" for name, is_free in known.items() if is_free)
    for name in map(str.upper, os.environ):
        if name.startswith("RANKING_") and name not in known and not name.startswith(free) and not _LINK.search(name):
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
            raise InputError(f"{name}: unknown environment variable; expected one that names a key, such as {nearest}")


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


def _change(section: Any, keys: Sequence[str], value: Any, path: str) -> Any:
    """The overlay of a section that puts a value where `keys` lead."""
    if not keys:
        return value
    key, *rest = keys
    if not isinstance(section, list):
        return {key: _change(section.get(key) if isinstance(section, dict) else None, rest, value, path)}
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in section]
    if key not in names or not rest:
        raise InputError(f"{path}: no entry {key!r} with a key below it; expected one of {names}")
    place = names.index(key)
    entry = _overlay(section[place], _change(section[place], rest, value, path))
    return [*section[:place], entry, *section[place + 1 :]]
