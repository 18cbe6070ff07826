"""The doctor's checks: what can be said of the data before any training, in one streaming pass and bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa

from ranking.data.columns import RawRows
from ranking.data.drift import Drift, measure
from ranking.data.encode import Encoder
from ranking.data.findings import LEVELS, DoctorReport, leaks, of_drift, of_features, of_tasks
from ranking.data.profile import Profile
from ranking.data.transforms import Transforms
from ranking.schema import DenseFeature, Schema


def examine(
    schema: Schema, transforms: Transforms, splits: Mapping[str, Iterable[RawRows | pa.Table]], limit: int | None = None
) -> DoctorReport:
    """Examine every split, and compare the others' feature distributions with the first one's.

    Args:
        schema: of the data.
        transforms: fitted on the training split.
        splits: raw tables by name of the split, the training split first; each is read once.
        limit: rows read of each split at most; all when left out.

    Raises:
        InputError: the transforms do not fit the schema; whatever is wrong with the data becomes a finding.
    """
    encoder = Encoder(schema, transforms)
    seen = [Profile.of(name, encoder, tables, limit) for name, tables in splits.items()]
    features = tuple(feature for profile in seen for feature in profile.features)
    tasks = tuple(task for profile in seen for task in profile.tasks)
    drift = tuple(moved for other in seen[1:] for moved in drifts(schema, seen[0], other))
    findings = [finding for profile in seen for finding in profile.findings()]
    findings += [*leaks(schema), *of_features(features), *of_tasks(schema, tasks), *of_drift(drift)]
    return DoctorReport(
        rows={profile.name: profile.rows for profile in seen},
        tasks=tasks,
        features=features,
        drift=drift,
        findings=tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level))),
    )


def drifts(schema: Schema, reference: Profile, other: Profile) -> Iterator[Drift]:
    """How far every feature that both data sets have values of moved; ids must come from the same encoder."""
    for feature in schema.features:
        samples = [profile.samples.get(feature.name) for profile in (reference, other)]
        if samples[0] is not None and samples[1] is not None and samples[0].size and samples[1].size:
            yield measure(other.name, feature.name, isinstance(feature, DenseFeature), samples[0], samples[1])
