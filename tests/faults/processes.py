"""Faults of processes and machines: each function injects one into a real job, and judges how the job ends."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from ranking.errors import EXIT_FAILURE, EXIT_INPUT, EXIT_STOPPED
from ranking.training.commits import read_commits
from tests.faults.trial import (
    ELASTIC,
    ELASTIC_STEPS,
    PATIENCE,
    STEPS,
    MissedError,
    Outcome,
    Trial,
    codes,
    complaint,
    refusal,
    rows_apart,
)
from tests.launch import Job, run

TOLERANCE = 1e-5
"""Of every step's loss at another world size, relative to losses above 1."""


def kill_rank(trial: Trial) -> Outcome:
    """kill -9 of one rank, or of all as in a power cut, at a random moment."""
    job, everyone = trial.launch(), trial.draw.random() < 0.3
    moment = _moment(trial, job)
    early = trial.reached(1) < 0  # ranks that never met wait for each other; torchrun's agent would end them
    victims = [0, 1] if everyone or early else [trial.draw.randrange(2)]
    _send(job, victims, signal.SIGKILL)
    what = f"kill -9 of rank {victims} {moment}"
    for rank in victims:
        job.ranks[rank].join(PATIENCE)
    ended = [] if len(victims) == 2 else job.wait(PATIENCE)  # both may have died before they had an output
    survivors = [each for rank, each in enumerate(ended) if rank not in victims]
    if any(each.code not in (EXIT_FAILURE, 0) for each in survivors):
        return Outcome(what, f"the other rank ended with {codes(survivors)}: {complaint(survivors)}")
    return trial.again(what)


def kill_in_save(trial: Trial) -> Outcome:
    """kill -9 inside a random phase of a random save."""
    from tests.faults.job import SAVING

    phase = trial.draw.choice(list(SAVING))
    rank = trial.draw.randrange(2) if phase in ("write", "fsync", "hash") else 0
    call = trial.draw.randint(1, {"fsync": 12, "sync": 16}.get(phase, 4))
    mode = trial.draw.choice(["async", "async", "sync"])
    job = trial.launch(f"--checkpoints.mode={mode}", faults=f"{rank}:die:{phase}:{call}")
    ended = job.wait(PATIENCE)
    if ended[rank].code != -signal.SIGKILL:
        raise MissedError(f"no call {call} of {phase}: {codes(ended)}")
    return trial.again(f"kill -9 of rank {rank} in call {call} of {phase}, {mode}")


def kill_agent(trial: Trial) -> Outcome:
    """kill -9 of torchrun's agent: its workers must be gone within 5 s, and the same command resumes."""
    agent = trial.torchrun()
    step, delay = trial.draw.randrange(STEPS - 4), trial.draw.uniform(0, 0.1)
    _await_step(trial, agent.poll, step, delay)
    workers = _children(agent.pid)
    agent.kill()
    killed, monotonic = time.time(), time.monotonic()
    agent.wait()
    what = f"kill -9 of the agent {delay:.3f} s after step {step}"
    while any(_alive(pid) for pid in workers):
        if time.monotonic() - monotonic > 5:
            for pid in workers:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return Outcome(what, "a worker lived on for 5 s")
        time.sleep(0.01)
    if trial.lab.quick:
        return trial.again(what)
    if code := trial.torchrun().wait(PATIENCE):
        return Outcome(what, f"the same command ended with {code}: {trial.said.read_text()[-300:]}")
    recovery = _next_step(trial, trial.launches, killed)
    return trial.compared(what, trial.lab.reference(), recovery)


def restarted(trial: Trial) -> Outcome:
    """A rank is killed or stopped under `--max-restarts`: the launcher starts the ranks again by itself."""
    rank, step = trial.draw.randrange(2), trial.draw.randint(5, STEPS - 1)
    kind = trial.draw.choice(["die", "die", "stop"])
    agent = trial.torchrun("--training.hang_timeout=5", faults=f"{rank}:{kind}:step:{step}", restarts=1)
    what = f"rank {rank} to {kind} in step {step}, --max-restarts=1"
    if code := agent.wait(PATIENCE):
        return Outcome(what, f"the launcher ended with {code}: {trial.said.read_text()[-300:]}")
    first, second = (
        [record["time"] for group, record in trial.steps() if group.endswith(f"-{attempt:03}")] for attempt in (0, 1)
    )
    recovery = min(second) - max(first) if first and second and kind == "die" else None
    return trial.compared(what, trial.lab.reference(), recovery)


