"""Challenger and champion side by side: the same rows, the same machine, and the gate's verdict on them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.job import say
from pipelines.offline import ModelOutput, assess
from pipelines.slicing import columns, slices
from ranking.config import RunConfig
from ranking.data.manifest import Manifest, read_manifest
from ranking.data.shard import read_footer
from ranking.errors import InputError, ServiceError, listed
from ranking.promotion.budgets import Cost, LatencyConfig, judge_latency, judge_shadow, judge_size
from ranking.promotion.gate import decide
from ranking.promotion.registry import Registry
from ranking.promotion.verdict import Check, Verdict
from ranking.serving.ranker import Ranker

_WARM_UP = 3  # requests
_LACKING_SHOWN = 5  # columns


@dataclass(frozen=True)
class Version:
    """A registered version, opened.

    Attributes:
        number: of the version.
        ranker: the model.
        mib: size of its artefact.
    """

    number: int
    ranker: Ranker
    mib: float

    @classmethod
    def open(cls, registry: Registry, number: int) -> Version:
        """Download and open a version; its code is not run."""
        from ranking.serving.packaging import downloaded  # importing MLflow takes seconds, which wrong options need not

        with downloaded(registry.uri(number)) as folder:
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            return cls(number, Ranker.load(folder), size / 2**20)


class BothVersions(NamedTuple):
    """Both versions and what they say about the same rows.

    Attributes:
        rows: the rows, with every column that either reads.
        challenger: the version under test.
        champion: the version it would replace, None where there is none.
        challenger_output: what the challenger says.
        champion_output: what the champion says.
    """

    rows: Manifest
    challenger: Version
    champion: Version | None
    challenger_output: ModelOutput
    champion_output: ModelOutput | None

    @property
    def aligned(self) -> bool:
        """Whether there are both, on the same rows: quarantine can take rows from one of them."""
        own, other = self.challenger_output, self.champion_output
        return other is not None and np.array_equal(own.predictions.rows, other.predictions.rows)


def judge_versions(
    registry: Registry, challenger: int, champion: int | None, rows: Manifest, config: RunConfig
) -> Verdict:
    """Load and score both versions on the same rows, and let the gate decide.

    Args:
        registry: where the versions are.
        challenger: the version under test.
        champion: the version it would replace, None where there is none.
        rows: the pinned rows; columns that only the champion or a slice reads are looked for in the same files.
        config: the gate, the labels, and how to read.

    Raises:
        InputError: the challenger lacks a task of the configuration, or a model cannot read the rows.
    """
    both = score_both(registry, challenger, champion, rows, config)
    rows, own, old, *_ = both
    verdict = _judge(both, config)
    origins = tuple(_origins(registry, own, old, rows))
    verdict = Verdict((*verdict.checks, *_costs(own, old, rows, config)), (*origins, *verdict.notes))
    say(f"version {challenger} against {f'champion {champion}' if champion else 'the floors'}, {rows.rows} rows\n")
    say(verdict.render())
    return verdict


def score_both(
    registry: Registry, challenger: int, champion: int | None, rows: Manifest, config: RunConfig
) -> BothVersions:
    """Load both versions and score them, each by its own artefact; arguments and errors as for `judge_versions`."""
    own = Version.open(registry, challenger)
    old = None if champion is None else Version.open(registry, champion)
    rows = _widened(rows, [*config.schema.columns(), *own.ranker.inputs, *columns(config)], config)
    rows = _widened_for(old, rows, config) if old else rows
    new, before = _assess(own, rows, config), old and _assess(old, rows, config)
    if new.missing:
        raise InputError(
            f"schema.tasks: version {challenger} does not predict {list(new.missing)}; "
            f"it predicts {list(own.ranker.schema.task_names)}"
        )
    return BothVersions(rows, own, old, new, before)


def _judge(both: BothVersions, config: RunConfig) -> Verdict:
    """Quality, slices and shadow scores."""
    rows, own, _, new, before = both
    if before is None:
        return decide(new.predictions, None, config.gate)
    parts = slices(own.ranker, rows, config)
    verdict = decide(new.predictions, before.predictions, config.gate, parts, before.dropped)
    if not both.aligned:  # which fails
        return verdict
    shadow, note = judge_shadow(new.score, before.score, config.gate.shadow)
    return Verdict((*verdict.checks, *shadow), (*verdict.notes, note))


def _costs(own: Version, old: Version | None, rows: Manifest, config: RunConfig) -> list[Check]:
    """Latency and size."""
    fast, slow = _latencies(own, old, rows, config)
    cost, base = Cost(fast, own.mib), None if old is None else Cost(slow, old.mib)
    return [*judge_latency(cost, base, config.gate.latency), *judge_size(cost, config.gate.max_artefact_mib)]


def read_pinned(path: Path, config: RunConfig) -> Manifest:
    """The pinned manifest, if the files are still the ones it names.

    Raises:
        InputError: it is missing, damaged, or the data changed under it.
    """
    manifest = read_manifest(path)
    return _again(manifest, manifest.columns.names, config, str(path))


def _widened(rows: Manifest, wanted: list[str], config: RunConfig) -> Manifest:
    """The same files with the columns wanted beside those it has."""
    names = list(dict.fromkeys([*rows.columns.names, *wanted]))
    if names == rows.columns.names:
        return rows
    try:
        return _again(rows, names, config, "pinned rows")
    except ServiceError:
        raise
    except InputError as error:
        added = listed(names[len(rows.columns.names) :])
        raise InputError(f"{error}; expected {added}, which a model or slice reads") from None


def _widened_for(champion: Version, rows: Manifest, config: RunConfig) -> Manifest:
    """As `_widened`; where the champion is of other data, that is what the error says."""
    try:
        return _widened(rows, list(champion.ranker.inputs), config)
    except ServiceError:
        raise
    except InputError as error:
        there = _column_names(rows, config)
        lacking = [name for name in champion.ranker.inputs if name not in there]
        if not lacking:
            raise
        raise InputError(
            f"registry {config.registry.name}: champion version {champion.number} reads columns that the pinned rows "
            f"lack: {listed(lacking, _LACKING_SHOWN)}; expected rows with them, or another registry.name, which keeps "
            "models of different data apart"
        ) from error


def _column_names(rows: Manifest, config: RunConfig) -> set[str]:
    """All columns of the first file, those that directories give among them."""
    url, store = rows.shards[0].url, config.data.store
    shard, columns = read_footer(url, store.info(url), store)
    return {*columns.names, *shard.partition}


def _again(manifest: Manifest, names: list[str], config: RunConfig, key: str) -> Manifest:
    now = config.data.manifest([shard.url for shard in manifest.shards], names, key)
    now.require(manifest)
    return now


def _assess(version: Version, rows: Manifest, config: RunConfig) -> ModelOutput:
    try:
        return assess(version.ranker, rows, config)
    except ServiceError:
        raise
    except InputError as error:
        raise InputError(f"{config.registry.name} version {version.number}: {error}") from None


def _origins(registry: Registry, own: Version, old: Version | None, rows: Manifest) -> Iterator[str]:
    """Where the rows come from, and whether each version was tested on the same ones when it was trained."""
    yield f"rows: manifest {rows.digest[:12]}"
    for whose, version in (("challenger", own), ("champion", old)):
        if version is not None:
            tested = registry.version(version.number).tags.get("test_manifest", "")
            if tested != rows.digest:
                yield f"the {whose} was tested on manifest {tested[:12] or '(unknown)'} when it was trained"


def _latencies(own: Version, old: Version | None, rows: Manifest, config: RunConfig) -> list[float | None]:
    """95th percentile of a request in milliseconds of each, in turns, so that a busy moment meets both."""
    settings = config.gate.latency
    if not settings.bounded:
        return [None, None]
    _, table = next(config.data.row_groups(rows))
    versions = [own, *([old] if old else [])]
    requests = [_request(table.select(list(each.ranker.inputs)), settings) for each in versions]
    times = np.empty((settings.requests, len(versions)))
    for turn in range(-_WARM_UP, settings.requests):
        for place, version in enumerate(versions):
            began = time.perf_counter()
            version.ranker.predict(requests[place])
            times[max(turn, 0), place] = 1000 * (time.perf_counter() - began)
    found: list[float | None] = [float(value) for value in np.quantile(times, 0.95, axis=0)]
    return [*found, None][:2]


def _request(table: pa.Table, settings: LatencyConfig) -> pa.Table:
    """Exactly `rows` rows, repeated where a row group has fewer."""
    return table.take(pa.array(np.arange(settings.rows) % table.num_rows))
