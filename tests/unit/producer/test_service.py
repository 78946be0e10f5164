"""A load becomes a report: by one process or several, from files, judged, and complete or said not to be."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from smartscale.clock import Anchor, parse_iso_us, wall_ms
from smartscale.errors import PermanentError, RetryableError, UserError
from smartscale.producer import service
from smartscale.producer.job import Job, LoadSpec, opened
from smartscale.producer.labels import Labels, truth
from smartscale.producer.load import Load
from smartscale.producer.plan import planned
from smartscale.producer.player import Options, Progress
from smartscale.producer.rate_search import Target
from smartscale.producer.recorder import Latencies
from smartscale.producer.report import judged
from smartscale.testing.fake_edge import FakeEdge

SCENARIO = """
duration: 2s
services:
  - {name: shop, rate: 100}
faults:
  - {kind: error_spike, start: 1s, duration: 500ms}
"""


@pytest.fixture
def edge() -> Iterator[FakeEdge]:
    with FakeEdge() as edge:
        yield edge


def job(edge: FakeEdge, workers: int = 1, **spec: object) -> Job:
    return Job(
        spec=LoadSpec(**spec),  # type: ignore[arg-type]  # the tests' own fields
        options=Options(url=edge.url, batch=20, connections=8),
        workers=workers,
    )


def nothing(progress: Progress) -> None:
    """Not told here."""


def numbers(edge: FakeEdge) -> list[int]:
    return sorted(int(str(event["id"]).rpartition("-")[2]) for event in edge.received)


def test_a_scenario_is_played_to_its_end_with_its_truth(edge: FakeEdge, tmp_path: Path) -> None:
    """All that was planned is sent and answered, dated now; the fault is marked where it was."""
    path = tmp_path / "scenario.yaml"
    path.write_text(SCENARIO)
    truths: list[Labels] = []
    report = service.run(job(edge, scenario=str(path)), threading.Event(), nothing, None, truths.append)
    assert report.complete
    assert report.counts.sent == report.counts.accepted == len(edge.received) == len(set(numbers(edge)))
    assert 150 < report.counts.sent < 250
    assert report.setting.load == "scenario.yaml"
    assert [(m.service, m.kind, m.start_s, m.end_s) for m in report.faults] == [
        ("shop", "error_spike", 1, 1.5)
    ]
    load = opened(LoadSpec(scenario=str(path)))
    assert isinstance(load, Load)
    assert truths == [truth(load.starting_at(report.setting.start_us))]
    times = [parse_iso_us(str(event["time"])) for event in edge.received]
    assert abs(min(times) - report.setting.start_us) < 1_000_000
    assert abs(max(times) / 1000 - wall_ms()) < 60_000
    assert report.curve[-1] == (1.0, report.latency_ms.max)


def test_several_processes_send_the_same_load_once_and_make_one_report(
    edge: FakeEdge, tmp_path: Path
) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(SCENARIO)
    told: list[Progress] = []
    report = service.run(job(edge, 2, scenario=str(path)), threading.Event(), told.append)
    assert report.complete
    assert report.counts.sent == report.counts.accepted == len(edge.received)
    load = opened(LoadSpec(scenario=str(path)))
    assert isinstance(load, Load)
    assert numbers(edge) == list(range(sum(len(chunk) for chunk in planned(load, "x"))))
    assert sum(report.slices.counts["sent"]) == report.counts.sent
    assert told[-1].counts.sent <= report.counts.sent


def test_a_process_that_is_lost_is_told_and_none_is_left(edge: FakeEdge) -> None:
    def kill_one(progress: Progress) -> None:
        workers = multiprocessing.active_children()
        if len(workers) == 2:
            workers[0].kill()

    report = service.run(job(edge, 2, rate_per_s=50, for_s=3), threading.Event(), kill_one)
    assert not report.complete
    assert not report.generator.trustworthy
    assert "1 of 2 processes" in report.generator.reasons[0]
    assert not multiprocessing.active_children()


def test_a_process_that_cannot_start_ends_the_run(edge: FakeEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_READY_S", 0.0)
    with pytest.raises(PermanentError, match="could not start"):
        service.run(job(edge, 2, rate_per_s=50, for_s=1), threading.Event(), nothing)


def test_the_times_of_a_load_may_be_kept_and_are_then_sent_at_once(edge: FakeEdge, tmp_path: Path) -> None:
    """Requests of 2015, an hour long, sent within a second; their latency does not count from 2015."""
    path = tmp_path / "access.csv"
    path.write_text("timestamp,status\n2015-01-01T00:00:00Z,200\n2015-01-01T01:00:00Z,500\n")
    kept = Job(spec=LoadSpec(replay=str(path)), options=Options(url=edge.url), keep_times=True)
    report = service.run(kept, threading.Event(), nothing)
    assert report.counts.accepted == 2
    assert sorted(str(event["time"]) for event in edge.received) == [
        "2015-01-01T00:00:00Z",
        "2015-01-01T01:00:00Z",
    ]
    assert report.latency_ms.max < 60_000


def test_a_scaled_clock_compresses_the_load(edge: FakeEdge, tmp_path: Path) -> None:
    """Two minutes of a replay take a second at sixty times two; event times follow the log's clock."""
    path = tmp_path / "access.csv"
    path.write_text("timestamp\n2024-01-01T00:00:00Z\n2024-01-01T00:02:00Z\n")
    anchor = Anchor(origin_us=10**15, speed=120.0, wall_us=wall_ms() * 1000)
    fast = Job(spec=LoadSpec(replay=str(path)), options=Options(url=edge.url), anchor=anchor)
    report = service.run(fast, threading.Event(), nothing)
    first, second = sorted(parse_iso_us(str(event["time"])) for event in edge.received)
    assert second - first == 120_000_000
    assert 0.9 < report.planned_s < 1.1
    assert 10**15 <= first < 10**15 + 3600 * 10**6