def terminate(trial: Trial) -> Outcome:
    """SIGTERM to one rank or all at a random moment of the training: a commit, its own exit code, no step replayed."""
    job, everyone = trial.launch(), trial.draw.random() < 0.5
    step, delay = trial.draw.randrange(STEPS - 5), trial.draw.uniform(0, 0.02)
    trial.await_step(job, step, delay)
    victims = [0, 1] if everyone else [trial.draw.randrange(2)]
    _send(job, victims, signal.SIGTERM)
    ended = job.wait(PATIENCE)
    what = f"SIGTERM to rank {victims} {delay:.3f} s after step {step}"
    if trial.reached(trial.launches) == STEPS - 1:
        raise MissedError("the training was over")
    if codes(ended) != [EXIT_STOPPED] * 2:
        return Outcome(what, f"ended with {codes(ended)}: {complaint(ended)}")
    last, outcome = trial.reached(1), trial.again(what)
    first = min((record["step"] for _, record in trial.steps(2)), default=STEPS)
    if first != last + 1 and not outcome.why:
        return Outcome(what, f"stopped after step {last}, went on with step {first}")
    return outcome


def stop(trial: Trial) -> Outcome:
    """SIGSTOP of a rank at a random step, or inside an evaluation or a save: named and ended, well before 90 s.

    Rank 0 is stopped in `restarted`: without torchrun's agent the ranks' store is in rank 0 itself.
    """
    rank = 1
    place, most = trial.draw.choice([("step", STEPS), ("input", STEPS), ("evaluation", 4), ("checkpoint", 4)])
    call, began = trial.draw.randint(1, most), time.monotonic()
    job = trial.launch("--training.hang_timeout=3", faults=f"{rank}:stop:{place}:{call}")
    what = f"SIGSTOP of rank {rank} in call {call} of {place}"
    job.ranks[0].join(90)
    if job.ranks[0].is_alive():
        job.signal(signal.SIGKILL)
        return Outcome(what, f"nothing ended within {time.monotonic() - began:.0f} s")
    job.ranks[rank].join(5)
    if job.ranks[rank].is_alive():
        job.ranks[rank].kill()  # as torchrun's agent does
    ended = job.wait()
    if ended[rank].code == 0:
        raise MissedError(f"no call {call} of {place}")
    if ended[1 - rank].code != EXIT_FAILURE or f"rank {rank} (" not in complaint(ended):
        return Outcome(what, f"ended with {codes(ended)}: {complaint(ended)}")
    return trial.again(what)


def resize(trial: Trial) -> Outcome:
    """3 -> 2 -> 1 -> 3 ranks, each launch ended by SIGTERM or kill -9 at a random step."""
    trial.settings = ELASTIC
    told = []
    for size in (3, 2, 1):
        kind, rank = trial.draw.choice(["term", "die"]), trial.draw.randrange(size)
        before, step = trial.reached(trial.launches), trial.draw.randint(2, 5)
        told.append(f"{size} ranks to {kind} in step {step}")
        trial.launch(faults=f"{rank}:{kind}:step:{step}", size=size).wait(PATIENCE)
        if before == trial.reached(trial.launches) == ELASTIC_STEPS - 1:
            break
    what, ended = ", ".join(told), trial.launch(size=3).wait(PATIENCE)
    if any(codes(ended)):
        return Outcome(what, f"the last launch ended with {codes(ended)}: {complaint(ended)}")
    expected = Trial(trial.lab, trial.lab.reference(3, ELASTIC), trial.draw).lineage()
    found = trial.lineage()
    lost = rows_apart(expected, found)
    worst = max(_loss_apart(expected[step], found.get(step, [])) for step in expected)
    why = f"{lost} rows lost or repeated" if lost else f"a loss is {worst:.1e} off" if worst > TOLERANCE else ""
    return Outcome(what, why, lost, silent=worst > TOLERANCE)


