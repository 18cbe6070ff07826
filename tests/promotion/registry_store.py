"""A real MLflow store with one packaged model, for the tests of the registry."""

import itertools
import logging
import warnings

import mlflow
import pandas as pd
import pytest
import sqlalchemy

from ranking.promotion.registry import Registry
from ranking.promotion.verdict import Check, Verdict

PASSED = Verdict((Check("auc_change", "click", True, "> -0.0020", 0.01, 0.005, 0.015),))
FAILED = Verdict(
    (Check("auc_change", "click", False, "> -0.0020", -0.01, -0.015, -0.005), Check("ece", "like", False, "<= 0.1"))
)
WRITES = (
    "create_registered_model",
    "create_model_version",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "set_model_version_tag",
    "delete_model_version_tag",
)
NAMES = (f"ranker-{number}" for number in itertools.count())

MODEL = """
import mlflow
import pandas as pd
class Scorer(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: pd.DataFrame, params=None):
        return model_input[["x"]]
mlflow.models.set_model(Scorer())
"""


def without_fsync(connection, _) -> None:
    """For speed only."""
    connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture(scope="module")
def registry_store(tmp_path_factory):
    """An MLflow database with one packaged model: (tracking URI, model id, run id)."""
    folder, before = tmp_path_factory.mktemp("registry"), mlflow.get_tracking_uri()
    uri = f"sqlite:///{folder}/mlflow.db"
    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", without_fsync)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        for name in ("mlflow", "alembic"):
            patch.setattr(logging.getLogger(name), "level", logging.ERROR)
        mlflow.set_tracking_uri(uri)
        yield uri, *packaged(folder)
        mlflow.set_tracking_uri(before)
    sqlalchemy.event.remove(sqlalchemy.Engine, "connect", without_fsync)


def packaged(folder) -> tuple[str, str]:
    """Model id and run id of a packaged model that hands its input back."""
    (folder / "model.py").write_text(MODEL)
    example = pd.DataFrame({"x": [0.25]})
    experiment = mlflow.create_experiment("ranking", artifact_location=(folder / "artifacts").as_uri())
    with warnings.catch_warnings(), mlflow.start_run(experiment_id=experiment) as run:
        warnings.simplefilter("ignore")  # MLflow's own, about type hints
        signature = mlflow.models.infer_signature(example, example)
        path = str(folder / "model.py")
        info = mlflow.pyfunc.log_model(name="model", python_model=path, signature=signature, pip_requirements=[])
    return info.model_id, run.info.run_id


class Watched(Registry):
    """Knows the client, to look at the store behind the registry's back and to break it."""

    @property
    def client(self) -> mlflow.MlflowClient:
        return self._client

    def told(self) -> list[tuple[str, int | None, int]]:
        """(action, champion before, version) of every decision that counts."""
        return [(d.action, d.before, d.version) for d in self.audit.decisions() if not d.void]

    def tags(self, version: int) -> dict[str, str]:
        return self.client.get_model_version(self.name, str(version)).tags

    def aliases(self) -> dict[str, int]:
        return {alias: int(version) for alias, version in self.client.get_registered_model(self.name).aliases.items()}


@pytest.fixture
def registry(registry_store) -> Watched:
    """A registered model of its own with four versions, none of them champion."""
    uri, model_id, run_id = registry_store
    registry = Watched(uri, next(NAMES))
    for _ in range(4):
        registry.register(f"models:/{model_id}", run_id, {"manifest": "abc"})
    return registry


def another(registry: Registry) -> Watched:
    """The same model, seen by another process."""
    return Watched(registry._uri, registry.name)


def lineage(registry: Registry) -> list[tuple[int, int | None, int | None]]:
    """(version, replaces, replaced by) of every version that was promoted and not rolled back."""
    promoted = [entry for entry in registry.history() if entry.promoted_at and not entry.rolled_back_at]
    return [(entry.version, entry.replaces, entry.replaced_by) for entry in promoted]


def promoted(registry: Registry, *versions: int) -> None:
    for before, version in itertools.pairwise((None, *versions)):
        registry.promote(version, PASSED, before)
