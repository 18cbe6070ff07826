"""README's generated parts are what the repository holds."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import yaml

from ranking.config import json_schema
from ranking.data.loader import DataConfig
from ranking.schema import Schema

ROOT = Path(__file__).parents[1]


def script(name: str) -> ModuleType:
    """A script of docs/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_layout_and_tables_are_current() -> None:
    readme, text = script("readme"), (ROOT / "README.md").read_text()
    assert text == readme.filled(text), "run `make docs`"
    assert (ROOT / "docs/layout.md").read_text() == readme.files(), "run `make docs`"
    assert "ranking/" in readme.packages()
    assert "trainer.py" in readme.files()


def test_the_page_on_reliability_shows_what_was_measured() -> None:
    reliability = script("reliability")
    text = reliability.PAGE.read_text()
    assert text == reliability.filled(text), "run `python docs/reliability.py`"


def test_the_configuration_it_explains_is_valid() -> None:
    block = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    config = yaml.safe_load(block[1])
    assert Schema.model_validate(config["schema"]).task_names == ("click", "watch", "like")
    assert DataConfig.model_validate(config["data"]).batch_size == 4096


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    assert links
    for link in links:
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_every_key_of_the_configuration_is_explained() -> None:
    schema = json.loads(json_schema())
    sections = {"": schema, **schema["$defs"]}
    keys = [
        (section, key, value) for section, own in sections.items() for key, value in own.get("properties", {}).items()
    ]
    unexplained = [
        f"{section}.{key}" for section, key, value in keys if not {"description", "$ref", "const"} & value.keys()
    ]
    assert unexplained == []


def test_the_json_schema_is_current() -> None:
    assert (ROOT / "configs/schema.json").read_text() == json_schema(), "run `make schema`"
