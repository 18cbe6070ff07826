"""The MLflow registry: versions of one model, and the aliases champion, challenger and previous_champion.

MLflow moves an alias without compare-and-swap. So every move is checked before and read back after, the champion
moves last, and what the next step must know is in tags before it moves: after a crash the same call finishes the job.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from ranking.errors import InputError
from ranking.schema import Frozen
from ranking.tracking.gate import Verdict
from ranking.tracking.redact import redact_text

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous_champion"
_MISSING = "RESOURCE_DOES_NOT_EXIST"


class RegistryConfig(Frozen):
    """Which registered model a run proposes its versions to."""

    name: str = Field("ranker", pattern=r"^[A-Za-z0-9_. -]+$", description="Name of the registered model in MLflow.")


class RegistryError(RuntimeError):
    """The registry cannot be reached, or an alias does not stay where it is put: one line, exit code 1."""


class ChampionChangedError(RegistryError):
    """The champion is no longer the version compared with: evaluate again, against the new one."""


class Entry(NamedTuple):
    """One version, as `Registry.history` tells it; times in ISO 8601, "" for what has not happened.

    Attributes:
        version: number of the version.
        aliases: aliases it carries now.
        promoted_at: when it became champion.
        replaces: the champion before it.
        replaced_by: the champion after it.
        rolled_back_at: when a rollback took it off.
        status: `gate.status`: passed, failed, or "" where no gate has seen it.
        reason: `gate.reason`.
        run_id: MLflow run it comes from.
    """

    version: int
    aliases: tuple[str, ...]
    promoted_at: str
    replaces: int | None
    replaced_by: int | None
    rolled_back_at: str
    status: str
    reason: str
    run_id: str


class Registry:
    """The versions of one registered model.

    Every method raises RegistryError when MLflow cannot be reached (after MLflow's own retries,
    `MLFLOW_HTTP_REQUEST_MAX_RETRIES`); whatever the moment, the champion stays a version that passed.
    """

    def __init__(self, uri: str, name: str) -> None:
        """Keep the settings; nothing is contacted yet.

        Args:
            uri: tracking URI. It becomes MLflow's default in this process, by which MLflow resolves `models:/`.
            name: registered model.
        """
        self._uri, self.name = uri, name

    def register(self, model_uri: str, run_id: str | None = None, tags: Mapping[str, str] | None = None) -> int:
        """Add a version; no alias moves.

        Args:
            model_uri: `models:/<model id>`, or where the packaged model lies.
            run_id: MLflow run that trained it.
            tags: tags of the version, such as the checkpoint and the manifest digest.

        Returns:
            The number of the new version.
        """
        with self._reaching():
            self._create_model()
            version = self._client.create_model_version(self.name, model_uri, run_id, dict(tags or {}))
            return int(version.version)

    def uri(self, version: int) -> str:
        """What to load a version by."""
        return f"models:/{self.name}/{version}"

    def model_id(self, version: int) -> str | None:
        """Id of the LoggedModel, which carries the metrics; None where the version was registered from elsewhere."""
        scheme, _, rest = str(self._version(version).source).partition("models:/")
        return rest if not scheme and rest.startswith("m-") else None

    def champion(self) -> int | None:
        """The version that serves.

        Raises:
            InputError: it is gone though there was one: MLflow drops the alias of a version that is deleted.
        """
        aliases = self._aliases()
        if CHAMPION not in aliases and PREVIOUS in aliases:
            raise InputError(
                f"registry {self.name}: no champion, its version was deleted; "
                f"expected a rollback, to version {aliases[PREVIOUS]}"
            )
        return aliases.get(CHAMPION)

    def challenger(self) -> int | None:
        """The version under validation; never the champion, which a promotion cut short leaves under both aliases."""
        aliases = self._aliases()
        challenger = aliases.get(CHALLENGER)
        return None if challenger == aliases.get(CHAMPION) else challenger

    def previous(self) -> int | None:
        """The version that a rollback returns to."""
        aliases = self._aliases()
        champion, previous = aliases.get(CHAMPION), aliases.get(PREVIOUS)
        if champion is None or previous != champion:
            return previous
        return self._replaced(champion)  # a promotion or rollback stopped between its two moves

    def propose(self, version: int) -> None:
        """Make a version the challenger, the newest proposal taking the alias.

        Raises:
            InputError: there is no such version, or it has been champion.
        """
        self._refuse_repeat(version, self.champion())
        self._move(CHALLENGER, version)

    def promote(self, version: int, verdict: Verdict, expected_champion: int | None) -> None:
        """Make a version the champion; the same call again finishes one that was cut short.

        Args:
            version: the version that `verdict` is about.
            verdict: of the gate; its checks become tags.
            expected_champion: the version it was compared with, None where there was none.

        Raises:
            ValueError: the verdict is not to promote.
            InputError: there is no such version, or it has been champion before.
            ChampionChangedError: another version is champion by now; aliases are as that version's promotion left them.
        """
        if not verdict.promote:
            raise ValueError(f"version {version}: {verdict.reason}")
        champion = self.champion()
        if champion is not None:
            self._settle(champion)
        if champion == version and self._replaced(version) == expected_champion:
            return
        self._refuse_repeat(version, champion)
        self._refuse_other(expected_champion, champion)
        self._tag(version, verdict.tags() | {"replaces": _text(expected_champion)})
        self._move(CHALLENGER, version)
        self._take_over(version, expected_champion)
        self._settle(version)

    def reject(self, version: int, verdict: Verdict) -> None:
        """Write the verdict as tags of the version, and take the alias challenger off it; the champion stays.

        Raises:
            ValueError: the verdict is to promote.
        """
        if verdict.promote:
            raise ValueError(f"version {version}: {verdict.reason}; expected a verdict with a failed check")
        self._tag(version, verdict.tags())
        self._retire_challenger(version)

    def rollback(self) -> tuple[int | None, int]:
        """Put the previous champion back; once more goes back one further.

        Returns:
            The versions (from, to); from None where the champion's version was deleted.

        Raises:
            InputError: there is no previous champion.
        """
        champion = self._aliases().get(CHAMPION)
        if champion is not None:
            self._settle(champion)
        previous = self.previous()
        if previous is None:
            raise InputError(f"registry {self.name}: no previous champion to roll back to; expected two promotions")
        self._move(CHAMPION, previous, partial(self._refuse_other, champion))
        self._settle(previous)
        return champion, previous

    def find(self, tags: Mapping[str, str]) -> Entry | None:
        """The newest version that carries all of `tags`; None where there is none."""
        aliases = self._aliases()
        with self._reaching():
            versions = self._client.search_model_versions(f"name = '{self.name}'")
        return max((_entry(v, aliases) for v in versions if tags.items() <= v.tags.items()), default=None)

    def history(self) -> list[Entry]:
        """Every version, oldest first."""
        aliases = self._aliases()
        with self._reaching():
            versions = self._client.search_model_versions(f"name = '{self.name}'")
        return sorted(_entry(version, aliases) for version in versions)

    def _take_over(self, version: int, expected: int | None) -> None:
        """The two moves of a promotion, the champion last."""
        if expected is not None:
            self._move(PREVIOUS, expected, partial(self._refuse_other, expected))
        try:
            self._move(CHAMPION, version, partial(self._refuse_other, expected))
        except ChampionChangedError:
            champion = self._aliases().get(CHAMPION)
            if champion is not None:
                self._settle(champion)  # for the alias previous_champion
            raise

    def _settle(self, champion: int) -> None:
        """Write what follows from the move of the champion; nothing where that is done.

        After a promotion the champion has no `promoted_at`, or still a `rolled_back_at`; after a rollback it still has
        a `replaced_by`. Each is mended last, so that a crash leaves it to be found.
        """
        tags = self._version(champion).tags
        if "replaces" not in tags:  # made champion by hand
            self._tag(champion, {"replaces": _text(self.previous())})
        before = self._replaced(champion)
        if "promoted_at" not in tags or "rolled_back_at" in tags:
            if before is not None:
                self._tag(before, {"replaced_by": str(champion)})
            self._tag(champion, {"replaced_by": None, "rolled_back_at": None, "promoted_at": _now()})
        elif "replaced_by" in tags:
            after = self._existing(tags["replaced_by"])
            if after is not None:
                self._tag(after, {"replaced_by": str(champion), "rolled_back_at": _now()})
            self._tag(champion, {"replaced_by": None})
        self._publish_previous(before)
        self._retire_challenger(champion)

    def _move(self, alias: str, version: int, guard: Callable[[int | None], None] = lambda champion: None) -> None:
        """Set an alias and read it back; two processes that create one at once can make the first attempt fail."""
        from mlflow.exceptions import MlflowException

        reason = "another process moves it"
        for pause in (0.0, 0.0, 0.05, 0.1, 0.2):  # seconds; the second look is the one that reads back
            time.sleep(pause * random.uniform(0.5, 1.5))
            aliases = self._aliases()
            if aliases.get(alias) == version:
                return
            guard(aliases.get(CHAMPION))
            try:
                self._client.set_registered_model_alias(self.name, alias, str(version))
            except MlflowException as error:
                reason = _brief(error)
        raise RegistryError(f"registry {self.name}: {alias} cannot be moved to version {version}: {reason}")

    def _refuse_other(self, expected: int | None, champion: int | None) -> None:
        if champion != expected:
            raise ChampionChangedError(
                f"registry {self.name}: champion is version {_text(champion) or 'none'}, "
                f"compared with {_text(expected) or 'none'}; expected a new comparison"
            )

    def _refuse_repeat(self, version: int, champion: int | None) -> None:
        """A version in the history twice would make rollbacks go in a circle."""
        tags = self._version(version).tags
        if version == champion or ("promoted_at" in tags and "rolled_back_at" not in tags):
            raise InputError(
                f"registry {self.name}: version {version} has been champion; expected a new version, or a rollback"
            )

    def _publish_previous(self, version: int | None) -> None:
        if version is not None:
            self._move(PREVIOUS, version)
        else:
            self._drop(PREVIOUS)

    def _retire_challenger(self, version: int) -> None:
        if self._aliases().get(CHALLENGER) == version:
            self._drop(CHALLENGER)

    def _drop(self, alias: str) -> None:
        with self._reaching():
            self._client.delete_registered_model_alias(self.name, alias)

    def _replaced(self, version: int) -> int | None:
        """The champion before a version; None for the first one, and where that one was deleted."""
        return self._existing(self._version(version).tags.get("replaces"))

    def _existing(self, number: str | None) -> int | None:
        """The version that a tag names, None where there is none."""
        try:
            return int(self._version(int(number)).version) if number else None
        except InputError:
            return None

    def _version(self, version: int) -> ModelVersion:
        with self._reaching(f"no version {version}"):
            return self._client.get_model_version(self.name, str(version))

    def _aliases(self) -> dict[str, int]:
        """All aliases at one moment."""
        try:
            with self._reaching("no such model"):
                found = self._client.get_registered_model(self.name).aliases
        except InputError:
            return {}
        return {alias: int(version) for alias, version in found.items()}

    def _tag(self, version: int, tags: Mapping[str, str | None]) -> None:
        """Set tags, then delete those that are None, in their order; a new verdict replaces all of an old one."""
        present = self._version(version).tags
        stale = [key for key in present if key.startswith("gate.") and "gate.status" in tags and key not in tags]
        with self._reaching(f"no version {version}"):
            for key, value in tags.items():
                if value is not None and present.get(key) != value:
                    self._client.set_model_version_tag(self.name, str(version), key, value)
            for key in [*stale, *(key for key, value in tags.items() if value is None and key in present)]:
                self._client.delete_model_version_tag(self.name, str(version), key)

    def _create_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    @cached_property
    def _client(self) -> MlflowClient:
        import mlflow  # takes seconds, and only jobs that use the registry need it

        mlflow.set_tracking_uri(self._uri)
        return mlflow.MlflowClient(self._uri)

    @contextmanager
    def _reaching(self, missing: str = "") -> Iterator[None]:
        """Turn failures of MLflow into one line; what does not exist into InputError where `missing` names it."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
            if missing and getattr(error, "error_code", "") == _MISSING:
                raise InputError(f"registry {self.name}: {missing}") from None
            raise RegistryError(f"registry {self.name} at {redact_text(self._uri)}: {_brief(error)}") from error


def _entry(version: Any, aliases: Mapping[str, int]) -> Entry:
    number, tags = int(version.version), version.tags
    return Entry(
        number,
        tuple(sorted(alias for alias, target in aliases.items() if target == number)),
        tags.get("promoted_at", ""),
        _number(tags.get("replaces")),
        _number(tags.get("replaced_by")),
        tags.get("rolled_back_at", ""),
        tags.get("gate.status", ""),
        tags.get("gate.reason", ""),
        version.run_id or "",
    )


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def _text(number: int | None) -> str:
    return "" if number is None else str(number)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _brief(error: Exception) -> str:
    return redact_text(str(error).splitlines()[0])[:300]
