"""The access log: off the hot path, bounded, followed through rotation."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from smartscale.ingest import access_log
from smartscale.ingest.access_log import AccessLog, Line

LINE = Line(1_000_000, "POST", "/v1/events", 207, "::1", "shop", "application/json", 120, 3, 1, 1, 4.25)


def test_lines_are_text_or_json() -> None:
    assert LINE.text() == (
        "1970-01-01T00:00:01Z POST /v1/events 207 ::1 shop application/json in=120 accepted=3 duplicate=1 refused=1 ms=4.2"
    )
    assert json.loads(LINE.json()) == {
        "time": "1970-01-01T00:00:01Z", "method": "POST", "path": "/v1/events", "status": 207, "peer": "::1",
        "tenant": "shop", "media_type": "application/json", "bytes_in": 120,
        "accepted": 3, "duplicate": 1, "refused": 1,
        "duration_ms": 4.25,
    }  # fmt: skip


def test_what_a_client_chose_cannot_forge_a_line() -> None:
    line = Line(0, "GET", "/x\n1970 POST /forged 200", 404, "", "", "a b", 0, 0, 0, 0, 0.0)
    assert line.text().splitlines() == [
        "1970-01-01T00:00:00Z GET /x?1970?POST?/forged?200 404 - - a?b in=0 accepted=0 duplicate=0 refused=0 ms=0.0"
    ]


def test_lines_are_written_and_go_on_after_the_file_was_moved_away(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    log = AccessLog(file, "json")
    log.start()
    log.put(LINE)
    deadline = threading.Event()
    while not file.read_text():
        deadline.wait(0.01)
    file.rename(tmp_path / "access.log.1")
    log.put(LINE)
    log.close()
    assert len(file.read_text().splitlines()) == 1
    assert len((tmp_path / "access.log.1").read_text().splitlines()) == 1
    assert log.dropped == 0


def test_a_full_queue_drops_lines_and_counts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "MAX_LINES", 10)
    log = AccessLog(tmp_path / "access.log", "text")
    for _ in range(25):
        log.put(LINE)
    log.start()
    log.close()
    assert log.dropped == 15
    assert len((tmp_path / "access.log").read_text().splitlines()) == 10


def test_a_disk_that_refuses_stops_nothing(tmp_path: Path) -> None:
    """The folder goes away: lines are dropped and counted."""
    folder = tmp_path / "logs"
    folder.mkdir()
    log = AccessLog(folder / "access.log", "text")
    (folder / "access.log").unlink()
    folder.rmdir()
    log.put(LINE)
    log.start()
    log.close()
    assert log.dropped == 1
