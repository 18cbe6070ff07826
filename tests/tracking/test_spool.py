from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from ranking.tracking.spool import Event, Journal, Spool


class Collector:
    """A sink that can be down."""

    def __init__(self, failures: int = 0, at_once: int = 1000) -> None:
        self.events: list[Event] = []
        self.closed = False
        self._failures, self._at_once = failures, at_once

    def __call__(self, events: Sequence[Event]) -> int:
        if self._failures:
            self._failures -= 1
            raise ConnectionError("down: https://user:canary@host")
        self.events += events[: self._at_once]
        return len(events[: self._at_once])

    def close(self) -> None:
        self.closed = True


def numbered(count: int, start: int = 0) -> list[Event]:
    return [{"kind": "metrics", "step": step} for step in range(start, start + count)]


def test_everything_is_delivered_once_and_in_order(tmp_path: Path) -> None:
    sink = Collector(at_once=7)
    spool = Spool(tmp_path, sink)
    for event in numbered(1200):
        spool.append(event)
    assert spool.close(deadline=30) == 0
    assert sink.events == numbered(1200)
    assert sink.closed


def test_a_sink_that_comes_back_gets_everything(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = Collector(failures=3)
    spool = Spool(tmp_path, sink, max_backoff=0.01, flush_seconds=0.01)
    for event in numbered(10):
        spool.append(event)
    assert spool.close(deadline=30) == 0
    assert sink.events == numbered(10)
    assert "attempt 1 failed" in caplog.text
    assert "canary" not in caplog.text


def test_what_the_deadline_leaves_is_replayed(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Collector(failures=1_000_000))
    for event in numbered(5):
        spool.append(event)
    assert spool.close(deadline=0) == 5
    later = Collector()
    assert Spool.replay(tmp_path, later, deadline=30) == 0
    assert later.events == numbered(5)
    assert Spool.replay(tmp_path, never := Collector(), deadline=30) == 0
    assert never.events == []


def test_a_second_process_goes_on_after_the_first(tmp_path: Path) -> None:
    for start in (0, 5):
        sink = Collector()
        spool = Spool(tmp_path, sink)
        for event in numbered(5, start):
            spool.append(event)
        assert spool.close(deadline=30) == 0
        assert sink.events == numbered(5, start)


@pytest.mark.parametrize("torn", [b'{"kind": "metr', b'{"kind": "metrics", "step": 99}', b"\x00\x00\x00", b"7"])
def test_a_line_torn_by_a_kill_costs_only_itself(tmp_path: Path, torn: bytes) -> None:
    journal = Journal(tmp_path)
    for event in numbered(2):
        journal.append(event)
    journal.close()
    with (tmp_path / "spool.jsonl").open("ab") as file:
        file.write(torn)
    sink = Collector()
    spool = Spool(tmp_path, sink)
    for event in numbered(2, start=2):
        spool.append(event)
    assert spool.close(deadline=30) == 0
    assert [event for event in sink.events if event["step"] != 99] == numbered(4)


@pytest.mark.parametrize("content", ["", "{", '{"offset": 1000000}', '{"offset": -1}', "[]"])
def test_a_lost_acknowledgement_delivers_again_rather_than_never(tmp_path: Path, content: str) -> None:
    journal = Journal(tmp_path)
    journal.append({"kind": "metrics"})
    journal.close()
    (tmp_path / "spool.offset").write_text(content)
    sink = Collector()
    assert Spool.replay(tmp_path, sink, deadline=30) == 0
    assert sink.events == [{"kind": "metrics"}]


def test_a_full_disk_costs_the_event_and_not_the_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "spool.jsonl").symlink_to("/dev/full")
    spool = Spool(tmp_path, Collector())
    for event in numbered(3):
        spool.append(event)
    assert spool.close(deadline=5) == 0
    assert "1 events lost" in caplog.text
    assert "No space left" in caplog.text


def test_a_later_artifact_of_the_same_name_replaces_the_first(tmp_path: Path) -> None:
    sink = Collector()
    spool = Spool(tmp_path, sink)
    for content in (b"first", b"second"):
        spool.attach("figures/auc.png", content)
    assert spool.close(deadline=30) == 0
    assert [event["path"] for event in sink.events] == ["figures/auc.png"] * 2
    assert (tmp_path / "artifacts" / "figures" / "auc.png").read_bytes() == b"second"


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path)

    def write(thread: int) -> None:
        for step in range(200):
            journal.append({"thread": thread, "step": step, "text": "x" * 500})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    events = [json.loads(line) for line in (tmp_path / "spool.jsonl").read_text().splitlines()]
    for number in range(4):
        assert [event["step"] for event in events if event["thread"] == number] == list(range(200))


def test_closing_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    Spool(tmp_path, Collector()).close(deadline=5)
    assert threading.active_count() == before
