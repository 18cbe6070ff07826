"""The registry on a real MLflow store: one linear history, and a champion at every moment."""

import mlflow
import numpy as np
import pandas as pd
import pytest

from ranking.errors import InputError
from ranking.metrics import Predictions
from ranking.promotion.audit import Decision
from ranking.promotion.gate import GateConfig, decide
from ranking.promotion.registry import ChampionChangedError, Registry
from ranking.promotion.verdict import Verdict
from tests.promotion.registry_store import FAILED, PASSED, another, lineage, promoted


def test_a_version_knows_its_run_its_model_and_its_tags(registry, registry_store):
    _, model_id, run_id = registry_store
    assert [entry.version for entry in registry.history()] == [1, 2, 3, 4]
    assert {entry.run_id for entry in registry.history()} == {run_id}
    assert registry.model_id(2) == model_id
    assert registry.tags(1) == {"manifest": "abc"}
    assert (registry.champion(), registry.challenger(), registry.previous()) == (None, None, None)


def test_a_version_from_elsewhere_has_no_model_id(registry, tmp_path):
    assert registry.model_id(registry.register(str(tmp_path))) is None


def test_a_model_that_nobody_registered_has_no_champion(registry_store):
    registry = Registry(registry_store[0], "nobody")
    assert registry.champion() is None
    assert registry.history() == []
    with pytest.raises(InputError, match=r"^registry nobody: no version 1$"):
        registry.propose(1)


def test_load_score_decide_promote(registry, monkeypatch):
    rows = 3000
    generator = np.random.default_rng(2)
    truth = generator.uniform(0.1, 0.9, (rows, 1))
    labels, space = (generator.random((rows, 1)) < truth).astype(float), np.ones((rows, 1), bool)

    def scored(version: int, column: np.ndarray) -> Predictions:
        model = mlflow.pyfunc.load_model(registry.uri(version))
        scores = model.predict(pd.DataFrame(column, columns=["x"])).to_numpy()
        return Predictions(("click",), ("binary",), scores, labels, space, space, np.arange(rows))

    worse = np.where(generator.random((rows, 1)) < 0.3, generator.permutation(truth), truth)
    first = decide(scored(1, worse), None, GateConfig())
    registry.propose(1)
    registry.promote(1, first, registry.champion())
    second = decide(scored(2, truth), scored(1, worse), GateConfig())
    registry.promote(2, second, registry.champion())
    third = decide(scored(3, worse), scored(2, truth), GateConfig())
    assert not third.promote
    registry.reject(3, third)
    assert registry.aliases() == {"champion": 2, "previous_champion": 1}
    assert registry.tags(1)["gate.auc.click"].startswith("passed: 0.")
    assert registry.tags(2)["gate.auc_change.click"].startswith("passed: +0.")
    assert registry.tags(3)["gate.status"] == "failed"


def test_the_first_champion_replaces_nobody(registry):
    registry.propose(1)
    assert registry.aliases() == {"challenger": 1}
    registry.promote(1, PASSED, None)
    assert registry.aliases() == {"champion": 1}
    assert lineage(registry) == [(1, None, None)]


def test_a_promotion_moves_the_aliases_and_tells_why(registry):
    promoted(registry, 1, 2)
    assert registry.aliases() == {"champion": 2, "previous_champion": 1}
    assert (registry.champion(), registry.challenger(), registry.previous()) == (2, None, 1)
    assert lineage(registry) == [(1, None, 2), (2, 1, None)]
    assert registry.tags(2)["gate.auc_change.click"] == "passed: +0.0100 [+0.0050, +0.0150], required > -0.0020"
    newest = registry.history()[1]
    assert (newest.aliases, newest.status, newest.reason) == (("champion",), "passed", "every check passed")


def test_the_aliases_move_in_order_the_champion_last(registry, monkeypatch):
    promoted(registry, 1, 2)
    moves, move = [], registry.client.set_registered_model_alias
    monkeypatch.setattr(
        registry.client, "set_registered_model_alias", lambda *call: (moves.append(call[1:]), move(*call))
    )
    registry.promote(3, PASSED, 2)
    assert moves == [("previous_champion", "2"), ("champion", "3")]


def test_a_rejected_version_keeps_the_reasons_and_the_champion_stays(registry):
    promoted(registry, 1)
    registry.propose(2)
    registry.reject(2, FAILED)
    assert registry.aliases() == {"champion": 1}
    tags = registry.tags(2)
    assert tags["gate.status"] == "failed"
    assert tags["gate.reason"] == FAILED.reason
    assert tags["gate.ece.like"] == "failed: undefined, required <= 0.1"
    assert lineage(registry) == [(1, None, None)]


def test_a_rejection_leaves_a_newer_challenger_alone(registry):
    registry.propose(1)
    another(registry).propose(2)
    registry.reject(1, FAILED)
    assert registry.challenger() == 2


