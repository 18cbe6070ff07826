"""Faults of what a training reads: damaged, drifting or wrong shards, and object stores on a bad day."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from random import Random
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ranking.data.encode import Encoder
from ranking.data.loader import Loader
from ranking.data.transforms import Transforms
from ranking.errors import EXIT_INPUT
from ranking.rows import Rows
from tests.faults.proxy import Fault, Proxy
from tests.faults.trial import (
    PATIENCE,
    STEPS,
    MissedError,
    Outcome,
    Trial,
    codes,
    complaint,
    not_finite,
    refusal,
    rows_apart,
)

SHARDS, ROWS = 4, 1000
BOUND = 0.1
"""Share of the rows that one row group takes."""


def damaged_shard(trial: Trial) -> Outcome:
    """Bits flipped in, or the end cut off, a training shard, before the run or while it is stopped; then it is mended.

    The job refuses it by name, or leaves it out within the bound, or was never touched by it.
    """
    folder, bounded = _copy(trial), trial.draw.random() < 0.4
    trial.settings += (f"--data.train={folder}", *((f"--data.quarantine.max_share={BOUND}",) if bounded else ()))
    began = trial.draw.random() < 0.3
    if began:
        trial.launch(faults=f"0:term:step:{trial.draw.randint(2, 8)}").wait(PATIENCE)
    before = set(trial.lineage())
    file = folder / f"part-{trial.draw.randrange(SHARDS)}.parquet"
    how = _flip(trial.draw, file) if trial.draw.random() < 0.7 else _cut(trial.draw, file)
    what = f"{file.name} {how}{', while stopped' * began}{', quarantine' * bounded}"
    ended = trial.launch().wait(PATIENCE)
    if any(codes(ended)):
        if wrong := refusal(ended, file.name):
            return Outcome(what, wrong)
        original = trial.lab.workspace.folder / "data" / "train" / file.name
        shutil.copyfile(original, file)
        again = trial.launch().wait(PATIENCE)
        if any(codes(again)):
            return Outcome(what, f"mended, the same command ended with {codes(again)}: {complaint(again)}")
    return _complete(trial, what, before)


def drift(trial: Trial) -> Outcome:
    """A column of one shard is missing or of another type: the same tensors, or an error naming file and column."""
    folder, number = _copy(trial), trial.draw.randrange(SHARDS)
    name, change = trial.draw.choice(
        [(name, change) for change, names in DRIFTS.items() for name in names],
    )
    file = folder / f"part-{number}.parquet"
    _rewrite(file, lambda table: change(table, name))
    what = f"{file.name}: column {name}: {change.__name__}"
    return _sound(trial, what, folder, name, same=True)


def missing_values(trial: Trial) -> Outcome:
    """Null and NaN labels and numbers: masked or filled, and every parameter stays finite."""
    folder, share = _copy(trial), trial.draw.choice([0.02, 0.3, 1.0])
    names = trial.draw.sample(["is_click", "is_like", "play_ms", "duration", "age"], 2)
    kind = trial.draw.choice(["null", "NaN"])
    seed, files = trial.draw.randrange(2**31), trial.draw.sample(range(SHARDS), trial.draw.randint(1, 3))

    def spoil(table: pa.Table, share: float) -> pa.Table:
        for name in names:
            lost = np.random.default_rng(seed).random(len(table)) < share
            values = np.where(lost, np.nan, table[name].cast(pa.float64()).to_numpy())
            column = pa.array(values, mask=lost if kind == "null" else None)
            table = table.set_column(table.schema.names.index(name), name, column)
        return table

    for number in range(SHARDS):  # all of them as doubles, because a mixture of types is another fault
        own = share if number in files else 0.0
        _rewrite(folder / f"part-{number}.parquet", lambda table, own=own: spoil(table, own))
    return _sound(trial, f"{share:.0%} {kind} in {', '.join(names)} of {len(files)} shards", folder)


def not_finite_loss(trial: Trial) -> Outcome:
    """Numbers that leave the range of floats, in a row or by the learning rate: all ranks stop, nothing is poisoned."""
    folder, kind = _copy(trial), trial.draw.choice(["rate", "play_ms", "duration"])
    value = trial.draw.choice([math.inf, -math.inf, 1e300, 3e38])
    words: tuple[str, ...] = ()
    if kind == "rate":
        rate = trial.draw.choice(["1e20", "1e30", "1e38"])
        trial.settings += ("--optimizer.dense.type=sgd", f"--optimizer.dense.learning_rate={rate}")
        what, words = f"learning rate {rate}", ("is not finite",)
    else:
        file, row = folder / f"part-{trial.draw.randrange(SHARDS)}.parquet", trial.draw.randrange(250)
        _rewrite(file, lambda table: _replaced(table, kind, row, value))
        what = f"{kind} {value} in row {row} of {file.name}"
    trial.settings += (f"--data.train={folder}",)
    ended = trial.launch().wait(PATIENCE)
    poisoned = not_finite(trial.checkpoints) if trial.checkpoints.exists() else ""
    if poisoned:
        return Outcome(what, poisoned, silent=True)
    return Outcome(what, refusal(ended, *words) if any(codes(ended)) else _every_row_once(trial))


def bad_ids(trial: Trial) -> Outcome:
    """Ids below 0 or past the table: refused by name, wrapped or hashed as the feature says; never another table's."""
    folder, name = _copy(trial), trial.draw.choice(["tab", "video_id", "user_id", "recent"])
    value, row = trial.draw.choice([-1, -(2**62), 5, 40, 2**31, 2**62]), trial.draw.randrange(250)
    file = folder / f"part-{trial.draw.randrange(SHARDS)}.parquet"
    _rewrite(file, lambda table: _replaced(table, name, row, [value] if name == "recent" else value))
    what = f"{name} {value} in row {row} of {file.name}"
    if name == "tab":
        ended = trial.launch(f"--data.train={folder}").wait(PATIENCE)
        return Outcome(what, refusal(ended, file.name, "tab", str(value)))
    return _sound(trial, what, folder, name)


