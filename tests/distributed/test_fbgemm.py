"""The build of FBGEMM is told from its packages, so that one that does not import is told as well."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from ranking.distributed.fbgemm import check_fbgemm, check_importable
from ranking.errors import EXIT_INPUT, InputError

CPU, GPU = r"fbgemm-gpu-cpu \(requirements/cpu.txt\)", r"fbgemm-gpu \(requirements/gpu.txt\)"


@pytest.fixture
def installed(monkeypatch):
    """Pretend that only these packages are installed."""

    def only(*names: str) -> None:
        def version(name: str) -> str:
            if name not in names:
                raise metadata.PackageNotFoundError(name)
            return "1.8.0"

        monkeypatch.setattr(metadata, "version", version)

    return only


@pytest.mark.parametrize(
    ("packages", "device", "message"),
    [
        (["fbgemm-gpu-cpu"], "cuda", rf"device: got 'cuda' with fbgemm-gpu-cpu 1.8.0; install {GPU}"),
        (["fbgemm-gpu"], "cpu", rf"device: got 'cpu' with fbgemm-gpu 1.8.0; install {CPU}"),
        (["fbgemm-gpu", "fbgemm-gpu-cpu"], "cpu", rf"got fbgemm-gpu and fbgemm-gpu-cpu, .*; expected only {CPU}"),
        ([], "cpu", rf"fbgemm_gpu: not installed; install {CPU}"),
    ],
)
def test_another_build_is_refused_with_the_package_to_install(installed, packages, device, message) -> None:
    installed(*packages)
    with pytest.raises(InputError, match=message):
        check_fbgemm(device)


def test_the_right_build_is_taken(installed) -> None:
    for name, device in (("fbgemm-gpu-cpu", "cpu"), ("fbgemm-gpu", "cuda")):
        installed(name)
        check_fbgemm(device)


def test_without_any_build_there_is_nothing_that_could_fail_to_import(installed) -> None:
    installed()
    check_importable()


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch can load the CUDA build")
def test_a_job_says_so_before_the_build_is_imported(tmp_path: Path) -> None:
    package = tmp_path / "fbgemm_gpu"
    package.mkdir()
    (package / "__init__.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    (tmp_path / "fbgemm_gpu-1.8.0.dist-info").mkdir()
    (tmp_path / "fbgemm_gpu-1.8.0.dist-info" / "METADATA").write_text("Name: fbgemm-gpu\nVersion: 1.8.0\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "LOCAL_RANK": "0"}
    command, root = [sys.executable, "-m", "pipelines.train", "--help"], Path(__file__).parents[2]
    ended = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert ended.returncode == EXIT_INPUT
    assert ended.stderr.startswith("error: fbgemm_gpu: got fbgemm-gpu and fbgemm-gpu-cpu, which overwrite each other")
    assert ended.stderr.count("\n") == 1
