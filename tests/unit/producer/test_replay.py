"""Recorded traffic, played again: formats are found out, bad lines are counted, times are moved."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smartscale.clock import MICROS, parse_iso_us
from smartscale.errors import ConfigError
from smartscale.producer.load import Load
from smartscale.producer.replay import Recording, open_load
from smartscale.records.events_json import EventIn

START_US = parse_iso_us("2026-06-01T00:00:00Z")


def recording(folder: Path, text: str) -> Recording:
    path = folder / "traffic.log.gz"
    path.write_bytes(gzip.compress(text.encode()))
    opened = open_load(path, peak_per_s=100, service="shop")
    assert isinstance(opened, Recording)
    return opened


def replayed(opened: Recording) -> list[EventIn]:
    return [event for chunk in opened.chunks(START_US, "r") for event in chunk.events()]


def test_a_csv_of_rates_is_a_load_scaled_to_the_peak(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    path.write_text("timestamp,requests\n2024-01-01T00:00:00Z,3\n2024-01-01T00:01:00Z,6\n")
    load = open_load(path, peak_per_s=50, service="shop")
    assert isinstance(load, Load)
    (source,) = load.sources
    assert source.name == "shop"
    assert source.demand(np.array([0.0, 59.9, 60.0, 119.9])).tolist() == [25, 25, 50, 50]


def test_a_curve_may_be_scaled_and_pass_faster(tmp_path: Path) -> None:
    """3 and 6 requests a minute, ten times as many, thirty times as fast: 15 and 30 a second for two seconds each."""
    path = tmp_path / "rates.csv"
    path.write_text("timestamp,requests\n2024-01-01T00:00:00Z,3\n2024-01-01T00:01:00Z,6\n")
    load = open_load(path, None, "shop", scale=10, speed=30)
    assert isinstance(load, Load)
    assert load.sources[0].demand(np.array([0.0, 1.9, 2.0, 3.9])).tolist() == [15, 15, 30, 30]
    assert load.duration_s == 4
    to_peak = open_load(path, 50, "shop", speed=30)
    assert isinstance(to_peak, Load)
    assert to_peak.sources[0].demand(np.array([0.0, 3.9])).tolist() == [25, 50]


def test_requests_may_pass_faster_and_be_sent_several_times_or_in_part(tmp_path: Path) -> None:
    """Copies have the same time and ids of their own; a fraction is drawn, the same in every run and process."""
    path = tmp_path / "requests.csv"
    lines = [f"2024-01-01T00:{i // 60:02d}:{i % 60:02d}Z,e{i}" for i in range(600)]
    path.write_text("timestamp,id\n" + "\n".join(lines))

    def ids(scale: float, worker: int = 0, workers: int = 1) -> list[str]:
        opened = open_load(path, None, scale=scale, speed=10)
        assert isinstance(opened, Recording)
        chunks = list(opened.chunks(START_US, "r", worker, workers))
        assert max(int(chunk.due_us[-1]) for chunk in chunks) <= START_US + 59_900_000
        return [str(event.id) for chunk in chunks for event in chunk.events()]

    assert ids(2)[:4] == ["e0", "r-0-1", "e1", "r-1-1"]
    assert len(set(ids(2.5))) == len(ids(2.5))
    assert 1400 < len(ids(2.5)) < 1600
    assert 80 < len(ids(0.2)) < 160
    assert sorted(ids(2.5, 0, 2) + ids(2.5, 1, 2)) == sorted(ids(2.5))


def test_a_recording_may_be_ended_early(tmp_path: Path) -> None:
    opened = recording(tmp_path, "timestamp\n" + "\n".join(f"2024-01-01T00:00:{i:02d}Z" for i in range(60)))
    assert [len(chunk) for chunk in replace(opened, for_s=2.5).chunks(START_US, "r")] == [3]


def test_a_csv_of_requests_uses_the_columns_it_finds(tmp_path: Path) -> None:
    """Path and method make the name, without the query; microseconds become milliseconds."""
    text = (
        "timestamp,method,path,status,duration_us,service,id\n"
        "2024-01-01T00:00:00Z,GET,/a?x=1,200,1500,,\n"
        "2024-01-01T00:00:01.5Z,POST,/b,503,,api,e7\n"
    )
    assert replayed(recording(tmp_path, text)) == [
        EventIn(
            service="shop",
            time="2026-06-01T00:00:00Z",
            name="GET /a",
            status=200,
            latency_ms=1.5,
            id="r-0",
        ),
        EventIn(service="api", time="2026-06-01T00:00:01.500000Z", name="POST /b", status=503, id="e7"),
    ]


def test_a_status_in_words_says_whether_it_is_an_error(tmp_path: Path) -> None:
    text = "timestamp,type,status,exec_seconds\n2024-01-01T00:00:00Z,IMG,SUCCEED,2\n2024-01-01T00:00:00Z,IMG,FAILED,3\n"
    first, second = replayed(recording(tmp_path, text))
    assert (first.name, first.error, first.status, first.latency_ms) == ("IMG", False, None, 2000)
    assert (second.error, second.latency_ms) == (True, 3000)


def test_an_access_log_is_read_with_its_zone(tmp_path: Path) -> None:
    """The combined format, the common one, and a request line that is empty."""
    text = (
        '10.0.0.1 - - [17/May/2015:10:05:03 +0000] "GET /a?q=1 HTTP/1.1" 200 20 "http://x/" "Mozilla"\n'
        '10.0.0.1 - eve [17/May/2015:12:05:04 +0200] "POST /b HTTP/1.0" 404 -\n'
        '10.0.0.1 - - [17/May/2015:10:05:05 +0000] "-" 408 -\n'
    )
    events = replayed(recording(tmp_path, text))
    assert [(event.name, event.status) for event in events] == [("GET /a", 200), ("POST /b", 404), ("-", 408)]
    assert [event.time for event in events] == [f"2026-06-01T00:00:0{i}Z" for i in range(3)]


def test_an_openstack_log_holds_requests_and_log_events(tmp_path: Path) -> None:
    """An id in a path is left out, else every request would have a name of its own."""
    text = (
        "nova-api.log.1 2017-05-16 00:00:00.008 25746 INFO nova.osapi_compute.wsgi.server [req-1 - -] 10.11.10.1 "
        '"GET /v2/54fadb412c4e40cdbaed9335e4c35a9e/servers/detail HTTP/1.1" status: 200 len: 1893 time: 0.25\n'
        "2017-05-16 00:00:01.008 2931 ERROR nova.compute.manager [req-2] instance is gone\n"
    )
    request, logged = replayed(recording(tmp_path, text))
    assert (request.kind, request.name, request.latency_ms) == (
        "interaction",
        "GET /v2/{id}/servers/detail",
        250,
    )
    assert (logged.kind, logged.name, logged.severity) == ("log", "nova.compute.manager", "error")


def test_bad_lines_are_counted_and_told_and_stop_nothing(tmp_path: Path) -> None:
    text = "timestamp,status\n2024-01-01T00:00:00Z,200\nnonsense\n2024-01-01T00:00:01Z,9999\n2024-01-01T00:00:02Z,\n"
    opened = recording(tmp_path, text)
    assert len(replayed(opened)) == 2
    assert opened.skipped.lines == 2
    assert opened.skipped.examples[0].startswith("line 3: ")
    assert "9999" in opened.skipped.examples[1]


def test_lines_out_of_order_keep_their_times_and_are_due_at_once(tmp_path: Path) -> None:
    text = "timestamp\n2024-01-01T00:00:00Z\n2024-01-01T00:00:05Z\n2024-01-01T00:00:03Z\n"
    (chunk,) = recording(tmp_path, text).chunks(START_US, "r")
    assert (chunk.due_us - START_US).tolist() == [0, 5 * MICROS, 5 * MICROS]
    assert chunk.events()[2].time == "2026-06-01T00:00:03Z"


def test_a_long_recording_comes_in_chunks_that_are_in_order(tmp_path: Path) -> None:
    lines = [f"2024-01-01T00:{i // 60 % 60:02d}:{i % 60:02d}Z" for i in range(2500)]
    chunks = list(recording(tmp_path, "timestamp\n" + "\n".join(lines)).chunks(START_US, "r"))
    assert len(chunks) == 3
    assert (np.diff(np.concatenate([chunk.due_us for chunk in chunks])) >= 0).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello\n", "not understood"),
        ("", "not understood"),
        ("timestamp,status\nnever,200\n", "no line could be read"),
    ],
)
def test_a_file_of_another_kind_is_told_what_is_understood(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        recording(tmp_path, text)
