"""The Dockerfile and its entrypoint: what goes into the images, and how they start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ranking.config import load

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
STAGES = {
    name: body
    for _, name, body in re.findall(r"^FROM (\S+) AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
}
PARENTS = {name: parent for parent, name in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)}
TARGETS = ["cpu", "gpu", "serving", "mlflow", "scheduler"]
SECRET = re.compile(
    r"(password|secret|token|access_?key)\w*[\"']?[ \t]*[:=][ \t]*[\"']?(?!/run/secrets/)[\w/+-]{6,}", re.IGNORECASE
)


def lines(stage: str, instruction: str) -> list[str]:
    """The arguments of an instruction in a stage and the stages that it is built from, nearest last."""
    above = lines(PARENTS[stage], instruction) if PARENTS[stage] in STAGES else []
    return above + re.findall(rf"^{instruction} +(.*)$", STAGES[stage], re.MULTILINE)


@pytest.mark.parametrize("target", TARGETS)
def test_no_image_runs_as_root(target: str) -> None:
    user = lines(target, "USER")[-1]
    assert int(user.split(":")[0]) >= 10000


@pytest.mark.parametrize("target", TARGETS)
def test_images_stop_on_sigterm_and_start_without_a_shell(target: str) -> None:
    assert lines(target, "STOPSIGNAL")[-1] == "SIGTERM"
    assert lines(target, "ENTRYPOINT")[-1].startswith('["')


@pytest.mark.parametrize("target", TARGETS)
def test_images_carry_the_environment_of_a_job(target: str) -> None:
    environment = dict(pair.split("=", 1) for line in lines(target, "ENV") for pair in line.split())
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["DO_NOT_TRACK"] == "true"
    assert environment["PYTHONUNBUFFERED"] == "1"
    assert environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert environment["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] == "false"


@pytest.mark.parametrize("target", ["cpu", "gpu", "scheduler"])
def test_what_trains_knows_the_revision_it_was_built_from(target: str) -> None:
    assert "REVISION" in lines(target, "ARG")
    environment = dict(pair.split("=", 1) for line in lines(target, "ENV") for pair in line.split())
    assert environment["SOURCE_REVISION"] == "${REVISION}"
    assert "org.opencontainers.image.revision=${REVISION}" in lines(target, "LABEL")
    for command in ((ROOT / "Makefile").read_text(), (DOCKER / "compose.yaml").read_text()):
        assert "REVISION" in command


def test_base_images_are_pinned() -> None:
    images = re.findall(r"^ARG (?:BASE|GO)=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert len(images) == 2
    assert all(re.search(r":\d+\.\d+\.\d+-", image) for image in images)
    assert set(PARENTS.values()) - set(STAGES) == {"${BASE}", "${GO}"}


def test_every_path_copied_from_the_repository_exists() -> None:
    copied = [
        path
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for path in re.sub(r"--\S+ ", "", line).split()[:-1]
    ]
    assert {"ranking", "pipelines", "configs"} <= set(copied)
    kept = [line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"]
    for path in copied:
        assert (ROOT / path).exists(), path
        assert any(path == name or path.startswith(f"{name}/") for name in kept), f"{path} is ignored"


def test_the_environment_is_installed_as_the_makefile_does() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for variant in ("cpu", "gpu"):
        rule = re.search(rf"^\.venv/{variant}:.*?(?=^\S|\Z)", makefile, re.MULTILINE | re.DOTALL)
        assert rule
        wanted = re.findall(r"(--no-deps )?-r requirements/(\S+)", rule[0])
        run = " ".join(lines(f"venv-{variant}", "RUN"))
        assert [pair for pair in re.findall(r"(--no-deps )?-r (\S+\.txt)", run) if pair[1] != "common.txt"] == wanted


def test_no_secrets_are_written_down() -> None:
    for path in DOCKER.rglob("*"):
        if path.is_file():
            assert not SECRET.search(path.read_text()), path
    assert all(
        line.startswith(("#", "TRAINER_CPUS", "TRAINER_MEMORY")) or line.endswith("=")
        for line in (DOCKER / ".env.example").read_text().splitlines()
    )


def test_the_search_for_secrets_finds_one() -> None:
    assert SECRET.search("AWS_SECRET_ACCESS_KEY: abcdef123456")
    assert not SECRET.search("AWS_SECRET_ACCESS_KEY: ${TRAINER_S3_SECRET:?}")


def test_what_the_commands_of_the_readme_write_outlives_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    command = re.search(r"docker run --rm .*", (DOCKER / "README.md").read_text().replace("\\\n", " "))
    assert command
    for name, value in re.findall(r"-e (RANKING_\w+)=(\S+)", command[0]):
        monkeypatch.setenv(name, value)
    config = load([ROOT / "configs/quickstart.yaml"], [])
    assert config.prepare
    database = config.tracking.uri.removeprefix("sqlite:///")
    written = [database, config.tracking.artifact_location, str(config.output), config.data.transforms]
    volumes = [Path(place) for place in re.findall(r"-v [\w-]+:(\S+)", command[0])]
    for path in [*written, config.prepare.output]:
        assert path
        assert any((Path(lines("cpu", "WORKDIR")[-1]) / path).is_relative_to(volume) for volume in volumes), path


def start(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, DOCKER / "entrypoint.py", *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_entrypoint_names_the_jobs() -> None:
    answer = start()
    assert answer.returncode == 1
    for name in ("prepare", "train", "promote"):
        assert (ROOT / "pipelines" / f"{name}.py").exists() == bool(re.search(rf"[{{,]{name}[,}}]", answer.stderr))


def test_the_entrypoint_runs_a_job_and_keeps_its_exit_code() -> None:
    answer = start("doctor", "-c", "nowhere.yaml")
    assert answer.returncode == 2
    assert "nowhere.yaml: no such file" in answer.stderr


def test_the_entrypoint_runs_any_other_command_as_it_stands() -> None:
    answer = start(sys.executable, "-c", "import sys; print('done'); sys.exit(75)")
    assert (answer.returncode, answer.stdout) == (75, "done\n")
