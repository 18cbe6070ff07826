"""Checkpoints: list, verify, prune and export those of a run directory."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import save_file

from pipelines.job import jobs, say
from ranking.config import RunConfig
from ranking.distributed.world import World
from ranking.errors import InputError
from ranking.files import remove
from ranking.training.checkpoint import read_model
from ranking.training.commits import (
    Commit,
    attempt_path,
    collect,
    damaged,
    kept,
    orphans,
    ranked,
    read_commits,
    verify,
)
from ranking.training.lease import hold

Yes = Annotated[bool, typer.Option("--yes", help="Remove them; without it they are only shown.")]
To = Annotated[Path, typer.Option(help="File to write, such as model.safetensors.", show_default=False)]
Step = Annotated[int | None, typer.Option(help="Which checkpoint; left out: the best, else the newest.")]


def show(config: RunConfig) -> None:
    """List the committed checkpoints: step, score, size, age, ranks that saved, and why each is kept."""
    directory, commits = _open(config)
    reasons = kept(directory, config.checkpoints)
    say(f"{'step':>10}  {'score':>8}  {'MiB':>9}  {'age':>16}  {'ranks':>5}  kept")
    for commit in commits:
        score = "-" if commit.score is None else f"{commit.score:.5f}"
        age = timedelta(seconds=max(0, round(time.time() - commit.created)))
        why = ", ".join(reasons[commit.step]) or "until the next save"
        say(f"{commit.step:>10}  {score:>8}  {commit.size / 2**20:>9.1f}  {age!s:>16}  {commit.world_size:>5}  {why}")
    if left := [*orphans(directory), *damaged(directory)]:
        say(f"{len(left)} leftovers of killed saves and damaged checkpoints: prune removes them")


def check(config: RunConfig) -> None:
    """Read every byte of every checkpoint; exit code 2 where one is damaged, with its file."""
    directory, commits = _open(config)
    found = {commit.step: verify(directory, commit) for commit in commits}
    for step, damage in found.items():
        say(f"step {step}: {damage or 'intact'}")
    if bad := [f"step {step}: {damage}" for step, damage in found.items() if damage]:
        raise InputError(f"{len(bad)} of {len(commits)} checkpoints are damaged, the first at {bad[0]}")


def prune(config: RunConfig, yes: Yes = False) -> None:
    """Remove what `checkpoints.keep_last` and `keep_best` do not keep, leftovers and damaged checkpoints.

    Shows them only, unless told `--yes`; refuses while a training uses the run directory.
    """
    directory, commits = _open(config)
    with hold(config.output, World(0, 1, torch.device("cpu"))):
        stays = kept(directory, config.checkpoints)
        gone = [attempt_path(directory, commit) for commit in commits if not stays[commit.step]]
        left = [*gone, *orphans(directory), *damaged(directory)]
        for path in left:
            say(f"{'removed' if yes else 'would remove'} {path}")
        if yes:
            collect(directory, config.checkpoints)
            for path in left:
                remove(path)
    if not left:
        say("nothing to remove")
    elif not yes:
        say("nothing was removed; --yes removes them")


def export(config: RunConfig, to: To, step: Step = None) -> None:
    """Write a checkpoint's model, every table whole, as one safetensors file; nothing in it can run.

    Its metadata holds `schema`, `step`, `score` and `checkpoint`.
    """
    directory, commits = _open(config)
    commit = _wanted(directory, commits, step)
    if to.exists():
        raise InputError(f"--to: {to} exists; expected a free name")
    tensors = read_model(directory, commit)
    progress = json.loads((attempt_path(directory, commit) / "progress.json").read_text())
    metadata = {
        "schema": json.dumps(progress["config"].get("schema", {})),
        "step": str(commit.step),
        "score": "" if commit.score is None else repr(commit.score),
        "checkpoint": commit.attempt,
    }
    to.parent.mkdir(parents=True, exist_ok=True)
    draft = to.with_name(f".{to.name}.draft")
    try:
        save_file(tensors, draft, metadata)
        draft.replace(to)
    finally:
        draft.unlink(missing_ok=True)
    say(f"wrote {len(tensors)} tensors of step {commit.step} to {to}")


def _open(config: RunConfig) -> tuple[Path, list[Commit]]:
    directory = config.output / "checkpoints"
    commits = read_commits(directory)
    if not commits:
        raise InputError(f"{directory}: no committed checkpoint; expected the `output` of a training")
    return directory, commits


def _wanted(directory: Path, commits: list[Commit], step: int | None) -> Commit:
    if step is None:
        return next(iter(ranked(commits)), commits[-1])
    for commit in commits:
        if commit.step == step:
            return commit
    raise InputError(f"--step: got {step}; expected one of {[commit.step for commit in commits]} in {directory}")


main = jobs({"list": show, "verify": check, "prune": prune, "export": export})

if __name__ == "__main__":
    main()