def bad_store(trial: Trial) -> Outcome:
    """An object store that refuses, stalls, cuts off, loses or replaces objects: waited for, or named."""
    options = trial.lab.once("s3", lambda: _store(trial))
    url = f"s3://campaign/{trial.folder.name}"
    system = fsspec.filesystem("s3", **options)
    system.put(str(trial.lab.workspace.folder / "data" / "train"), url, recursive=True)
    shard = f"part-{trial.draw.randrange(SHARDS)}.parquet"
    kind = trial.draw.choice(["passing", "passing", "passing", "gone", "replaced"])
    host, port = options["endpoint_url"].removeprefix("http://").split(":")
    with Proxy(host, int(port)) as proxy:
        reached = options | {"endpoint_url": proxy.url, "config_kwargs": {"read_timeout": 1, "connect_timeout": 5}}
        trial.settings += (f"--data.train={url}/*.parquet", f"--data.storage_options={json.dumps(reached)}")
        if kind == "passing":
            return _passing(trial, proxy)
        step = trial.draw.randint(1, STEPS // 2)
        trial.launch(faults=f"0:term:step:{step}").wait(PATIENCE)
        content = system.cat_file(f"{url}/{shard}")
        system.rm_file(f"{url}/{shard}")
        if kind == "replaced":
            system.pipe_file(f"{url}/{shard}", content[:-20] + bytes(20))
        what = f"{shard} {kind} after step {step}"
        if wrong := refusal(trial.launch().wait(PATIENCE), shard):
            return Outcome(what, wrong)
        system.pipe_file(f"{url}/{shard}", content)
        return _ends_as_plain(trial, what)


def _passing(trial: Trial, proxy: Proxy) -> Outcome:
    kinds = trial.draw.choices(["status", "stall", "cut", "reset"], k=trial.draw.randint(1, 4))
    kinds += trial.draw.choice([[], ["short"], ["flip"]])  # one: wrong bytes are asked for five times in all
    faults = [
        Fault(
            kind,  # type: ignore[arg-type]
            times=trial.draw.randint(1, 2),
            status=trial.draw.choice([429, 500, 503]),
            seconds=2,
            path=f"part-{trial.draw.randrange(SHARDS)}",
        )
        for kind in kinds
    ]
    with proxy.failing(*faults):
        ended = trial.launch("--data.retry.deadline_s=60").wait(PATIENCE)
    what = f"store: {', '.join(kinds)}; {sum(fault.met for fault in faults)} requests"
    if not any(fault.met for fault in faults):
        raise MissedError(what)
    if any(codes(ended)):
        return Outcome(what, f"ended with {codes(ended)}: {complaint(ended)}")
    return trial.compared(what, trial.lab.reference())


def _ends_as_plain(trial: Trial, what: str) -> Outcome:
    ended = trial.launch().wait(PATIENCE)
    if any(codes(ended)):
        return Outcome(what, f"the same command ended with {codes(ended)}: {complaint(ended)}")
    return trial.compared(what, trial.lab.reference())


def _store(trial: Trial) -> dict[str, Any]:
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    trial.lab.stack.callback(running.stop)
    host, port = running.get_host_and_port()
    options = {"key": "k", "secret": "s", "endpoint_url": f"http://{host}:{port}"}
    fsspec.filesystem("s3", **options).mkdir("campaign")
    return options


def _copy(trial: Trial) -> Path:
    return Path(shutil.copytree(trial.lab.workspace.folder / "data" / "train", trial.folder / "train"))


def _rewrite(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(file)), file, row_group_size=100, write_page_checksum=True)


def _replaced(table: pa.Table, name: str, row: int, value: object) -> pa.Table:
    values = table[name].to_pylist()
    values[row] = value
    return table.set_column(table.schema.names.index(name), name, pa.array(values, table[name].type))


def _flip(draw: Random, file: Path) -> str:
    content = bytearray(file.read_bytes())
    places = [draw.randrange(len(content)) for _ in range(draw.choice([1, 1, 1, 8]))]
    for place in places:
        content[place] ^= 1 << draw.randrange(8)
    file.write_bytes(content)
    return f"flipped at {', '.join(map(str, places))} of {len(content)}"


