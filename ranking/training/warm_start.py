"""Warm start: a fresh run begins with weights and optimizer state of an earlier one, tables row by row by key."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ranking.data.growth import FRESH, earlier_rows
from ranking.data.transforms import Transforms
from ranking.distributed.collectives import all_gather, collective_error, on_rank_zero
from ranking.distributed.embeddings import table_of
from ranking.distributed.world import World
from ranking.errors import InputError
from ranking.schema import Schema
from ranking.training.commits import Commit, attempt_path, ranked, read_commits, verify
from ranking.training.config import WarmStartConfig
from ranking.training.layout import TensorLayout
from ranking.training.state import Lineage, Progress, TrainState
from ranking.training.stored import Stored

log = logging.getLogger(__name__)

_TABLE, _OBJECTIVE = "embedding_bags.", "/objective."
_INPUTS = {"name", "kind", "log1p", "scale", "pieces", "null", "indicator", "table", "multi_hot", "pooling"}
_ADVICE = "as in that run: keep its features, tasks and model, or begin without warm_start.run"


@dataclass(frozen=True)
class Origin:
    """What a run begins from.

    Attributes:
        lineage: where it lies.
        schema: its features and tasks.
        transforms: what its rows were encoded by.
        shapes: of its tensors, by the names `TrainState.tensors` gives them.
        read: one of them, whole.
    """

    lineage: Lineage
    schema: Schema
    transforms: Transforms
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]


def earlier_run(config: WarmStartConfig, world: World) -> Origin:
    """The checkpoint of a run directory that `config` names, verified; read on every rank that needs a tensor.

    Raises:
        InputError: there is none, or its bytes or its transforms are not those the run wrote.
    """
    run = Path(config.run)
    commit, schema, transforms = on_rank_zero(lambda: _opened(run, config.checkpoint), world)
    stored = Stored(run / "checkpoints", commit)
    shapes = {name: shape for name, shape in stored.shapes.items() if not name.startswith("rng/")}
    lineage = Lineage(run=str(run), step=commit.step, checkpoint=commit.attempt)
    return Origin(lineage, schema, transforms, shapes, lambda name: stored.read([name])[name])


@torch.no_grad()
def carry_over(origin: Origin, state: TrainState, schema: Schema, transforms: Transforms, optimizer: bool) -> None:
    """Fill a fresh state from an earlier one, one tensor at a time, whatever the sharding plans of the two.

    Dense parameters go by name. A table's row goes to the row its key has now; rows of new keys stay as they were
    drawn, with zero optimizer state. Losses that a weighting has observed begin anew with its schedule.

    Raises:
        InputError: the origin's tensors do not fit, named with what to do.
    """
    world = state.world
    _require_same_inputs(origin, schema, world)
    learned = {f"model/{name}" for name, _ in state.model.named_parameters()}
    live = {name: value for name, value in state.tensors().items() if _has_past(name, learned, optimizer)}
    known = {name: shape for name, shape in origin.shapes.items() if _has_past(name, learned, optimizer)}
    _require_same_shapes(origin, live, known, world)
    for name in (name for name in live if _TABLE not in name and name in known):
        _fill(live[name], origin.read(name), None)
    kept = 0
    for table in schema.table_names():
        try:
            source = earlier_rows(table, schema, transforms, origin.schema, origin.transforms)
        except InputError as error:
            raise collective_error(f"warm_start.run: {origin.lineage.run}: {error}", world) from None
        kept += int((source != FRESH).sum())
        for name, value in live.items():
            if _TABLE in name and value.parts and _table(name, state) == table:
                _fill(value, origin.read(name), torch.from_numpy(source))
    state.optimizers.loaded()
    _tell(origin, transforms, kept, optimizer, world)


def _fill(value: TensorLayout, earlier: Tensor, source: Tensor | None) -> None:
    """Copy this rank's parts from a whole earlier tensor.

    Args:
        value: live, rows as now.
        earlier: rows as they were.
        source: `[R]` the earlier row of every row now; None: the rows are the same.
    """
    if source is None or not earlier.dim():
        for part in value.parts:
            part.tensor.copy_(earlier)
        return
    target, carry = value.target((value.shape[0], *earlier.shape[1:]))
    for part in target.parts:
        if target is not value:  # read aside first: what is fresh has no state yet
            part.tensor.zero_()
        (row, column), (rows, columns) = part.offsets, part.tensor.shape
        own = source[row : row + rows]
        new = torch.nonzero(own != FRESH).flatten()
        found = earlier[own[new], column : column + columns]
        part.tensor[new.to(part.tensor.device)] = found.to(part.tensor.device)
    carry()


def _opened(run: Path, wanted: str) -> tuple[Commit, Schema, Transforms]:
    """The commit to begin from, its bytes verified, with what its rows were encoded by."""
    directory, place = run / "checkpoints", f"warm_start.run: {run}"
    commits = read_commits(directory)
    if not commits:
        raise InputError(f"{place}: no committed checkpoint; expected the directory of an earlier run")
    chosen = ranked(commits) if wanted == "best" else commits[::-1]
    if not chosen:
        raise InputError(f"{place}: no checkpoint has a score; expected one, or warm_start.checkpoint=newest")
    commit = chosen[0]
    if damage := verify(directory, commit):
        raise InputError(f"{place}: {damage}")
    progress = Progress.model_validate_json((attempt_path(directory, commit) / "progress.json").read_text())
    transforms = Transforms.load(str(run / "transforms"))
    if transforms.fingerprint != progress.transforms:
        expected = f"{progress.transforms:.12}, as its checkpoint says"
        raise InputError(f"{place}: its transforms have fingerprint {transforms.fingerprint:.12}; expected {expected}")
    return commit, Schema.model_validate(progress.config["schema"]), transforms


def _has_past(name: str, learned: Set[str], optimizer: bool) -> bool:
    """Whether a tensor may continue an earlier one; what a weighting has observed may not."""
    if name.startswith("optimizer/"):
        return optimizer
    return not name.startswith("model/objective.") or name in learned


def _table(name: str, state: TrainState) -> str:
    """Table behind the name of a weight or of its optimizer state."""
    return table_of(name.rsplit(".weight", 1)[0], state.model.module.model.embeddings.prefixes)


def _require_same_inputs(origin: Origin, schema: Schema, world: World) -> None:
    """Weights know features and tasks by place only: the places must be those of before."""
    for path, now, before in (
        ("schema.tasks", _tasks(schema), _tasks(origin.schema)),
        ("schema.features", _inputs(schema), _inputs(origin.schema)),
    ):
        for place, (got, expected) in enumerate(zip_longest(now, before, fillvalue="none")):
            if got != expected:
                message = f"{path}.{place}: got {got!s:.120}; expected {expected!s:.120} {_ADVICE}"
                raise collective_error(f"warm_start.run: {origin.lineage.run}: {message}", world)


def _tasks(schema: Schema) -> list[str]:
    return [f"{task.name} ({task.loss})" for task in schema.tasks]


def _inputs(schema: Schema) -> list[dict[str, Any]]:
    return [feature.model_dump(include=_INPUTS, exclude_defaults=True) for feature in schema.features]


def _require_same_shapes(
    origin: Origin, live: Mapping[str, TensorLayout], known: Mapping[str, tuple[int, ...]], world: World
) -> None:
    """Every tensor must have an earlier one of its shape, and the reverse; tables may have other rows."""
    shapes = {
        name: shape for own in all_gather(_shapes(live), world) for name, shape in own.items()
    }  # own tables' only
    odd = {name for name in shapes.keys() ^ known.keys() if _OBJECTIVE not in name}
    for name in live.keys() & known.keys():
        now, before = live[name].shape, known[name]
        if not live[name].fits((now[0], *before[1:]) if _TABLE in name and now else before):
            odd.add(name)
    first = min((name for names in all_gather(odd, world) for name in names), default=None)
    if first is not None:
        advice = f"{_ADVICE}, or with warm_start.optimizer=false" if first.startswith("optimizer/") else _ADVICE
        message = f"{first}: got shape {shapes.get(first, 'none')}; expected {known.get(first, 'none')} {advice}"
        raise collective_error(f"warm_start.run: {origin.lineage.run}: {message}", world)


def _shapes(live: Mapping[str, TensorLayout]) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in live.items()}


def _tell(origin: Origin, transforms: Transforms, kept: int, optimizer: bool, world: World) -> None:
    if not world.is_rank_zero:
        return
    before = origin.transforms  # as far as the two fits differ, the same number is another input now
    rescaled = sum(
        now != before.statistics.get(name) or transforms.boundaries.get(name) != before.boundaries.get(name)
        for name, now in transforms.statistics.items()
    )
    log.info(
        "warm start from %s, step %d: %d table rows carried over by key, optimizer state %s",
        origin.lineage.run,
        origin.lineage.step,
        kept,
        "too" if optimizer else "fresh",
    )
    if rescaled:
        log.warning("warm start: %d numbers are scaled otherwise than before; data.extends keeps scaling", rescaled)
