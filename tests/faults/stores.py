"""Faults of what a run leaves behind and relies on: its checkpoints, the tracking server, the registry."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random

from mlflow import MlflowClient

from ranking.promotion.registry import Registry
from ranking.tracking.runs import replay
from ranking.training.commits import Commit, attempt_path, hashes, read_commits
from tests.faults.proxy import Fault, Proxy
from tests.faults.trial import PATIENCE, STEPS, MissedError, Outcome, Trial, codes, complaint, refusal
from tests.launch import _CONTEXT as CONTEXT
from tests.mlflow_store import Server
from tests.promotion.test_registry_race import contend

CONTENDERS, VERSIONS = 3, 6


class Poison:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def damaged_checkpoint(trial: Trial) -> Outcome:
    """A file of the newest checkpoint flipped, cut, emptied or gone: set aside, and the one before is used."""
    commit = _stopped(trial)
    marker = trial.checkpoints / "commits" / f"{commit.step:020d}.json"
    file = trial.draw.choice([*sorted(attempt_path(trial.checkpoints, commit).iterdir()), marker])
    what = f"{file.name} of step {commit.step} {_spoil(trial.draw, file)}"
    if file != marker:
        return trial.again(what)
    if not file.exists():
        return trial.again(what)
    return _after_refusal(trial, what, marker)


def poisoned_checkpoint(trial: Trial) -> Outcome:
    """A pickle that runs a command in place of DCP's metadata, with or without the commit's hash made to fit."""
    commit, canary = _stopped(trial), trial.folder / "canary"
    path, forged = attempt_path(trial.checkpoints, commit), trial.draw.random() < 0.5
    original = pickle.loads((path / ".metadata").read_bytes())
    poison = trial.draw.choice([Poison(canary), {"state": Poison(canary)}, [original, Poison(canary)]])
    (path / ".metadata").write_bytes(pickle.dumps(poison, protocol=trial.draw.randint(2, 5)))
    marker = trial.checkpoints / "commits" / f"{commit.step:020d}.json"
    what = f"poisoned metadata at step {commit.step}{', its hash forged' * forged}"
    if forged:
        fitting = commit.model_copy(update={"files": commit.files | hashes(path, [".metadata"])})
        marker.write_text(fitting.text)
        outcome = _after_refusal(trial, what, marker)
    else:
        outcome = trial.again(what)
    return Outcome(what, "the pickle ran", silent=True) if canary.exists() else outcome


def tracking_down(trial: Trial) -> Outcome:
    """MLflow refuses, stalls or is gone for a whole run: the run ends, and every metric is there afterwards, once."""
    server: Server = trial.lab.once("mlflow", lambda: _server(trial))
    kind = trial.draw.choice(["status", "reset", "stall", "passing"])
    with Proxy("127.0.0.1", server.port) as proxy:
        down = Fault(
            "status" if kind == "passing" else kind,  # type: ignore[arg-type]
            times=trial.draw.randint(1, 20) if kind == "passing" else None,
            method="",
            seconds=1,
        )
        experiment = f"--tracking.experiment={trial.folder.name}"
        trial.settings += (f"--tracking.uri={proxy.url}", "--tracking.max_backoff=0.2", experiment)
        with proxy.failing(down):
            ended = trial.launch().wait(PATIENCE)
        what = f"MLflow {kind}, {down.met} requests"
        if any(codes(ended)):
            return Outcome(what, f"ended with {codes(ended)}: {complaint(ended)}")
        outcome = trial.compared(what, trial.lab.reference())
        if outcome.why:
            return outcome
        config = trial.lab.workspace.config(*trial.arguments("")[3:], "--tracking.drain_seconds=120")
        left = replay(config.tracking, trial.run)
        uri, client = f"sqlite:///{server._folder / 'mlflow.db'}", MlflowClient
        wrong = f"{left} events stay" if left else _metrics_apart(client(uri), trial)
        return Outcome(what, wrong, silent=bool(wrong))


def promoted_at_once(trial: Trial) -> Outcome:
    """Three processes promote at once and one is killed: one linear history, and the next one repairs it."""
    server: Server = trial.lab.once("mlflow", lambda: _server(trial))
    registry = Registry(server.uri, f"campaign-{trial.folder.name}")
    for _ in range(VERSIONS + 1):
        registry.register("s3://nowhere/model")
    numbers = list(range(1, VERSIONS + 1))
    parts = [numbers[i::CONTENDERS] for i in range(CONTENDERS)]
    started = [CONTEXT.Process(target=contend, args=(server.uri, registry.name, part)) for part in parts]
    for process in started:
        process.start()
    victim, delay = trial.draw.randrange(CONTENDERS), trial.draw.uniform(0, 1.5)
    while not registry.audit.decisions():
        time.sleep(0.01)
    time.sleep(delay)
    if started[victim].is_alive():
        os.kill(int(started[victim].pid or 0), signal.SIGKILL)
    for process in started:
        process.join(PATIENCE)
    contend(server.uri, registry.name, [VERSIONS + 1])
    what = f"{CONTENDERS} promote {VERSIONS} versions, contender {victim} killed {delay:.2f} s after the first decision"
    survivors = {version for i, part in enumerate(parts) if i != victim for version in part}
    return Outcome(what, why := _not_linear(registry, survivors), silent=bool(why))


def _not_linear(registry: Registry, survivors: set[int]) -> str:
    moves = [decision for decision in registry.audit.decisions() if decision.moves]
    versions = [move.version for move in moves]
    if any(after.before != before.version for before, after in pairwise(moves)) or moves[0].before is not None:
        return f"not linear: {[(move.before, move.version) for move in moves]}"
    if len(set(versions)) < len(versions) or not survivors <= set(versions):
        return f"promoted {versions}; expected {sorted(survivors)} once each"
    if not all(move.settled for move in moves) or registry.champion() != versions[-1]:
        return f"champion {registry.champion()}, expected {versions[-1]}"
    return ""


def _stopped(trial: Trial) -> Commit:
    """The newest of at least two commits of a run that was ended in the middle."""
    kind = trial.draw.choice(["term", "die"])
    step = trial.draw.randint(10, STEPS)
    trial.launch(faults=f"{trial.draw.randrange(2)}:{kind}:step:{step}").wait(PATIENCE)
    commits = read_commits(trial.checkpoints) if trial.checkpoints.exists() else []
    if not commits:
        raise MissedError("killed before the first commit")
    return commits[-1]


def _after_refusal(trial: Trial, what: str, marker: Path) -> Outcome:
    """A commit that cannot be trusted is refused by name, or passed over; once removed the same command resumes."""
    ended = trial.launch().wait(PATIENCE)
    if not any(codes(ended)):
        return trial.compared(what, trial.lab.reference())
    if wrong := refusal(ended, str(trial.checkpoints)):
        return Outcome(what, wrong)
    marker.unlink()
    return trial.again(what)


def _spoil(draw: Random, file: Path) -> str:
    content = bytearray(file.read_bytes())
    match draw.choice(["flip", "flip", "cut", "zero", "gone"]):
        case "flip":
            place, bit = draw.randrange(len(content)), draw.randrange(8)
            content[place] ^= 1 << bit
            file.write_bytes(content)
            return f"bit {bit} of byte {place} of {len(content)} flipped"
        case "cut":
            size = draw.randrange(len(content))
            file.write_bytes(content[:size])
            return f"cut to {size} bytes"
        case "zero":
            file.write_bytes(bytes(len(content)))
            return "zeroed"
        case _:
            file.unlink()
            return "gone"


def _server(trial: Trial) -> Server:
    folder = trial.lab.folder / "mlflow"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    server = Server(folder)
    server.start()
    trial.lab.stack.callback(server.kill)
    return server


def _metrics_apart(client: MlflowClient, trial: Trial) -> str:
    """Every point the run spooled is in MLflow once."""
    experiment = client.get_experiment_by_name(trial.folder.name)
    if experiment is None:
        return "no experiment"
    runs = client.search_runs([experiment.experiment_id])
    if len(runs) != 1:
        return f"{len(runs)} runs"
    lines = "".join(file.read_text() for file in sorted((trial.run / "tracking").rglob("*.jsonl"))).splitlines()
    spooled: dict[str, Counter[int]] = {}
    for event in map(json.loads, lines):
        for key in event.get("values", {}) if event["kind"] == "metrics" else ():
            spooled.setdefault(key, Counter())[event["step"]] += 1
    for key, steps in spooled.items():
        found = Counter(point.step for point in client.get_metric_history(runs[0].info.run_id, key))
        if found != steps:
            return f"{key}: {sorted(found.elements())} in MLflow, {sorted(steps.elements())} logged"
    return "" if spooled else "nothing was logged"