@pytest.mark.parametrize(
    "act",
    [
        lambda registry: registry.reject(2, FAILED, 1),
        lambda registry: registry.nominate(2, PASSED, 1),
        lambda registry: registry.promote(2, PASSED, 1),
    ],
    ids=["rejected", "nominated", "promoted"],
)
def test_a_version_that_is_proposed_while_the_alias_is_taken_off_another_stays_challenger(registry, monkeypatch, act):
    promoted(registry, 1)
    registry.propose(2)
    delete = registry.client.delete_registered_model_alias

    def overtaken(name: str, alias: str) -> None:
        if alias == "challenger":
            another(registry).propose(3)
        delete(name, alias)

    monkeypatch.setattr(registry.client, "delete_registered_model_alias", overtaken)
    act(registry)
    assert registry.challenger() == 3
    assert registry.lost() is None


def test_a_proposal_is_lost_where_the_process_dies_before_it_could_put_the_alias_back(registry):
    registry.propose(1)
    registry.propose(2)
    assert registry.lost() is None
    registry.drop("challenger")
    assert registry.lost() == 2
    registry.propose(2)
    registry.reject(2, FAILED)
    assert registry.lost() is None, "version 1 was superseded, and 2 is judged"
    assert registry.challenger() is None


def test_a_challenger_that_somebody_withdrew_does_not_return(registry):
    promoted(registry, 1, 2)
    registry.propose(3)
    registry.client.delete_registered_model_alias(registry.name, "challenger")
    registry.rollback()
    assert registry.challenger() is None


def test_a_new_verdict_replaces_the_whole_old_one(registry):
    registry.reject(1, FAILED)
    registry.promote(1, PASSED, None)
    tags = registry.tags(1)
    assert {key for key in tags if key.startswith("gate.")} == set(PASSED.tags())
    assert tags["manifest"] == "abc"


def test_a_verdict_cannot_be_used_against_itself(registry):
    with pytest.raises(ValueError, match=r"version 1: click: auc_change -0\.0100"):
        registry.promote(1, FAILED, None)
    with pytest.raises(ValueError, match="expected a verdict with a failed check"):
        registry.reject(1, PASSED)
    with pytest.raises(ValueError, match="version 1"):
        registry.promote(1, Verdict(()), None)
    assert registry.aliases() == {}


@pytest.mark.parametrize("step", ["propose", "promote"])
def test_a_version_that_was_champion_does_not_return_through_the_gate(registry, step):
    promoted(registry, 1, 2)
    for version in (1, 2):
        with pytest.raises(InputError, match=f"version {version} has been champion; expected a new version"):
            registry.propose(version) if step == "propose" else registry.promote(version, PASSED, 2)
    assert registry.aliases() == {"champion": 2, "previous_champion": 1}


def test_of_two_promotions_against_one_champion_the_second_compares_again(registry):
    promoted(registry, 1)
    other = another(registry)
    registry.propose(2)
    other.propose(3)
    other.promote(3, PASSED, 1)
    with pytest.raises(ChampionChangedError, match="champion is version 3, compared with 1; expected a new comparison"):
        registry.promote(2, PASSED, 1)
    assert registry.aliases() == {"champion": 3, "previous_champion": 1}
    registry.promote(2, PASSED, 3)
    assert lineage(registry) == [(1, None, 3), (2, 3, None), (3, 1, 2)]


def test_of_two_first_promotions_one_wins(registry):
    another(registry).promote(2, PASSED, None)
    with pytest.raises(ChampionChangedError, match="champion is version 2, compared with none"):
        registry.promote(1, PASSED, None)
    assert registry.aliases() == {"champion": 2}


@pytest.mark.parametrize("alias", ["previous_champion", "champion"])
def test_a_process_that_sleeps_over_a_rollback_does_not_undo_it(registry, monkeypatch, alias):
    promoted(registry, 1, 2)
    move, sleeping = registry.client.set_registered_model_alias, [True]

    def overtaken(name: str, moved: str, version: str) -> None:
        if moved == alias and sleeping:
            sleeping.clear()
            assert another(registry).rollback() == (3, 2)  # finishes the promotion, then takes it back
        move(name, moved, version)

    monkeypatch.setattr(registry.client, "set_registered_model_alias", overtaken)
    with pytest.raises(ChampionChangedError, match="champion is version 2, compared with 2; expected a new comparison"):
        registry.promote(3, PASSED, 2)
    assert registry.aliases() == {"champion": 2, "previous_champion": 1}
    assert lineage(registry) == [(1, None, 2), (2, 1, None)]
    assert registry.told()[-2:] == [("promoted", 2, 3), ("rolled_back", 3, 2)]


def test_of_two_promotions_that_both_saw_the_same_champion_one_counts(registry, monkeypatch):
    promoted(registry, 1)
    write = registry.client.create_model_version

    def overtaken(*call, **tags):
        monkeypatch.undo()
        another(registry).promote(3, PASSED, 1)
        return write(*call, **tags)

    monkeypatch.setattr(registry.client, "create_model_version", overtaken)
    with pytest.raises(ChampionChangedError, match="champion is version 3, compared with 1"):
        registry.promote(2, PASSED, 1)
    assert registry.aliases() == {"champion": 3, "previous_champion": 1}
    assert [d.void for d in registry.audit.decisions()] == [False, False, True]
    registry.promote(2, PASSED, 3)
    assert lineage(registry) == [(1, None, 3), (2, 3, None), (3, 1, 2)]


