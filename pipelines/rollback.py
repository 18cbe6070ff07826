"""Rollback: put the previous champion back."""

from __future__ import annotations

from pipelines.job import job, say
from pipelines.promote import By, Reason
from ranking.config import RunConfig
from ranking.promotion.registry import Registry


def rollback(config: RunConfig, by: By = "", reason: Reason = "") -> None:
    """Move the champion alias back to the version before it; once more goes back one further."""
    registry = Registry.open(config.tracking.uri, config.registry.name)
    before, now = registry.rollback(by, reason)
    say(f"{registry.name}: champion is version {now} again, in place of {before or 'a deleted version'}")


main = job(rollback)

if __name__ == "__main__":
    main()