def full_disk(trial: Trial) -> Outcome:
    """No room for one rank's writes from a random save to the next, or to the end of the launch."""
    rank, save = trial.draw.randrange(2), trial.draw.randint(1, 4)
    room = trial.draw.random() < 0.6
    faults = f"{rank}:full:commit:{save}" + f",{rank}:room:commit:{save + 1}" * room
    policy = trial.draw.choice(["continue", "continue", "stop"])
    job = trial.launch(f"--checkpoints.on_failure={policy}", faults=faults)
    ended = job.wait(PATIENCE)
    what = f"disk of rank {rank} full at save {save}{', room at the next' * room}, {policy}"
    if any(each.code not in (0, EXIT_FAILURE) for each in ended):
        return Outcome(what, f"ended with {codes(ended)}: {complaint(ended)}")
    if all(each.code == 0 for each in ended) and not (room and save < 4 and policy == "continue"):
        return Outcome(what, "the last save failed, and the job says it did not")
    if any(each.code for each in ended) and (wrong := refusal(ended, "was not saved", code=EXIT_FAILURE)):
        return Outcome(what, wrong)
    return trial.again(what, report=False)  # of what was saved the best


def second_launch(trial: Trial) -> Outcome:
    """A second launch on the same run directory is refused; the first does not notice."""
    pause = trial.draw.randint(2, STEPS)
    job = trial.launch(faults=f"{trial.draw.randrange(2)}:pause:step:{pause}")
    trial.await_step(job, pause - 2, 0.05)
    other = trial.folder / "other"
    other.mkdir()
    refused = run(other, "pipelines.train", trial.arguments("")[1:], size=trial.draw.randint(1, 2))
    what, ended = f"a second launch while the first is in step {pause - 1}", job.wait(PATIENCE)
    if wrong := refusal(refused, "another launch"):
        return Outcome(what, wrong)
    if any(codes(ended)):
        return Outcome(what, f"the first ended with {codes(ended)}: {complaint(ended)}")
    return trial.compared(what, trial.lab.reference())


def overtaken(trial: Trial) -> Outcome:
    """Another launch took the lease over: whoever held it commits nothing more."""
    save = trial.draw.randint(1, 4)
    ended = trial.launch(faults=f"0:overtake:commit:{save}").wait(PATIENCE)
    what, committed = f"the lease lost before save {save}", [each.step for each in read_commits(trial.checkpoints)]
    if any(step >= 4 * save for step in committed):
        return Outcome(what, f"committed {committed} without the lease", silent=True)
    if any(each.code not in (EXIT_FAILURE, EXIT_INPUT) for each in ended) or "lost the run dir" not in complaint(ended):
        return Outcome(what, f"ended with {codes(ended)}: {complaint(ended)}")
    return trial.again(what)


def _moment(trial: Trial, job: Job) -> str:
    """Wait for a random moment of a job: before its first step, or soon after one of them."""
    if trial.draw.random() < 0.15:
        delay = trial.draw.uniform(0.05, 1)
        time.sleep(delay)
        moment = f"{delay:.2f} s after the start"
    else:
        step, delay = trial.draw.randrange(STEPS), trial.draw.uniform(0, 0.15)
        trial.await_step(job, step, delay)
        moment = f"{delay:.3f} s after step {step}"
    if not all(rank.is_alive() for rank in job.ranks):
        raise MissedError(f"the job was over {moment}")
    return moment


def _send(job: Job, ranks: list[int], number: int) -> None:
    for rank in ranks:
        if not job.ranks[rank].is_alive():
            raise MissedError("the job was over")
        os.kill(job.ranks[rank].pid or 0, number)


def _await_step(trial: Trial, ended: object, step: int, delay: float) -> None:
    deadline = time.monotonic() + PATIENCE
    while trial.reached(trial.launches) < step:
        if ended() is not None or time.monotonic() > deadline:  # type: ignore[operator]
            raise MissedError(f"the job ended before step {step}: {trial.said.read_text()[-300:]}")
        time.sleep(0.01)
    time.sleep(delay)


def _next_step(trial: Trial, launch: int, since: float) -> float | None:
    times = [record["time"] for _, record in trial.steps(launch)]
    return min(times) - since if times else None


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in listed for child in file.read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def _loss_apart(one: list[dict], other: list[dict]) -> float:
    """How far the tasks' global losses of a step are apart; infinite where one is missing."""
    if not one or not other:
        return float("inf")
    sums = [[sum(parts) for parts in zip(*(each["losses"] for each in side), strict=True)] for side in (one, other)]
    return max(abs(a - b) / max(1.0, abs(a)) for a, b in zip(*sums, strict=True))