def test_the_trail_says_when_who_and_why(registry):
    registry.promote(1, PASSED, None, by="nightly", manifest="abc")
    registry.reject(2, FAILED, 1, by="nightly", manifest="def")
    first, second = registry.audit.decisions()
    assert (first.action, first.version, first.before, first.by, first.manifest) == (
        "promoted",
        1,
        None,
        "nightly",
        "abc",
    )
    assert first.at.endswith("+00:00")
    assert Verdict.load(first.verdict) == PASSED
    assert (second.action, second.version, second.before, second.reason) == ("rejected", 2, 1, FAILED.reason)
    registry.promote(3, PASSED, 1)
    assert "@" in registry.audit.head().by  # user and host


def test_the_trail_outlives_the_version_it_is_about(registry):
    promoted(registry, 1, 2)
    registry.rollback(by="Ada")
    registry.client.delete_model_version(registry.name, "2")
    assert registry.told() == [("promoted", None, 1), ("promoted", 1, 2), ("rolled_back", 2, 1)]


def test_a_request_that_was_repeated_and_a_version_of_somebody_else_count_for_nothing(registry):
    promoted(registry, 1, 2)
    trail = f"{registry.name}.history"
    again = registry.client.get_model_version(trail, "2")
    registry.client.create_model_version(trail, again.source, tags=again.tags)
    registry.client.create_model_version(trail, "s3://elsewhere/model", tags={"action": "made tea"})
    registry.promote(3, PASSED, 2)
    assert registry.told() == [("promoted", None, 1), ("promoted", 1, 2), ("promoted", 2, 3)]


def test_a_long_trail_is_not_read_whole_to_find_its_head(registry, monkeypatch):
    promoted(registry, 1)
    for _ in range(45):
        registry.audit.write(Decision(action="rejected", version=2, before=1))
    pages, search = [], registry.client.search_model_versions
    monkeypatch.setattr(registry.client, "search_model_versions", lambda *call: pages.append(call) or search(*call))
    assert registry.audit.head().version == 1
    assert len(pages) == 3  # of 20, back to the newest settled change
    registry.promote(2, PASSED, 1)
    pages.clear()
    assert registry.audit.head().version == 2
    assert len(pages) == 1
    assert len(registry.audit.decisions()) == 47


def test_rollback_goes_back_one_at_a_time(registry):
    promoted(registry, 1, 2, 3)
    assert registry.rollback() == (3, 2)
    assert registry.aliases() == {"champion": 2, "previous_champion": 1}
    assert registry.rollback() == (2, 1)
    assert registry.aliases() == {"champion": 1}
    with pytest.raises(InputError, match=rf"^registry {registry.name}: no previous champion to roll back to"):
        registry.rollback()
    assert registry.champion() == 1
    assert lineage(registry) == [(1, None, None)]
    assert [bool(entry.rolled_back_at) for entry in registry.history()] == [False, True, True, False]


def test_after_a_rollback_the_history_goes_on_from_there(registry):
    promoted(registry, 1, 2)
    registry.rollback()
    registry.promote(3, PASSED, 1)
    assert lineage(registry) == [(1, None, 3), (3, 1, None)]
    assert registry.tags(2)["replaced_by"] == "1"
    registry.promote(2, PASSED, 3)  # what was rolled back may try again
    assert lineage(registry) == [(1, None, 3), (2, 3, None), (3, 1, 2)]
    assert registry.rollback() == (2, 3)
    assert registry.rollback() == (3, 1)


def test_there_is_no_rollback_to_a_deleted_version(registry):
    promoted(registry, 1, 2)
    registry.client.delete_model_version(registry.name, "1")
    with pytest.raises(InputError, match="no previous champion"):
        registry.rollback()
    assert registry.champion() == 2


def test_a_champion_that_was_deleted_is_not_taken_for_none(registry):
    promoted(registry, 1, 2, 3)
    registry.client.delete_model_version(registry.name, "3")
    for call in (registry.champion, lambda: registry.promote(4, PASSED, None)):
        with pytest.raises(InputError, match="no champion, its version was deleted; expected a rollback, to version 2"):
            call()
    assert registry.rollback() == (None, 2)
    assert registry.aliases() == {"champion": 2, "previous_champion": 1}
    assert lineage(registry) == [(1, None, 2), (2, 1, None)]


def test_a_champion_set_by_hand_joins_the_history(registry):
    promoted(registry, 1, 2)
    registry.client.set_registered_model_alias(registry.name, "champion", "3")
    registry.promote(4, PASSED, 3)
    assert registry.told() == [("promoted", None, 1), ("promoted", 1, 2), ("adopted", 2, 3), ("promoted", 3, 4)]
    assert registry.rollback() == (4, 3)
    assert registry.rollback() == (3, 2)
    registry.client.set_registered_model_alias(registry.name, "champion", "1")  # a rollback by hand
    assert registry.previous() is None
    registry.promote(3, PASSED, 1)
    assert lineage(registry) == [(1, None, 3), (3, 1, None)]
