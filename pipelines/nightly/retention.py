"""Which nights keep their checkpoints, by far the largest part of what a night leaves on disk."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from pipelines.nightly.night import nights
from ranking.config import RunConfig
from ranking.errors import InputError
from ranking.promotion.registry import Registry, RegistryError

log = logging.getLogger(__name__)


def tidy(config: RunConfig) -> list[Path]:
    """Remove checkpoints of finished nights, but for the newest and those of the champion and the one before it.

    Returns:
        The directories removed.
    """
    registry = Registry(config.tracking.uri, config.registry.name)
    try:
        needed = {registry.champion(), registry.previous(), registry.candidate()}
    except (RegistryError, InputError) as error:  # the next night tidies
        log.warning("checkpoints of old nights stay: %s", error)
        return []
    old = [night for night in nights(config.output) if night.finished][: -config.retrain.keep_checkpoints]
    folders = [checkpoints(config.output / str(night.day)) for night in old if night.version not in needed]
    removed = [folder for folder in folders if folder.exists()]
    for folder in removed:
        shutil.rmtree(folder)
    return removed


def has_checkpoints(night: Path) -> bool:
    """Whether a training can begin from what a night left."""
    return any(checkpoints(night).glob("commits/*.json"))


def checkpoints(night: Path) -> Path:
    """Of the night's training."""
    return night / "run" / "checkpoints"
