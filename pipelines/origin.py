"""Origin: where a fresh run's weights come from: the seed, an earlier run's checkpoint, or a registered model."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipelines.assembly import Assembly
from ranking.distributed.collectives import on_rank_zero
from ranking.serving import artefact
from ranking.training.state import Lineage, TrainState
from ranking.training.warm_start import Origin, carry_over, earlier_run

_REGISTERED = "models:/"


def begin(parts: Assembly, state: TrainState) -> Lineage | None:
    """Fill a state without a past as the `warm_start` section says, and keep the transforms a later run will ask for.

    Returns:
        Where the weights came from; None where the seed drew them.

    Raises:
        InputError: what they should come from is missing or does not fit.
    """
    config, world = parts.config, parts.world
    on_rank_zero(lambda: parts.transforms.save(str(config.output / "transforms")), world)
    chosen = config.warm_start
    if not chosen.run:
        return None
    weights_only = chosen.run.startswith(_REGISTERED)
    origin = registered(parts) if weights_only else earlier_run(chosen, world)
    carry_over(origin, state, config.schema, parts.transforms, chosen.optimizer and not weights_only)
    return origin.lineage


def registered(parts: Assembly) -> Origin:
    """The weights of a registered model; rank 0 copies them into the run directory, where all ranks can read.

    Raises:
        InputError: there is no such model, or not one of ours.
    """
    config = parts.config
    folder = config.output / "warm_start"
    on_rank_zero(lambda: _copy(config.tracking.uri, config.warm_start.run, folder), parts.world)
    description, transforms, model = artefact.load(folder)
    tensors = {_trained(name): tensor for name, tensor in model.state_dict().items()}
    metadata = description.metadata
    step, checkpoint = int(str(metadata.get("step", 0))), str(metadata.get("checkpoint", ""))
    return Origin(
        lineage=Lineage(run=config.warm_start.run, step=step, checkpoint=checkpoint),
        schema=description.data_schema,
        transforms=transforms,
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        read=tensors.__getitem__,
    )


def _copy(uri: str, model: str, folder: Path) -> None:
    import mlflow  # takes seconds, and only rank 0 needs it

    from ranking.serving.packaging import downloaded

    mlflow.set_tracking_uri(uri)
    with downloaded(model) as found:
        shutil.copytree(found, folder, dirs_exist_ok=True)


def _trained(served: str) -> str:
    """Name in a checkpoint of a tensor of the serving artefact."""
    table = served.removeprefix("embeddings.tables.")
    if table == served:
        return f"model/model.{served}"
    return f"model/model.embeddings.collection.embedding_bags.{table}.weight"
