"""compose.yaml: services that wait for each other, keep nothing secret in the file, and train every night."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import yaml

from tests.docker.overlay import KUBERNETES, containers, render
from tests.docker.test_images import DOCKER, PARENTS, ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
((SCHEDULE, COMMAND),) = re.findall(
    r"^((?:[\d*/,-]+ ){5})ranking (.*)$", (DOCKER / "crontab").read_text(), re.MULTILINE
)
JOB, *OPTIONS = shlex.split(COMMAND)


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned_or_built_from_the_dockerfile(name: str) -> None:
    service = SERVICES[name]
    assert service["image"].partition(":")[2] not in ("", "latest")
    if "build" in service:
        build = service["build"]
        assert (DOCKER / build["context"] / build["dockerfile"]).samefile(DOCKER / "Dockerfile")
        assert build["target"] in PARENTS
        assert service["image"] == f"ranking:{build['target']}"


@pytest.mark.parametrize("name", SERVICES)
def test_services_wait_for_what_exists_and_can_tell(name: str) -> None:
    for other, condition in SERVICES[name].get("depends_on", {}).items():
        if condition["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]
        else:
            assert condition["condition"] == "service_completed_successfully"


@pytest.mark.parametrize("name", SERVICES)
def test_volumes_configs_and_secrets_are_declared(name: str) -> None:
    service = SERVICES[name]
    for volume in service.get("volumes", ()):
        source = volume.split(":")[0]
        assert (DOCKER / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"]
    assert {item["source"] for item in service.get("configs", ())} <= set(COMPOSE["configs"])
    assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])


@pytest.mark.parametrize("name", SERVICES)
def test_services_have_limits(name: str) -> None:
    limits = SERVICES[name]["deploy"]["resources"]["limits"]
    assert {"cpus", "memory"} <= set(limits)


@pytest.mark.parametrize("name", [name for name in SERVICES if "build" in SERVICES[name]])
def test_our_own_services_cannot_gain_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_variables_are_those_of_the_example() -> None:
    text = (DOCKER / "compose.yaml").read_text()
    declared = set(re.findall(r"^(\w+)=", (DOCKER / ".env.example").read_text(), re.MULTILINE))
    used = set(re.findall(r"\$\{(\w+)", text)) | {secret["environment"] for secret in COMPOSE["secrets"].values()}
    assert used == declared


def test_the_server_answers_to_its_own_names_only() -> None:
    assert "--allowed-hosts=mlflow:5000,localhost:*" in SERVICES["mlflow"]["command"]


def test_training_has_time_to_stop() -> None:
    assert int(SERVICES["trainer"]["stop_grace_period"].removesuffix("s")) > 30


def test_the_crontab_and_the_cron_job_do_the_same() -> None:
    nightly = render(KUBERNETES / "overlays" / "cpu")["CronJob", "ranking-nightly"]["spec"]
    (container,) = nightly["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert SCHEDULE.strip() == nightly["schedule"]
    assert [JOB, *OPTIONS] == container["args"]


def test_the_nightly_command_is_a_job_of_the_project() -> None:
    assert (ROOT / "pipelines" / f"{JOB}.py").is_file()


def test_many_processes_run_the_same_job() -> None:
    nightly = render(KUBERNETES / "overlays" / "gpu")["CronJob", "ranking-nightly"]
    (container,) = containers(nightly)
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert container["args"] == [JOB, *OPTIONS, "--device=cuda", f"--retrain.processes={gpus}"]


def test_many_nodes_train_with_the_same_options() -> None:
    (container,) = containers(render(KUBERNETES / "overlays" / "nodes")["TrainingRuntime", "ranking"])
    assert container["command"] == ["torchrun"]
    assert container["args"] == ["-m", "pipelines.train", *OPTIONS, "--device=cuda"]