def test_a_search_against_what_answers_nothing_or_refuses_all_ends_at_once(edge: FakeEdge) -> None:
    def search(url: str) -> None:
        asked = Job(spec=LoadSpec(rate_per_s=1.0), options=Options(url=url, give_up_s=0.5))
        service.highest_rate(asked, Target("p99", 10), 0.5, threading.Event(), lambda trial: None)

    edge.answer = lambda number, given: (403, {"detail": "the token has expired"})
    with pytest.raises(UserError, match="refuses every event: the token has expired"):
        search(edge.url)
    with pytest.raises(RetryableError, match="does not answer: no connection"):
        search("http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({}, "nothing to produce"),
        ({"scenario": "a", "replay": "b"}, "give one of them"),
        ({"replay": "a", "peak_per_s": 1.0, "scale": 1.0}, "give one of them"),
        ({"replay": "a", "rate_per_s": 1.0}, "--rate is for a scenario"),
        ({"scenario": "a", "speed": 2.0}, "are for --replay"),
        ({"rate_per_s": 0.0}, "--rate 0: must be greater than 0"),
        ({"rate_per_s": 1.0, "for_s": -1.0}, "--for -1: must be greater than 0"),
        ({"replay": "/nowhere.csv"}, "not found"),
    ],
)
def test_a_wrong_load_is_told_with_the_remedy(spec: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        opened(LoadSpec(**spec))  # type: ignore[arg-type]  # the tests' own fields


def test_a_constant_rate_keeps_the_mix_of_a_scenario_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(
        SCENARIO.replace("{name: shop, rate: 100}", "{name: a, rate: 30}\n  - {name: b, rate: 10}")
    )
    load = opened(LoadSpec(scenario=str(path), rate_per_s=100.0, for_s=7.0))
    assert isinstance(load, Load)
    assert [(source.name, source.spec.rate) for source in load.sources] == [("a", 75), ("b", 25)]
    assert not any(source.faults for source in load.sources)
    assert (load.duration_s, load.faults) == (7.0, ())


def of(*values_us: int) -> Latencies:
    found = Latencies()
    found.add(np.array(values_us))
    return found


QUICK = of(*[100] * 1000)
SLOW = of(*[20_000] * 1000)


@pytest.mark.parametrize(
    ("seen", "reasons", "notes"),
    [
        ((SLOW, QUICK, QUICK, QUICK, 0.2, 0.0), [], []),
        ((SLOW, QUICK, QUICK, QUICK, 0.95, 0.0), ["busy 95%"], []),
        ((SLOW, of(3_000), of(3_000), QUICK, 0.2, 0.0), ["planned time was noticed 3 ms late at p50"], []),
        ((SLOW, QUICK, QUICK, of(3_000), 0.2, 0.0), ["event loop woke up 3 ms late"], []),
        ((QUICK, QUICK, of(900), QUICK, 0.2, 0.0), [], []),
        (
            (SLOW, QUICK, of(*[100] * 1999, 90_000), QUICK, 0.2, 0.0),
            [],
            ["figures from p99.9 on are|the maximum is"],
        ),
        ((SLOW, QUICK, QUICK, QUICK, 0.2, 1.5), ["held back for 1.5 s"], []),
        ((SLOW, of(*[15_000] * 100), QUICK, QUICK, 0.2, 0.0), [], ["use more --connections"]),
    ],
    ids=["good", "busy", "late", "loop", "below a millisecond", "late once", "held", "connections"],
)
def test_the_generator_is_judged_by_its_own_lateness(
    seen: tuple[Latencies, Latencies, Latencies, Latencies, float, float],
    reasons: list[str],
    notes: list[str],
) -> None:
    """What is late at p50 to p99 spoils all figures; what is late more rarely, only those of that rarity."""
    told_reasons, told_notes = judged(*seen)
    for told, wanted in ((told_reasons, reasons), (told_notes, notes)):
        assert len(told) == len(wanted), told
        for text, words in zip(told, wanted, strict=True):
            assert any(word in text for word in words.split("|"))
