"""Fuzz: mutated configurations and Parquet files, each of which must end in one named line or in the right rows.

`python -m tests.faults.fuzz --count 10000 --seed 0 --json report.json`
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml

from ranking.config import RunConfig, load
from ranking.data.encode import Encoder
from ranking.data.loader import Loader
from ranking.data.transforms import Transforms
from ranking.errors import InputError
from ranking.models import zoo
from ranking.rows import Rows
from tests.faults.hostile import Case
from tests.faults.hostile_parquet import shard
from tests.faults.mutations import KINDS, ROWS, draw_case
from tests.workspace import build, impressions

MODELS = Path(__file__).parents[2] / "configs" / "models"
SECONDS = 20
"""A case that takes longer hangs."""


@dataclass(frozen=True)
class Outcome:
    """How a case ended: `error` (named), `result` (right), or `failure`, and what was said."""

    number: int
    kind: str
    end: str
    text: str = ""


class Bench:
    """A workspace with a good shard beside which every mutated one is laid."""

    def __init__(self, folder: Path) -> None:
        self.workspace = build(folder)
        self.config = self.workspace.config("--data.retry.deadline_s=0", "--data.threads=1", "--data.prefetch=0")
        self.models = [
            yaml.safe_load(file.read_text())["model"] for file in sorted(Path("configs/models").glob("*.yaml"))
        ]
        self.encoder = Encoder(self.config.schema, Transforms.load(self.config.data.transforms, self.config.schema))
        self.good = impressions(ROWS, 4)
        self.shards = folder / "fuzz"
        self.impatient = folder / "impatient.yaml"
        self.impatient.write_text("data: {retry: {deadline_s: 0}}")

    def check(self, seed: int, number: int) -> Outcome:
        """Draw a case, run it, and judge how it ends."""
        case = draw_case(seed, number, self.workspace.folder, self.models)
        try:
            with _Deadline(SECONDS):
                wrong = self.configured(case) if case.overlay else self.read(case)
        except InputError as error:
            wrong = _unnamed(str(error), case)
            return Outcome(number, case.kind, "failure" if wrong else "error", wrong or str(error))
        except (Exception, _Late) as error:
            return Outcome(number, case.kind, "failure", f"{type(error).__name__}: {error}")
        return Outcome(number, case.kind, "failure" if wrong else "result", wrong)

    def configured(self, case: Case) -> str:
        """Load, check that it means what it says, and read the workspace's data and build the model with it."""
        file = self.workspace.folder / "fuzz.yaml"
        file.write_text(case.overlay, encoding="latin-1" if case.kind == "yaml_bytes" else "utf-8")
        config = load([file, self.impatient])
        again = RunConfig(**config.model_dump(mode="json"))
        if repr(again) != repr(config):
            return f"not what it says: {again!r} from {config!r}"
        with torch.device("meta"):
            zoo.build(config.model, config.schema.input_width, config.schema.tasks)
        encoder = Encoder(config.schema, Transforms.load(config.data.transforms, config.schema))
        manifest = config.data.manifest(config.data.train, config.schema.columns(), "data.train")
        data = config.data.model_copy(update={"threads": 1, "prefetch": 0})
        plan = data.plan(manifest, config.seed)
        if plan.batch_size > 10**6:
            return ""
        rows = Rows.cat([rows for _, rows in Loader(manifest, plan, encoder.rows, data, epochs=1)])
        return _unsound(rows, manifest.rows, config, encoder)

    def read(self, case: Case) -> str:
        """Two shards, the second one mutated, through one epoch of the loader."""
        shutil.rmtree(self.shards, ignore_errors=True)
        place = self.shards / case.name
        place.parent.mkdir(parents=True)
        (self.shards / "part-0.parquet").write_bytes(shard(self.good))
        place.write_bytes(case.file)
        data = self.config.data
        urls = [str(self.shards / "part-0.parquet"), str(place)]
        manifest = data.manifest(urls, self.config.schema.columns(), "data.train")
        loader = Loader(manifest, data.plan(manifest, 0), self.encoder.rows, data, epochs=1)
        rows = Rows.cat([rows for _, rows in loader])
        wrong = _unsound(rows, manifest.rows, self.config, self.encoder)
        if wrong or case.table is None:
            return wrong
        found = rows.take(rows.index.argsort(stable=True)[len(rows) - manifest.rows :])
        expected = Rows.cat([self.encoder.rows(t, torch.arange(len(t))) for t in (self.good, case.table)])
        return "" if _same(found, expected) else "other rows than the file's"


