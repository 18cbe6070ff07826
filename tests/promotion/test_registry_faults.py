"""The registry when a process dies, two of them meet, or MLflow is away."""

import itertools
import os
import socket
from contextlib import contextmanager

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from pydantic import ValidationError

from ranking.errors import InputError
from ranking.promotion.registry import Registry, RegistryConfig, RegistryError
from tests.promotion.registry_store import FAILED, PASSED, WRITES, Watched, lineage, promoted


class CrashError(BaseException):
    """The process dies here."""


@contextmanager
def dying(registry: Watched, write: int, seen: set):
    """Die before the n-th write to the store, noting the champion after every write."""
    count = itertools.count()

    def wrap(call):
        def writing(*arguments, **options):
            if next(count) == write:
                raise CrashError
            answer = call(*arguments, **options)
            seen.add(registry.aliases().get("champion"))
            return answer

        return writing

    with pytest.MonkeyPatch.context() as patch:
        for name in WRITES:
            patch.setattr(registry.client, name, wrap(getattr(registry.client, name)))
        yield


def ends(registry: Watched, write: int, seen: set, action) -> bool:
    """Whether an action ends before the n-th write."""
    with dying(registry, write, seen):
        try:
            action()
        except CrashError:
            return False
    return True


def test_a_promotion_cut_short_anywhere_is_finished_by_the_same_call(registry, registry_store):
    promoted(registry, 1, 2)
    chain, done = [None, 1, 2], False
    for write in itertools.count():
        before, old = chain[-2:]
        new, seen = registry.register(f"models:/{registry_store[1]}"), set()
        registry.propose(new)
        done = ends(registry, write, seen, lambda: registry.promote(new, PASSED, old))  # noqa: B023
        assert seen <= {old, new}, "the champion is never missing"
        champion = registry.champion()
        assert registry.previous() == {old: before, new: old}[champion], "a rollback would find its way"
        assert registry.challenger() == {old: new, new: None}[champion], "it is not judged again once it is champion"
        registry.promote(new, PASSED, old)
        assert registry.aliases() == {"champion": new, "previous_champion": old}
        chain.append(new)
        if done:
            break
    assert champion == new
    assert write > 7
    assert lineage(registry) == list(zip(chain[1:], chain[:-1], [*chain[2:], None], strict=True))


def test_a_rollback_cut_short_anywhere_is_finished_by_the_next_call(registry, registry_store):
    promoted(registry, 1)
    done = False
    for write in itertools.count():
        new, seen = registry.register(f"models:/{registry_store[1]}"), set()
        registry.promote(new, PASSED, 1)
        done = ends(registry, write, seen, registry.rollback)
        assert seen <= {1, new}, "the champion is never missing"
        if registry.champion() == new or not registry.audit.head().settled:
            assert registry.rollback() == (new, 1)
        with pytest.raises(InputError, match="no previous champion"):
            registry.rollback()
        assert registry.aliases() == {"champion": 1}
        assert lineage(registry) == [(1, None, None)]
        assert registry.tags(new)["rolled_back_at"]
        if done:
            break
    assert write > 3


@pytest.mark.parametrize("applied", [False, True])
def test_an_alias_that_two_processes_create_at_once_is_tried_again(registry, monkeypatch, applied):
    move, failures = registry.client.set_registered_model_alias, iter([True, False, True, False])

    def racing(*call):
        failing = next(failures)
        if applied or not failing:
            move(*call)
        if failing:
            raise MlflowException("UNIQUE constraint failed: registered_model_aliases.name", BAD_REQUEST)

    monkeypatch.setattr(registry.client, "set_registered_model_alias", racing)
    registry.promote(1, PASSED, None)
    assert registry.aliases() == {"champion": 1}


def test_an_alias_that_cannot_be_moved_is_an_error_of_one_line(registry, monkeypatch):
    promoted(registry, 1)

    def refused(*_):
        raise MlflowException("disk full\nand a long story", BAD_REQUEST)

    with monkeypatch.context() as patch:
        patch.setattr(registry.client, "set_registered_model_alias", refused)
        with pytest.raises(RegistryError, match=r"previous_champion cannot be moved to version 1: disk full$"):
            registry.promote(2, PASSED, 1)
    assert registry.aliases() == {"champion": 1}


def test_without_the_server_nothing_moves(registry, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    before, down = mlflow.get_tracking_uri(), Registry(address, registry.name)
    try:
        for call in (
            lambda: down.register("models:/m-1"),
            lambda: down.propose(1),
            lambda: down.promote(1, PASSED, None),
            lambda: down.reject(1, FAILED),
            down.rollback,
            down.champion,
            down.history,
        ):
            with pytest.raises(RegistryError, match=rf"^registry {registry.name}(\.history)? at {address}: [^\n]+$"):
                call()
    finally:
        mlflow.set_tracking_uri(before)
    assert registry.aliases() == {}


@pytest.mark.parametrize(("chosen", "tried"), [(None, "4"), ("9", "9")])
def test_a_job_that_a_person_waits_for_gives_up_soon_unless_told_otherwise(monkeypatch, chosen, tried):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", chosen or "")  # so that it is put back
    if chosen is None:
        monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    Registry.open("http://127.0.0.1:9", "ranker")
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == tried


def test_a_database_without_its_driver_is_an_error_without_its_password(monkeypatch):
    monkeypatch.setattr(mlflow, "set_tracking_uri", lambda _: None)
    registry = Registry("postgresql+nodriver://user:hunter2@nowhere/mlflow", "ranker")
    with pytest.raises(RegistryError, match=r"^registry ranker at postgresql\+nodriver://\*\*\*@nowhere/mlflow: "):
        registry.champion()


@pytest.mark.parametrize("name", ["", "team/ranker", "ranker:1", "o'ranker"])
def test_a_name_that_mlflow_cannot_address_is_refused(name):
    with pytest.raises(ValidationError):
        RegistryConfig(name=name)
