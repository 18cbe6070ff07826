"""The Kubernetes manifests: valid by schema, complete, and with no more rights than they need."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from ranking.config import load
from tests.docker.overlay import KUBERNETES, OVERLAYS, Document, containers, documents, merge, pod, render
from tests.workspace import Workspace

VERSION = "1.34"
TRAINER = json.loads((KUBERNETES / "trainjob.schema.json").read_text())
RENDERED = [pytest.param(document, id=f"{folder.name}-{'-'.join(name)}") for folder in OVERLAYS
            for name, document in render(folder).items()]  # fmt: skip
PODS = [parameter for parameter in RENDERED if pod(parameter.values[0])]


def names(kind: str, folder: Path) -> set[str]:
    return {name for found, name in render(folder) if found == kind}


@pytest.mark.parametrize("document", RENDERED)
def test_every_resource_fits_the_schema_of_its_kind(document: Document) -> None:
    if document["apiVersion"].startswith("trainer.kubeflow.org/"):
        jsonschema.validate(document, TRAINER)
        (node,) = document["spec"]["template"]["spec"]["replicatedJobs"]
        document = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "node"}} | node["template"]
    assert document["kind"]
    kubernetes_validate.validate(document, VERSION, strict=True)  # raises where it does not fit


def test_every_file_is_used_by_an_overlay() -> None:
    used = {KUBERNETES / "trainjob.schema.json"}
    for file in KUBERNETES.rglob("kustomization.yaml"):
        (settings,) = documents(file)
        listed = [*settings["resources"], *(patch["path"] for patch in settings.get("patches", ()))]
        listed += [name for generator in settings.get("configMapGenerator", ()) for name in generator["files"]]
        used |= {file, *(file.parent / name for name in listed)}
    assert {path for path in KUBERNETES.rglob("*") if path.is_file()} == {path for path in used if path.is_file()}


@pytest.mark.parametrize("document", PODS)
def test_no_container_runs_as_root_or_writes_its_image(document: Document) -> None:
    template = pod(document)
    assert template
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    assert template["spec"]["securityContext"]["runAsUser"] >= 10000
    for container in containers(document):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("document", PODS)
def test_images_are_pinned_and_memory_is_limited(document: Document) -> None:
    for container in containers(document):
        assert container["image"].partition(":")[2] not in ("", "latest")
        if document["kind"] == "CronJob":
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("document", PODS)
def test_pods_have_time_to_commit_a_checkpoint(document: Document) -> None:
    template = pod(document)
    assert template
    assert template["spec"]["terminationGracePeriodSeconds"] > 30


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.name)
def test_one_night_at_a_time_and_each_has_an_end(folder: Path) -> None:
    (nightly,) = [document for (kind, _), document in render(folder).items() if kind == "CronJob"]
    spec = nightly["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["startingDeadlineSeconds"] > 0
    job = spec["jobTemplate"]["spec"]
    assert job["activeDeadlineSeconds"] > 0
    assert job["backoffLimit"] >= 0


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.name)
def test_what_a_pod_mounts_and_runs_as_is_deployed_with_it(folder: Path) -> None:
    for document in render(folder).values():
        template = pod(document)
        if template is None:
            continue
        spec = template["spec"]
        assert spec["serviceAccountName"] in names("ServiceAccount", folder)
        for volume in spec["volumes"]:
            if "configMap" in volume:
                assert volume["configMap"]["name"] in names("ConfigMap", folder)
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in names("PersistentVolumeClaim", folder)
        for container in containers(document):
            mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
            assert mounted <= {volume["name"] for volume in spec["volumes"]}


@pytest.mark.parametrize("document", PODS)
def test_training_has_shared_memory_and_no_token(document: Document) -> None:
    template = pod(document)
    assert template
    if template["metadata"]["labels"]["app.kubernetes.io/name"] != "ranking-train":
        return
    shared = {volume["name"]: volume for volume in template["spec"]["volumes"]}["shm"]["emptyDir"]
    assert shared["medium"] == "Memory"
    assert template["spec"]["automountServiceAccountToken"] is False
    for container in containers(document):
        assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]


def test_roles_name_their_resources_and_have_no_wildcards() -> None:
    roles = [document for folder in OVERLAYS for (kind, _), document in render(folder).items() if kind == "Role"]
    assert roles
    for rule in (rule for role in roles for rule in role["rules"]):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert rule.get("resourceNames") or rule["verbs"] == ["create"]


def test_the_train_job_names_the_runtime_of_its_overlay() -> None:
    folder = KUBERNETES / "overlays" / "nodes"
    (job,) = [yaml.safe_load(text) for text in render(folder)["ConfigMap", "ranking-trainjob"]["data"].values()]
    jsonschema.validate(job, TRAINER)
    reference = job["spec"]["runtimeRef"]
    assert (reference["kind"], reference["name"]) in render(folder)
    (submit,) = [document for (kind, _), document in render(folder).items() if kind == "CronJob"]
    named = {argument for container in containers(submit) for argument in container["args"] if "/ranking" in argument}
    assert named == {f"trainjob/{job['metadata']['name']}", "--filename=/etc/ranking/trainjob.yaml"}


def test_the_generated_configuration_fits_the_schema(workspace: Workspace) -> None:
    overlay = KUBERNETES / "base" / "config.yaml"
    assert load([workspace.yaml, overlay]).tracking.uri == yaml.safe_load(overlay.read_text())["tracking"]["uri"]


def test_a_patch_merges_by_name() -> None:
    base = {"containers": [{"name": "a", "args": [1, 2]}, {"name": "b"}], "kept": 1}
    change = {"containers": [{"name": "a", "args": [3]}, {"name": "c"}]}
    assert merge(base, change) == {"containers": [{"name": "a", "args": [3]}, {"name": "b"}, {"name": "c"}], "kept": 1}
