"""The audit trail of a registered model: every decision about its champion, in one order that nobody can fork.

MLflow moves aliases without compare-and-swap, but it numbers the versions of a model itself. So the trail is a model of
its own, `<name>.history`: a decision is a version of it, all of whose facts are tags, and its number is its place. A
decision that changes the champion names the one it follows; of two that follow the same one, the first counts.
"""

from __future__ import annotations

import getpass
import socket
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError

from ranking.promotion.store import ModelStore
from ranking.redact import redact_text
from ranking.schema import Frozen

Move = Literal["promoted", "approved", "rolled_back", "adopted"]
Action = Literal[Move, "rejected", "nominated", "declined"]

_LONGEST = 90_000  # characters; MLflow takes 100,000 in a tag of a version


class Decision(Frozen):
    """One line of the trail.

    Attributes:
        number: its place; 0 before it is written.
        action: promoted, approved (promoted by a person), rolled_back or adopted (set by hand, found by a job), which
            change the champion; rejected, nominated (waits for approval) or declined, which do not.
        version: the version it is about; after a change, the champion.
        before: the champion when it was taken, None where there was none.
        follows: number of the change of the champion before it, 0 for the first.
        at: when, ISO 8601.
        by: who: what `--by` said, else user and host of the job.
        reason: why, in one line.
        manifest: digest of the rows that both models were scored on.
        verdict: the gate's checks as JSON, see `Verdict.dump`.
        nonce: tells this decision from any other.
        settled: aliases and tags of the versions say the same.
        void: another change came first, so that this one never happened.
    """

    number: int = 0
    action: Action
    version: int
    before: int | None = None
    follows: int = 0
    at: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    by: str = Field(default_factory=lambda: whoami())
    reason: str = ""
    manifest: str = ""
    verdict: str = ""
    nonce: str = Field(default_factory=lambda: uuid.uuid4().hex)
    settled: bool = False
    void: bool = False

    @property
    def moves(self) -> bool:
        """Whether it changes the champion."""
        return self.action in get_args(Move) and not self.void


class Audit:
    """The trail of one registered model; every method raises RegistryError when MLflow cannot be reached.

    Args:
        model: the registered model whose champion it is about.
    """

    def __init__(self, model: ModelStore) -> None:
        """Nothing is contacted yet."""
        self._store = model.beside(f"{model.name}.history")

    def decisions(self) -> list[Decision]:
        """Every decision, oldest first, those that never happened marked as void."""
        return list(_replay(chain.from_iterable(map(_read, self._store.versions()))))

    def head(self) -> Decision | None:
        """The newest change of the champion."""
        return next((found for found in reversed(self._recent()) if found.moves), None)

    def write(self, decision: Decision) -> Decision:
        """Append a decision.

        Returns:
            What stands in the trail; void where another change of the champion came first.
        """
        self._store.register(f"decision:/{decision.version}", tags=_tags(decision))
        recent = (found for found in self._recent() if found.nonce == decision.nonce)
        return next(recent, None) or next(found for found in self.decisions() if found.nonce == decision.nonce)

    def settle(self, decision: Decision) -> None:
        """Note that aliases and tags of the versions say what the decision says."""
        self._store.tag(decision.number, {"settled": "true"})

    def _recent(self) -> list[Decision]:
        """Decisions from the newest settled change on, oldest first: what came before it cannot void what follows."""
        found: list[Decision] = []
        for decision in chain.from_iterable(map(_read, self._store.newest())):
            found.insert(0, decision)
            if decision.moves and decision.settled:
                break
        return list(_replay(found))


def whoami() -> str:
    """User and host of this process; the user's number where it has no name."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user need not be in its passwd
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _tags(decision: Decision) -> dict[str, str]:
    values = decision.model_dump(exclude={"number", "settled", "void"}, exclude_none=True)
    return {key: redact_text(str(value))[:_LONGEST] for key, value in values.items() if value != ""}


def _read(version: Any) -> Iterator[Decision]:
    """The decision of a version; none where somebody put a version there that is no decision."""
    known = {key: value for key, value in version.tags.items() if key in Decision.model_fields}
    with suppress(ValidationError):
        yield Decision.model_validate({**known, "number": int(version.version)})


def _replay(decisions: Iterable[Decision]) -> Iterator[Decision]:
    """Mark the changes that lost against an earlier one; what a repeated request wrote twice is such a one too."""
    newest = 0
    for decision in decisions:
        lost = decision.moves and newest > decision.follows
        if decision.moves and not lost:
            newest = decision.number
        yield decision.model_copy(update={"void": True}) if lost else decision
