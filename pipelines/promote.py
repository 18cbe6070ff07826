"""Promote: compare challenger and champion on the pinned manifest, and move the alias if every guard holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from pipelines.job import job, say
from pipelines.offline import predict
from pipelines.release import pinned
from ranking.config import RunConfig
from ranking.data.manifest import Manifest
from ranking.errors import EXIT_NOT_PROMOTED, InputError
from ranking.metrics import Predictions
from ranking.tracking.gate import Verdict, decide
from ranking.tracking.registry import ChampionChangedError, Registry, RegistryError

_ATTEMPTS = 3

Pinned = Annotated[Path | None, typer.Option(help="Evaluation manifest; the run's own test manifest when left out.")]


def promote(config: RunConfig, manifest: Pinned = None) -> int | None:
    """Make the challenger champion if it passes the gate.

    Exit code 0: promoted, or nothing is waiting for it. 3: not better; the reasons are tags of the version.
    """
    registry = Registry(config.tracking.uri, config.registry.name)
    rows = None
    for _ in range(_ATTEMPTS):
        challenger, champion = registry.challenger(), registry.champion()
        if challenger is None:
            if champion is None:
                raise InputError(f"registry {registry.name}: no challenger; expected one that `train` registered")
            say(f"no challenger is waiting; {registry.name} version {champion} stays champion")
            return None
        rows = rows or read_pinned(manifest or pinned(config), config)
        verdict = compare(registry, challenger, champion, rows, config)
        if not verdict.promote:
            registry.reject(challenger, verdict)
            say(f"\n{registry.name} version {challenger} is not promoted: {verdict.reason}")
            return EXIT_NOT_PROMOTED
        try:
            registry.promote(challenger, verdict, champion)
        except ChampionChangedError as error:
            say(f"\n{error}")
            continue
        say(f"\n{registry.name} version {challenger} is champion")
        return None
    raise RegistryError(f"registry {registry.name}: the champion changed {_ATTEMPTS} times during the comparison")


def compare(registry: Registry, challenger: int, champion: int | None, rows: Manifest, config: RunConfig) -> Verdict:
    """Load and score both versions on the same rows, and let the gate decide."""
    new = scores(registry, challenger, rows, config)
    old = None if champion is None else scores(registry, champion, rows, config)
    verdict = decide(new, old, config.gate)
    say(f"version {challenger} against {f'champion {champion}' if champion else 'the floors'}, {rows.rows} rows\n")
    say(verdict.render())
    return verdict


def read_pinned(path: Path, config: RunConfig) -> Manifest:
    """The pinned manifest, if the files are still the ones it names.

    Raises:
        InputError: it is missing, damaged, or the data changed under it.
    """
    try:
        manifest = Manifest.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no pinned evaluation manifest; expected the one that `train` writes") from None
    except ValidationError:
        raise InputError(f"{path}: not a manifest; expected the one that `train` writes") from None
    urls = [shard.url for shard in manifest.shards]
    now = Manifest.build(urls, manifest.columns.names, config.data.storage_options, str(path))
    if now.digest != manifest.digest:
        raise InputError(f"{path}: the files have digest {now.digest[:12]}; expected {manifest.digest[:12]} as pinned")
    return manifest


def scores(registry: Registry, version: int, rows: Manifest, config: RunConfig) -> Predictions:
    """What a registered version says about the pinned rows."""
    from ranking.serving.packaging import fetch  # importing MLflow takes seconds, which wrong options need not wait

    return predict(fetch(registry.uri(version)), rows, config)


main = job(promote)

if __name__ == "__main__":
    main()
