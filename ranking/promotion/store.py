"""One registered model in MLflow: its versions, aliases and tags, with every failure turned into one line."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ranking.distributed.world import shorten_mlflow_retries
from ranking.errors import InputError, first_line
from ranking.redact import redact_text

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_MISSING, _EXISTS = "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"


class RegistryError(RuntimeError):
    """The registry cannot be reached, or an alias does not stay where it is put: one line, exit code 1."""


class ModelStore:
    """Reads and writes of one registered model.

    Every method raises RegistryError when MLflow cannot be reached (after MLflow's own retries,
    `MLFLOW_HTTP_REQUEST_MAX_RETRIES`).
    """

    def __init__(self, uri: str, name: str) -> None:
        """Keep the settings; nothing is contacted yet.

        Args:
            uri: tracking URI. It becomes MLflow's default in this process, by which MLflow resolves `models:/`.
            name: registered model.
        """
        self._uri, self.name = uri, name

    @classmethod
    def open(cls, uri: str, name: str) -> Self:
        """For jobs that come after training, and that a person waits for: a registry that is there, or an error soon.

        MLflow would create a missing database, and try a server out of reach for five minutes.

        Raises:
            InputError: the SQLite database is missing.
        """
        kind, _, place = uri.partition(":///")
        if kind.startswith("sqlite") and not Path(place.partition("?")[0].removeprefix("file:")).is_file():
            raise InputError(f"tracking.uri: {uri}: no such database; expected one that `train` wrote")
        shorten_mlflow_retries()
        return cls(uri, name)

    def beside(self, name: str) -> ModelStore:
        """Another registered model of the same MLflow."""
        other = ModelStore(self._uri, name)
        other.__dict__["_client"] = self._client
        return other

    def register(self, uri: str, run_id: str | None = None, tags: Mapping[str, str] | None = None) -> int:
        """Add a version, and the model itself where it is not there yet; no alias moves.

        Args:
            uri: `models:/<model id>`, or where the packaged model lies.
            run_id: MLflow run that trained it.
            tags: tags of the version, such as the checkpoint and the manifest digest.

        Returns:
            The number that MLflow gives it, and no other version.
        """
        settings: dict[str, Any] = {"run_id": run_id, "tags": dict(tags or {}), "model_id": model_id(uri)}
        with self._reaching():
            try:
                version = self._client.create_model_version(self.name, uri, **settings)
            except _mlflow_exception() as error:
                if error.error_code != _MISSING:
                    raise
                self._create_model()
                version = self._client.create_model_version(self.name, uri, **settings)
            return int(version.version)

    def versions(self) -> list[ModelVersion]:
        """Every version, oldest first."""
        return sorted(self.newest(200), key=lambda version: int(version.version))

    def newest(self, at_once: int = 20) -> Iterator[ModelVersion]:
        """Versions from the newest on, asked for a page at a time; one added meanwhile may be missing."""
        seen: set[str] = set()
        token = None
        while token != "":
            with self._reaching():
                query = f"name = '{self.name}'"
                page = self._client.search_model_versions(query, at_once, ["version_number DESC"], token)
            token = page.token or ""
            yield from (version for version in page if version.version not in seen)  # an addition shifts the pages
            seen |= {version.version for version in page}

    def version(self, number: int) -> ModelVersion:
        """One version.

        Raises:
            InputError: there is none of that number.
        """
        with self._reaching(f"no version {number}"):
            return self._client.get_model_version(self.name, str(number))

    def existing(self, number: str | int | None) -> int | None:
        """The number, if there is a version of it."""
        try:
            return int(self.version(int(number)).version) if number else None
        except InputError:
            return None

    def aliases(self) -> dict[str, int]:
        """All aliases at one moment."""
        try:
            with self._reaching("no such model"):
                found = self._client.get_registered_model(self.name).aliases
        except InputError:
            return {}
        return {alias: int(version) for alias, version in found.items()}

    def move(self, alias: str, version: int, guard: Callable[[], None] = lambda: None) -> None:
        """Set an alias and read it back; two processes that create one at once can make the first attempt fail.

        Args:
            alias: the alias.
            version: where it shall point.
            guard: called right before each attempt; raises where the alias may not be moved any more.
        """
        reason = "another process moves it"
        for pause in (0.0, 0.0, 0.05, 0.1, 0.2):  # seconds; the second look is the one that reads back
            time.sleep(pause * random.uniform(0.5, 1.5))
            if self.aliases().get(alias) == version:
                return
            guard()
            try:
                self._client.set_registered_model_alias(self.name, alias, str(version))
            except _mlflow_exception() as error:
                reason = _brief(error)
        raise RegistryError(f"registry {self.name}: {alias} cannot be moved to version {version}: {reason}")

    def drop(self, alias: str, version: int | None = None) -> bool:
        """Delete an alias; where `version` is given, only if it points there.

        It may point elsewhere a moment later, and is deleted all the same.

        Returns:
            Whether it was deleted.
        """
        if version is not None and self.aliases().get(alias) != version:
            return False
        with self._reaching():
            self._client.delete_registered_model_alias(self.name, alias)
        return True

    def tag(self, version: int, tags: Mapping[str, str | None]) -> None:
        """Set tags, then delete those that are None, in their order; a new verdict replaces all of an old one."""
        present = self.version(version).tags
        stale = [key for key in present if key.startswith("gate.") and "gate.status" in tags and key not in tags]
        with self._reaching(f"no version {version}"):
            for key, value in tags.items():
                if value is not None and present.get(key) != value:
                    self._client.set_model_version_tag(self.name, str(version), key, value)
            for key in [*stale, *(key for key, value in tags.items() if value is None and key in present)]:
                self._client.delete_model_version_tag(self.name, str(version), key)

    def _create_model(self) -> None:
        try:
            self._client.create_registered_model(self.name)
        except _mlflow_exception() as error:
            if error.error_code != _EXISTS:
                raise

    @cached_property
    def _client(self) -> MlflowClient:
        import mlflow  # takes seconds, and only jobs that use the registry need it

        mlflow.set_tracking_uri(self._uri)
        return mlflow.MlflowClient(self._uri)

    @contextmanager
    def _reaching(self, missing: str = "") -> Iterator[None]:
        """Turn failures of MLflow into one line; what does not exist into InputError where `missing` names it."""
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (_mlflow_exception(), SQLAlchemyError, ImportError, OSError) as error:
            if missing and getattr(error, "error_code", "") == _MISSING:
                raise InputError(f"registry {self.name}: {missing}") from None
            raise RegistryError(f"registry {self.name} at {redact_text(self._uri)}: {_brief(error)}") from error


def model_id(source: str) -> str | None:
    """Id of the LoggedModel that a source `models:/<id>` names; None for any other source.

    A tracking server asks for it beside such a source, a database does not.
    """
    scheme, _, rest = source.partition("models:/")
    return rest if not scheme and rest.startswith("m-") else None


def _mlflow_exception() -> type[Any]:
    from mlflow.exceptions import MlflowException

    return MlflowException


def _brief(error: Exception) -> str:
    return redact_text(first_line(error))[:300]
