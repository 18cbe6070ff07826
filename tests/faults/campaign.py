"""The fault campaign: seeded injections into real training jobs, each compared with a job that nothing met.

`python -m tests.faults.campaign --count 500 --seed 1 --json docs/reliability.json`

A file of the same seed and count is continued; every choice follows from seed, class and number.
"""

from __future__ import annotations

import argparse
import logging
import math
import multiprocessing
import shutil
import sys
import tempfile
import traceback
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty
from random import Random
from typing import Any

from tests.faults import inputs, processes, stores
from tests.faults.report import Report, table
from tests.faults.trial import Lab, MissedError, Outcome, Trial

REDRAWS = 5
"""How often a fault that came too late or too early is drawn again."""


@dataclass(frozen=True)
class Kind:
    """A class of faults.

    Attributes:
        name: of a row of the table.
        inject: into a fresh trial.
        weight: how often it is tried; cheap ones more often.
    """

    name: str
    inject: Callable[[Trial], Outcome]
    weight: int


KINDS = (
    Kind("kill -9 of a rank, or of all", processes.kill_rank, 14),
    Kind("kill -9 inside a save", processes.kill_in_save, 14),
    Kind("kill -9 of the agent", processes.kill_agent, 3),
    Kind("a rank killed or stopped under --max-restarts", processes.restarted, 3),
    Kind("SIGTERM", processes.terminate, 10),
    Kind("SIGSTOP of a rank", processes.stop, 6),
    Kind("another world size on restart: 3, 2, 1, 3", processes.resize, 4),
    Kind("disk full at a save", processes.full_disk, 6),
    Kind("two launches on one run directory", processes.second_launch, 2),
    Kind("a lease taken over", processes.overtaken, 4),
    Kind("damaged Parquet shard", inputs.damaged_shard, 10),
    Kind("schema drift, missing column", inputs.drift, 6),
    Kind("null and NaN labels and features", inputs.missing_values, 4),
    Kind("loss that is not finite", inputs.not_finite_loss, 5),
    Kind("ids negative or past the table", inputs.bad_ids, 5),
    Kind("object store: 503, stall, cut, 404, replaced", inputs.bad_store, 4),
    Kind("damaged checkpoint", stores.damaged_checkpoint, 10),
    Kind("poisoned pickle in a checkpoint", stores.poisoned_checkpoint, 4),
    Kind("MLflow down during the run", stores.tracking_down, 3),
    Kind("promotions at once, one killed", stores.promoted_at_once, 1),
)
BY_NAME = {kind.name: kind for kind in KINDS}


def schedule(count: int) -> list[Kind]:
    """Which class the n-th injection is of: spread evenly, so that a campaign cut short has tried all of them."""
    total = sum(kind.weight for kind in KINDS)
    least = 5 if count >= 500 else 1
    shares = {kind.name: max(least, math.ceil(count * kind.weight / total)) for kind in KINDS}
    first = [(0.0, kind.name) for kind in KINDS]
    later = [(n / share, name) for name, share in shares.items() for n in range(1, share)]
    chosen = [BY_NAME[name] for _, name in first + sorted(later)]
    while len(chosen) > count:
        often = max(KINDS, key=lambda kind: chosen.count(kind))
        del chosen[len(chosen) - 1 - chosen[::-1].index(often)]
    return chosen


def attempt(lab: Lab, kind: Kind, seed: int, number: int) -> Outcome:
    """One injection; all its choices follow from class, seed and number."""
    told = "never came in time"
    for redraw in range(REDRAWS):
        draw = Random(zlib.crc32(f"{kind.name}/{seed}/{number}/{redraw}".encode()))
        folder = Path(tempfile.mkdtemp(prefix=f"{number}-", dir=lab.folder))
        try:
            return kind.inject(Trial(lab, folder, draw))
        except MissedError as error:
            told = str(error)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            return Outcome("", f"{type(error).__name__} at {place.name}:{place.lineno}: {error}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return Outcome("", f"missed {REDRAWS} times: {told}")


def work(seed: int, numbers: list[int], count: int, results: Any) -> None:
    """Attempts of one worker."""
    kinds = schedule(count)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # the object store's, a line for every request
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        lab = Lab(Path(folder))
        with lab.stack:
            for number in numbers:
                results.put((number, kinds[number].name, asdict(attempt(lab, kinds[number], seed, number))))


def campaign(numbers: list[int], count: int, seed: int, workers: int) -> Iterator[tuple[int, str, Outcome]]:
    """Outcomes as they come, from processes of their own; what one that dies leaves undone the same command tries."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    shares = [numbers[i::workers] for i in range(workers)]
    started = [context.Process(target=work, args=(seed, share, count, results)) for share in shares]
    for process in started:
        process.start()
    while any(process.is_alive() for process in started) or not results.empty():
        try:
            number, name, outcome = results.get(timeout=1)
        except Empty:
            continue
        yield number, name, Outcome(**outcome)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("docs/reliability.json"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", default="", help="part of a class's name")
    options = parser.parse_args()
    report = Report.open(options.json, options.seed, options.count)
    kinds = schedule(options.count)
    wanted = [n for n, kind in enumerate(kinds) if options.only in kind.name and n not in report.done]
    for number, name, outcome in campaign(wanted, options.count, options.seed, options.workers):
        report.add(number, name, outcome)
        report.write(options.json, [kind.name for kind in KINDS])
        sys.stdout.write(f"{number:4} {name}: {outcome.what}: {outcome.why or 'survived'}\n")
        sys.stdout.flush()
    sys.stdout.write(table(report.content([kind.name for kind in KINDS])["classes"]) + "\n")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
