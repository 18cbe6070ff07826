"""Damaged row groups that a job may go on without: bounded, counted, and named in its report."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from threading import Lock

from pydantic import Field

from ranking.data.manifest import Manifest
from ranking.data.storage import DamageError
from ranking.errors import InputError
from ranking.schema import Frozen

log = logging.getLogger(__name__)


class QuarantineConfig(Frozen):
    """What damaged pages do."""

    max_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Largest share of a split's rows that damaged row groups may take; they weigh 0 and nothing else "
        "moves. 0: the first one ends the job.",
    )


class Damage(Frozen):
    """One row group that could not be read.

    Attributes:
        url: file.
        row_group: within the file.
        rows: as the footer says.
        reason: what reading it met.
    """

    url: str
    row_group: int
    rows: int
    reason: str


class Quarantine:
    """The damaged row groups of one manifest; any number of threads may add to it.

    Args:
        manifest: the data.
        config: how much of it may be damaged.
        known: what an earlier process found, of this or of other manifests.

    Attributes:
        agreed: what all ranks know of, in the order of the manifest.
    """

    def __init__(self, manifest: Manifest, config: QuarantineConfig, known: Iterable[Damage] = ()) -> None:
        """Start with what is known."""
        self._manifest, self._config, self._lock = manifest, config, Lock()
        places = {shard.url: number for number, shard in enumerate(manifest.shards)}
        self._found = {(places[each.url], each.row_group): each for each in known if each.url in places}
        self.agreed = self._sorted()

    def add(self, row_group: int, error: DamageError) -> None:
        """Take note of a row group of the manifest.

        Raises:
            InputError: more rows are damaged than may be.
        """
        shard, group = self._manifest.locate(row_group)
        url, rows = self._manifest.shards[shard].url, self._manifest.shards[shard].row_groups[group]
        if not self._config.max_share:
            raise error
        with self._lock:
            self._found.setdefault((shard, group), Damage(url=url, row_group=group, rows=rows, reason=str(error)))
        self._require_bound()

    @property
    def found(self) -> tuple[Damage, ...]:
        """What this rank knows of."""
        with self._lock:
            return self._sorted()

    @property
    def pending(self) -> bool:
        """Whether this rank has found something the others may not know of."""
        return len(self._found) > len(self.agreed)

    def agree(self, found: Iterable[tuple[Damage, ...]], tell: bool = True) -> None:
        """Take over what each rank found, the same on every rank, and `tell` the log what is new.

        Raises:
            InputError: together they are more than may be; on every rank.
        """
        places = {shard.url: number for number, shard in enumerate(self._manifest.shards)}
        known = set(self.agreed)
        union = {(places[each.url], each.row_group): each for part in found for each in part}
        for place, each in sorted(union.items()):
            if tell and each not in known:
                log.warning("quarantined %d rows: %s", each.rows, each.reason)
            self._found.setdefault(place, each)
        self.agreed = tuple(union[place] for place in sorted(union))
        self._require_bound()

    def _sorted(self) -> tuple[Damage, ...]:
        return tuple(self._found[place] for place in sorted(self._found))

    def _require_bound(self) -> None:
        found = self.found
        rows, most = sum(each.rows for each in found), self._config.max_share
        if rows > most * self._manifest.rows:
            raise InputError(
                f"data.quarantine.max_share: got {rows} damaged rows of {self._manifest.rows}, the last in "
                f"{found[-1].reason} (expected a share of at most {most:g})"
            )
