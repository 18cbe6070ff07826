"""What `kubectl kustomize` makes of an overlay, as far as this project uses it; anything else is refused."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]
KUBERNETES = Path(__file__).parents[2] / "docker" / "kubernetes"
OVERLAYS = sorted(path.parent for path in KUBERNETES.glob("overlays/*/kustomization.yaml"))
KNOWN = {"apiVersion", "kind", "resources", "configMapGenerator", "generatorOptions", "labels", "images", "patches"}


def documents(path: Path) -> list[Document]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def render(folder: Path) -> dict[tuple[str, str], Document]:
    """Resources by (kind, name), with generated ConfigMaps, patches and image tags applied."""
    (settings,) = documents(folder / "kustomization.yaml")
    assert settings["kind"] == "Kustomization"
    assert set(settings) <= KNOWN
    found: dict[tuple[str, str], Document] = {}
    for resource in settings.get("resources", ()):
        path = folder / resource
        new = render(path) if path.is_dir() else {key(document): document for document in documents(path)}
        assert not set(found) & set(new)
        found |= new
    for generator in settings.get("configMapGenerator", ()):
        data = {Path(file).name: (folder / file).read_text() for file in generator["files"]}
        document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}
        found[key(document)] = document
    for patch in settings.get("patches", ()):
        (change,) = documents(folder / patch["path"])
        assert key(change) in found, f"{folder.name}/{patch['path']} patches what is not there"
        if change.pop("$patch", None) == "delete":
            del found[key(change)]
        else:
            found[key(change)] = merge(found[key(change)], change)
    for image in settings.get("images", ()):
        for container in (c for document in found.values() for c in containers(document)):
            if container["image"].split(":")[0] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
    return found


def key(document: Document) -> tuple[str, str]:
    return document["kind"], document["metadata"]["name"]


def merge(base: Any, change: Any) -> Any:
    """A strategic merge: mappings by key, lists of named things by name, any other list replaced."""
    if isinstance(base, dict) and isinstance(change, dict):
        return base | {name: merge(base[name], value) if name in base else value for name, value in change.items()}
    if isinstance(base, list) and base and all(isinstance(item, dict) and "name" in item for item in [*base, *change]):
        changes = {item["name"]: item for item in change}
        kept = [merge(item, changes.pop(item["name"], item)) for item in deepcopy(base)]
        return kept + list(changes.values())
    return deepcopy(change)


def pod(document: Document) -> Document | None:
    """The pod template of a CronJob or of a TrainingRuntime's nodes."""
    spec = document.get("spec", {})
    match document["kind"]:
        case "CronJob":
            return dict(spec["jobTemplate"]["spec"]["template"])
        case "TrainingRuntime":
            (node,) = spec["template"]["spec"]["replicatedJobs"]
            return dict(node["template"]["spec"]["template"])
    return None


def containers(document: Document) -> list[Document]:
    template = pod(document)
    return [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]] if template else []
