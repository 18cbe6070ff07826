"""The artefact on disk: whole or absent, readable, and harmless whoever wrote it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ranking.data.transforms import Transforms
from ranking.errors import InputError
from ranking.serving.artefact import export, load
from ranking.serving.fusion import FusionConfig

from .conftest import ARCHITECTURE, SCHEMA, impressions


@pytest.fixture
def copy(artefact, tmp_path) -> Path:
    return Path(shutil.copytree(artefact, tmp_path / "copy"))


def edit(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_a_reader_finds_what_it_is(artefact):
    content = json.loads((artefact / "model.json").read_text())
    assert content["schema"]["features"][0]["name"] == "age"
    assert content["model"]["type"] == "mmoe"
    assert content["fusion"]["powers"] == {"click": 1, "watch": 0.5}
    assert content["rows"]["video"] == 40
    assert content["metadata"] == {"step": 200, "run": "abc"}


def test_it_consists_of_json_parquet_and_safetensors_alone(artefact):
    assert {file.suffix for file in artefact.rglob("*") if file.is_file()} == {".json", ".parquet", ".safetensors"}


def test_what_is_read_is_what_was_written(artefact, mmoe):
    description, transforms, model = load(artefact)
    assert description.data_schema == SCHEMA
    assert description.model == ARCHITECTURE
    assert transforms.fingerprint == mmoe.transforms.fingerprint
    for name, tensor in mmoe.model.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0)


def test_tensors_that_are_not_the_models_are_left_out(mmoe, tmp_path):
    tensors = mmoe.tensors | {"objective.log_variance": torch.zeros(3)}
    directory = export(tmp_path / "ranker", SCHEMA, mmoe.config, mmoe.transforms, tensors)
    assert load_file(directory / "model.safetensors").keys() == mmoe.model.state_dict().keys()


def test_tensors_of_another_model_leave_nothing_behind(mmoe, tmp_path):
    other = ARCHITECTURE.model_copy(update={"experts": 5})
    with pytest.raises(InputError, match=r"tensor 'architecture\.experts.*got .* expected"):
        export(tmp_path / "ranker", SCHEMA, other, mmoe.transforms, mmoe.tensors)
    assert list(tmp_path.iterdir()) == []


def test_an_export_replaces_an_earlier_one_but_nothing_else(mmoe, copy, tmp_path):
    export(copy, SCHEMA, mmoe.config, mmoe.transforms, mmoe.tensors, metadata={"step": 300})
    assert load(copy)[0].metadata == {"step": 300}
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="is no serving artefact"):
        export(tmp_path / "mine", SCHEMA, mmoe.config, mmoe.transforms, mmoe.tensors)


def test_a_fusion_of_unknown_tasks_is_not_exported(mmoe, tmp_path):
    fusion = FusionConfig(powers={"share": 1})
    with pytest.raises(InputError, match=r"fusion\.powers\.share"):
        export(tmp_path / "ranker", SCHEMA, mmoe.config, mmoe.transforms, mmoe.tensors, fusion)


@pytest.mark.parametrize("file", ["model.json", "model.safetensors", "transforms/transforms.json"])
def test_a_missing_file_is_named(copy, file):
    (copy / file).unlink()
    with pytest.raises(InputError, match=file):
        load(copy)


@pytest.mark.parametrize("file", ["model.json", "model.safetensors", "transforms/user.vocabulary.parquet"])
def test_a_truncated_file_is_named(copy, file):
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=file):
        load(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(hook="import os"),
        lambda content: content["model"].update(code="import os"),
        lambda content: content["schema"].update(path="/"),
        lambda content: content["model"].update(type="posix.system"),
        lambda content: content.update(version=2),
    ],
    ids=["key", "model_key", "schema_key", "architecture", "version"],
)
def test_a_description_that_says_more_than_it_may_is_refused(copy, change):
    edit(copy / "model.json", change)
    with pytest.raises(InputError, match=r"model\.json"):
        load(copy)


def test_a_label_expression_is_never_evaluated(copy):
    edit(copy / "model.json", lambda content: content["schema"]["tasks"][0].update(label="__import__('os').getcwd()"))
    with pytest.raises(InputError, match=r"model\.json.*label"):
        load(copy)


def test_a_table_cannot_be_a_path(copy):
    def escape(content):
        content["schema"]["features"][2]["table"] = "../../outside"
        content["rows"]["../../outside"] = content["rows"].pop("user")

    edit(copy / "model.json", escape)
    with pytest.raises(InputError, match=r"model\.json"):
        load(copy)


def test_a_vocabulary_cannot_lie_outside(copy, tmp_path):
    shutil.copy(copy / "transforms/user.vocabulary.parquet", tmp_path / "outside.vocabulary.parquet")
    edit(copy / "transforms/transforms.json", lambda content: content["vocabularies"].update({"../../outside": 1}))
    with pytest.raises(InputError, match=r"outside.*pattern"):
        load(copy)


def test_transforms_of_another_fit_are_refused(copy):
    Transforms.fit(SCHEMA, [impressions(400, seed=9)]).save(str(copy / "transforms"))
    with pytest.raises(InputError, match="fingerprint"):
        load(copy)


@pytest.mark.parametrize(
    "tensor", [None, torch.zeros(41, 8), torch.zeros(40, 8, dtype=torch.int8)], ids=["gone", "shape", "type"]
)
def test_weights_of_another_form_are_named(copy, tensor):
    name, file = "embeddings.tables.video", copy / "model.safetensors"
    tensors = {key: value.clone() for key, value in load_file(file).items()} | {name: tensor}
    save_file({key: value for key, value in tensors.items() if value is not None}, file)
    with pytest.raises(InputError, match=rf"tensor '{name}'.*expected torch.float32 \[40, 8\]"):
        load(copy)


@pytest.mark.parametrize("rows", [-1, 0, 1 << 31, 1 << 50, 1 << 70])
def test_huge_declared_tables_take_no_memory(copy, rows):
    edit(copy / "model.json", lambda content: content["rows"].update(video=rows))
    with pytest.raises(InputError, match="video"):
        load(copy)


def test_a_description_that_cannot_be_read_is_named(copy):
    (copy / "model.json").unlink()
    (copy / "model.json").mkdir()
    with pytest.raises(InputError, match=r"model\.json: Is a directory; expected a serving artefact"):
        load(copy)


def test_a_description_that_contradicts_itself_is_one_line(copy):
    edit(copy / "model.json", lambda content: content["rows"].pop("video"))
    with pytest.raises(InputError, match=r"^\S+model\.json: Value error, rows: got tables \['[^:]*$"):
        load(copy)
