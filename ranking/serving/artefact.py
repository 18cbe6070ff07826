"""The serving artefact: weights, transforms and a readable description in one directory; nothing in it can run.

model.json          the description: schema, architecture, fusion, table rows, where the weights come from
model.safetensors   every weight by name
transforms/         what `prepare` fitted
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, JsonValue, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ranking.data.transforms import Transforms
from ranking.errors import InputError
from ranking.files import replacing
from ranking.models.base import ArchitectureConfig
from ranking.models.ranker import RankingModel
from ranking.models.zoo import ModelConfig, build, prefixes
from ranking.nn.embeddings import EmbeddingTables
from ranking.schema import MAX_ROWS, Frozen, Name, Schema
from ranking.serving.fusion import FusionConfig

_TableRows = Annotated[int, Field(ge=1, le=MAX_ROWS)]
_DESCRIPTION, _WEIGHTS, _TRANSFORMS = "model.json", "model.safetensors", "transforms"


class Description(Frozen):
    """Content of `model.json`.

    Attributes:
        data_schema: features and tasks, under the key `schema`.
        model: the architecture.
        fusion: how predictions become the score.
        rows: rows of every embedding table.
        transforms: fingerprint of the transforms that belong to the weights.
        metadata: where the weights come from, such as the step and the run; for readers only.
    """

    version: Literal[1] = 1
    data_schema: Schema = Field(alias="schema")
    model: ModelConfig
    fusion: FusionConfig
    rows: dict[Name, _TableRows]  # the pattern of Name also keeps a table's name from being a path
    transforms: str
    metadata: dict[str, JsonValue] = Field({})

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        tables = self.data_schema.table_names()
        if set(self.rows) != set(tables):
            raise ValueError(f"rows: got tables {sorted(self.rows)}; expected {sorted(tables)}")
        self.fusion.exponents(self.data_schema.tasks)
        return self


def export(
    directory: str | Path,
    schema: Schema,
    model: ArchitectureConfig,
    transforms: Transforms,
    tensors: Mapping[str, Tensor],
    fusion: FusionConfig | None = None,
    metadata: Mapping[str, JsonValue] | None = None,
) -> Path:
    """Write an artefact and load it once; it appears whole or not at all.

    Args:
        directory: where; an earlier artefact there is replaced.
        schema: features and tasks.
        model: the `model` section.
        transforms: what the training applied.
        tensors: a checkpoint's, as `training.checkpoint.read_model` returns them; what is not the model's is left out.
        fusion: the `fusion` section.
        metadata: what readers should know, such as step and run.

    Returns:
        The directory.

    Raises:
        InputError: the tensors are not those of the model, or the directory holds something else.
    """
    directory = Path(directory)
    if directory.exists() and not (directory / _DESCRIPTION).exists():
        raise InputError(f"{directory}: exists and is no serving artefact; expected a free name")
    description = _describe(schema, model, transforms, fusion or FusionConfig(), metadata or {})
    with replacing(directory, overwrite=True) as draft:
        transforms.save(str(draft / _TRANSFORMS))
        save_file(dict(_served(tensors)), draft / _WEIGHTS)
        (draft / _DESCRIPTION).write_text(description.model_dump_json(by_alias=True, indent=2) + "\n")
        load(draft)  # what is published has been opened once
    return directory


def load(directory: Path) -> tuple[Description, Transforms, RankingModel]:
    """Open an artefact. Nothing is executed: the directory may come from a stranger.

    Returns:
        What it says of itself, the transforms, and the network in eval mode with its weights mapped from the file.

    Raises:
        InputError: a file is missing, damaged, or of another model; names it.
    """
    description = _read(directory / _DESCRIPTION)
    transforms = _transforms(directory / _TRANSFORMS, description)
    model = _network(description)
    _fill(model, directory / _WEIGHTS)
    return description, transforms, model


def _describe(
    schema: Schema,
    model: ArchitectureConfig,
    transforms: Transforms,
    fusion: FusionConfig,
    metadata: Mapping[str, JsonValue],
) -> Description:
    try:
        return Description(
            schema=schema,
            model=model,
            fusion=fusion,
            rows={table: transforms.table_rows(schema, table) for table in schema.table_names()},
            transforms=transforms.fingerprint,
            metadata=dict(metadata),
        )
    except ValidationError as error:
        raise InputError(_first(error)) from None


def _served(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The model's tensors under the names they have in serving."""
    for name, tensor in tensors.items():
        if name.startswith("model."):
            plain = name.removeprefix("model.")
            if plain.startswith("embeddings."):
                plain = "embeddings.tables." + plain.rsplit("embedding_bags.", 1)[-1].removesuffix(".weight")
            yield plain, tensor.detach().cpu().contiguous()


def _read(file: Path) -> Description:
    try:
        return Description.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; expected a serving artefact") from None
    except ValidationError as error:
        raise InputError(f"{file}: {_first(error)}") from None
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; expected a serving artefact") from None


def _transforms(directory: Path, description: Description) -> Transforms:
    schema = description.data_schema
    transforms = Transforms.load(str(directory), schema)
    if transforms.fingerprint != description.transforms:
        expected = f"{description.transforms[:12]!r}, as {_DESCRIPTION} says"
        raise InputError(f"{directory}: fingerprint {transforms.fingerprint[:12]!r}; expected {expected}")
    return transforms


def _network(description: Description) -> RankingModel:
    """The module without memory: its weights are mapped in, not copied."""
    schema, config = description.data_schema, description.model
    with torch.device("meta"):
        embeddings = EmbeddingTables(schema, description.rows, prefixes(config, schema.tasks))
        return RankingModel(embeddings, build(config, schema.input_width, schema.tasks)).eval()


def _fill(model: RankingModel, file: Path) -> None:
    try:
        tensors = load_file(file)
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; expected the weights of a serving artefact") from None
    except SafetensorError as error:
        raise InputError(f"{file}: got {str(error)!r}; expected undamaged safetensors") from None
    expected = model.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        found, wanted = _form(tensors.get(name)), _form(expected.get(name))
        if found != wanted:
            raise InputError(f"{file}: tensor {name!r}: got {found}; expected {wanted}")
    model.load_state_dict(tensors, assign=True)
    model.requires_grad_(False)


def _form(tensor: Tensor | None) -> str:
    return "none" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"


def _first(error: ValidationError) -> str:
    """The first of pydantic's complaints as one line."""
    first = error.errors(include_url=False)[0]
    return " ".join(": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"]))).split())