def _unsound(rows: Rows, count: int, config: RunConfig, encoder: Encoder) -> str:
    """What no input may lead to."""
    index = rows.index[rows.real]
    if not torch.equal(index.sort().values, torch.arange(count)):
        return f"not every row once: {len(index)} of {count}"
    for values in (rows.dense, rows.labels):
        if not values.isfinite().all():
            return "a number that is not finite"
    if (rows.masks & ~rows.observed).any():
        return "an unobserved label trains"
    sizes = [encoder.transforms.table_rows(config.schema, f.table_name) for f in config.schema.categorical]
    single = [n for n, f in zip(sizes, config.schema.categorical, strict=True) if not f.multi_hot]
    several = [n for n, f in zip(sizes, config.schema.categorical, strict=True) if f.multi_hot]
    columns = [*zip(rows.ids, single, strict=True), *zip((r.values for r in rows.lists), several, strict=True)]
    for ids, size in columns:
        if len(ids) and not (0 <= int(ids.min()) and int(ids.max()) < size):
            return f"an id outside its table of {size} rows"
    return ""


def _same(one: Rows, other: Rows) -> bool:
    tensors = ("ids", "dense", "labels", "observed", "masks", "groups")
    equal = all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors)
    lists = zip(one.lists, other.lists, strict=True)
    return equal and all(torch.equal(a.values, b.values) and torch.equal(a.lengths, b.lengths) for a, b in lists)


def _unnamed(message: str, case: Case) -> str:
    """What is wrong with an error's text: several lines, or it does not say where."""
    if len(message.splitlines()) != 1 or len(message) > 2000:
        return f"not one line: {message!r}"
    places = [
        "fuzz.yaml",
        "data.",
        "schema.",
        "feature ",
        "task ",
        "column ",
        "transforms.json",
        "label ",
        "table ",
        "file://",
    ]
    places += [Path(case.name).name.splitlines()[0][:100], "training.", "evaluation."]
    return "" if any(place and place in message for place in places) else f"names nothing: {message}"


class _Late(BaseException):
    """A case hangs; no Exception, which a store would take for a fault that passes."""


class _Deadline:
    """Raises _Late after some seconds; ends the process when even that is not heard."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds

    def __enter__(self) -> None:
        signal.signal(signal.SIGALRM, self._ring)
        signal.alarm(self.seconds)
        faulthandler.dump_traceback_later(3 * self.seconds, exit=True)

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()

    def _ring(self, _signal: int, _frame: FrameType | None) -> None:
        raise _Late(f"more than {self.seconds} s")


def _work(seed: int, numbers: range, sender: Connection) -> None:
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        bench = Bench(Path(folder))
        sender.send("ready")
        for number in numbers:
            sender.send(bench.check(seed, number))


def fuzz(count: int, seed: int = 0) -> Iterator[Outcome]:
    """Outcomes of cases 0 .. count-1; a case that kills its process is a failure like any other."""
    context = multiprocessing.get_context("spawn")
    done = 0
    while done < count:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(seed, range(done, count), sender), daemon=True)
        process.start()
        sender.close()
        try:
            assert receiver.recv() == "ready"
            while done < count:
                yield receiver.recv()
                done += 1
        except EOFError:
            process.join()
            yield Outcome(done, KINDS[done % len(KINDS)], "failure", f"the process died with {process.exitcode}")
            done += 1
        finally:
            process.join(1)
            process.kill()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tried: dict[str, Counter[str]] = {}
    failures: list[dict[str, Any]] = []
    for outcome in fuzz(options.count, options.seed):
        tried.setdefault(outcome.kind, Counter())[outcome.end] += 1
        if outcome.end == "failure":
            failures.append(asdict(outcome))
            _say(f"seed {options.seed} case {outcome.number} {outcome.kind}: {outcome.text[:400]}")
    head = ("class", "tried", "named errors", "right results", "failures")
    rows = [(kind, ends.total(), ends["error"], ends["result"], ends["failure"]) for kind, ends in tried.items()]
    rows.append(("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    for row in [head, *rows]:
        _say("  ".join(str(cell).ljust(width) for cell, width in zip(row, (16, 8, 14, 14, 8), strict=True)))
    if options.json:
        table = [dict(zip(head, row, strict=True)) for row in rows]
        content = {"seed": options.seed, "count": options.count, "classes": table, "failures": failures}
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
