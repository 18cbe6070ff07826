"""Which build of FBGEMM is installed: asked of the packages' metadata, because the wrong one may not even import."""

from __future__ import annotations

from importlib import metadata

import torch

from ranking.errors import InputError

_BUILDS = {
    "fbgemm-gpu-cpu": "cpu",
    "fbgemm-gpu": "cuda",
    "fbgemm-gpu-nightly-cpu": "cpu",
    "fbgemm-gpu-nightly": "cuda",
}
_WANTED = {"cpu": "fbgemm-gpu-cpu (requirements/cpu.txt)", "cuda": "fbgemm-gpu (requirements/gpu.txt)"}


def check_fbgemm(device: str) -> None:
    """Refuse an FBGEMM build that does not fit the device, and name the package that does.

    Raises:
        InputError: none is installed, two that overwrite each other are, or one for another device.
    """
    found = _installed()
    if len(found) > 1:
        both = " and ".join(sorted(found))
        raise InputError(f"fbgemm_gpu: got {both}, which overwrite each other; expected only {_WANTED[device]}")
    if not found:
        raise InputError(f"fbgemm_gpu: not installed; install {_WANTED[device]}")
    ((name, version),) = found.items()
    if _BUILDS[name] != device:
        raise InputError(f"device: got {device!r} with {name} {version}; install {_WANTED[device]} in its place")


def check_importable() -> None:
    """Refuse a build that this torch cannot even load, before anything imports it.

    Raises:
        InputError: naming the package to install; nothing is said where none is installed, as for serving.
    """
    if _installed():
        built = "cuda" if torch.version.cuda or torch.version.hip else "cpu"
        if built == "cpu" or len(_installed()) > 1:
            check_fbgemm(built)


def _installed() -> dict[str, str]:
    found = {}
    for name in _BUILDS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