def _cut(draw: Random, file: Path) -> str:
    size = draw.randrange(file.stat().st_size)
    with file.open("r+b") as stream:
        stream.truncate(size)
    return f"cut to {size} bytes"


def _complete(trial: Trial, what: str, before: Collection[int] = ()) -> Outcome:
    """A run that says it is done has taken every row in its place, but for those it says it left out.

    What was damaged later had its place in the steps `before`.
    """
    report = json.loads((trial.run / "report.json").read_text())
    reference = trial.lab.reference()
    expected, out = Trial(trial.lab, reference, trial.draw).lineage(), set[int]()
    for each in report["quarantined"]:
        shard = int(each["url"].rsplit("part-", 1)[1].split(".")[0])
        start = 250 * shard + 100 * each["row_group"]
        out |= set(range(start, start + each["rows"]))
    if not out:
        return trial.compared(what, reference)
    for step in expected.keys() - set(before):
        for record in expected[step]:
            record["rows"] = [row for row in record["rows"] if row not in out]
    lost = rows_apart(expected, trial.lineage())
    why = f"{lost} other rows lost" if lost else not_finite(trial.checkpoints)
    why = why or ("more than the bound" if len(out) > BOUND * ROWS else "")
    return Outcome(f"{what}; {len(out)} rows left out and reported", why, lost)


def _every_row_once(trial: Trial) -> str:
    """Each epoch takes every row once, whatever the order."""
    found = trial.lineage()
    epochs = [[row for step in half for part in found.get(step, []) for row in part["rows"]] for half in _epochs()]
    return "" if all(sorted(rows) == list(range(ROWS)) for rows in epochs) else "not every row once an epoch"


def _epochs() -> tuple[range, range]:
    return range(STEPS // 2), range(STEPS // 2, STEPS)


def _sound(trial: Trial, what: str, folder: Path, name: str = "", same: bool = False) -> Outcome:
    """Refused with the column's name, where it may be, and nothing written; or trained on every row, soundly."""
    trial.settings += (f"--data.train={folder}",)
    ended = trial.launch().wait(PATIENCE)
    if ended[0].code == EXIT_INPUT and name:
        wrong = refusal(ended, "part-", f"'{name}'")
        return Outcome(what, wrong or ("it left checkpoints" if trial.checkpoints.exists() and same else ""))
    if any(codes(ended)):
        return Outcome(what, f"ended with {codes(ended)}: {complaint(ended)}")
    once = _every_row_once(trial)
    why = not_finite(trial.checkpoints) or _unsound(trial, folder, same)
    return Outcome(what, once or why, lost_rows=int(bool(once)), silent=bool(why))


def _unsound(trial: Trial, folder: Path, same: bool) -> str:
    """What no shard may lead to: ids outside their tables, numbers that are not finite, other rows than before."""
    from tests.faults.fuzz import _same
    from tests.faults.fuzz import _unsound as unsound

    config = trial.lab.workspace.config("--data.threads=1", "--data.prefetch=0")
    encoder = Encoder(config.schema, Transforms.load(config.data.transforms, config.schema))
    both = []
    for place in (folder, trial.lab.workspace.folder / "data" / "train"):
        manifest = config.data.manifest([str(place)], config.schema.columns(), "data.train")
        loader = Loader(manifest, config.data.plan(manifest, 0), encoder.rows, config.data, epochs=1)
        rows = Rows.cat([rows for _, rows in loader])
        if wrong := unsound(rows, ROWS, config, encoder):
            return wrong
        both.append(rows.take(rows.index.argsort(stable=True)[len(rows) - ROWS :]))
    return "other tensors than the undrifted shard gives" if same and not _same(*both) else ""


def missing(table: pa.Table, name: str) -> pa.Table:
    return table.drop_columns(name)


def narrower(table: pa.Table, name: str) -> pa.Table:
    return _cast(table, name, pa.int32())


def dictionary(table: pa.Table, name: str) -> pa.Table:
    return table.set_column(table.schema.names.index(name), name, table[name].dictionary_encode())


def text(table: pa.Table, name: str) -> pa.Table:
    return _cast(table, name, pa.string())


def double(table: pa.Table, name: str) -> pa.Table:
    return _cast(table, name, pa.float64())


def large(table: pa.Table, name: str) -> pa.Table:
    return _cast(table, name, pa.large_list(pa.int64()))


def narrower_list(table: pa.Table, name: str) -> pa.Table:
    return _cast(table, name, pa.list_(pa.int32()))


def _cast(table: pa.Table, name: str, wanted: pa.DataType) -> pa.Table:
    return table.set_column(table.schema.names.index(name), name, table[name].cast(wanted))


DRIFTS: dict[Callable[[pa.Table, str], pa.Table], tuple[str, ...]] = {
    missing: ("user_id", "recent", "age", "is_click", "play_ms"),
    narrower: ("user_id", "video_id", "tab", "is_click"),
    dictionary: ("user_id", "video_id", "tab"),
    text: ("video_id", "duration", "is_like"),
    double: ("video_id", "is_click", "tab"),
    large: ("recent",),
    narrower_list: ("recent",),
}
