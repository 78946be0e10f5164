"""The instrument is calibrated: against servers of known capacity, with known stalls, that lose answers or ask for patience.

Bounds from below are the server's, and hold on any machine; those from above leave room for a busy one."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from smartscale.client.address import Token
from smartscale.clock import MICROS, monotonic_s
from smartscale.producer import player
from smartscale.producer.alarm import Alarm
from smartscale.producer.chunk import Chunk
from smartscale.producer.http import REQUEST_BYTES
from smartscale.producer.player import Options, Played, Progress, Reference, cut, play
from smartscale.testing.fake_edge import FakeEdge
from smartscale.testing.model_edge import model_edge

EVENT = b'{"service":"shop","status":200},'


def steady(per_s: float, seconds: float) -> Iterator[Chunk]:
    """Evenly spaced events, in chunks of half a second."""
    due_us = np.arange(int(per_s * seconds)) * round(MICROS / per_s)
    for part in np.array_split(due_us, max(1, int(seconds * 2))):
        yield Chunk(part, EVENT * len(part), np.arange(1, len(part) + 1) * len(EVENT))


def played(
    url: str,
    chunks: Iterator[Chunk],
    *,
    stop: threading.Event | None = None,
    on_progress: object = None,
    token: Token | None = None,
    **options: float,
) -> Played:
    def tell(progress: Progress) -> None:
        if callable(on_progress):
            on_progress(progress)

    given = Options(url=url, **options)  # type: ignore[arg-type]  # numbers all
    reference = Reference(0, monotonic_s() + 0.1)
    return uvloop.run(play(chunks, given, reference, stop or threading.Event(), tell, token=token))


def test_a_stall_of_the_server_shows_though_few_requests_are_in_flight() -> None:
    """A stall of 0.2 s every 2 s meets a tenth of all planned requests, but at most two that are in flight. What counts from
    sending, as a generator that waits for answers would, shows no trace of it at p99."""
    with model_edge("--stall-every", "2", "--stall", "0.2") as url:
        told = played(url, steady(250, 4.6), batch=1, connections=2).recorder
    assert told.latency.quantile_us(0.99) > 100_000
    assert told.latency.quantile_us(0.5) < 50_000
    assert told.service.quantile_us(0.99) < told.latency.quantile_us(0.99) / 2
    assert told.latency.max_us > 150_000
    slices = [slice_.max_us > 100_000 for slice_ in told.timeline.latencies]
    assert any(slices)
    assert not all(slices)


def test_a_server_beyond_its_capacity_is_shown_to_be() -> None:
    """500 a second are served of 1,000 that are planned: after 2 s of plan the last one waits 2 s, the middle one 1 s, and
    the books still balance."""
    with model_edge("--capacity", "500") as url:
        told = played(url, steady(1000, 2), batch=1, connections=16)
    assert told.counts.accepted == told.counts.sent == 2000
    assert 3.9 < told.elapsed_s < 6
    assert 0.95e6 < told.recorder.latency.quantile_us(0.5) < 2e6
    assert 1.95e6 < told.recorder.latency.max_us < 4e6
    assert told.recorder.service.quantile_us(0.5) < 100_000  # 16 in flight at 500 a second: 32 ms
    assert told.recorder.timeline.counts["planned"][:2].sum() == 2000
    assert 300 < told.recorder.timeline.counts["accepted"][1] < 700


def test_lost_answers_and_busy_ones_are_tried_again_and_accounted_for() -> None:
    """Every fifth request is answered 503 with a Retry-After of a second, every seventh has its connection cut."""
    with model_edge("--busy-every", "5", "--lose-every", "7") as url:
        told = played(url, steady(200, 1), batch=10, connections=4)
    counts = told.counts
    assert counts.sent == counts.accepted == 200
    assert counts.unanswered == counts.refused == counts.duplicate == 0
    assert counts.retries == counts.requests - told.recorder.latency.count > 0
    assert set(counts.trouble) == {"503", "no answer"}
    assert counts.retries == sum(counts.trouble.values())
    assert told.recorder.latency.max_us > 1_000_000  # the server was given its second
    assert told.recorder.timeline.counts["trouble"].sum() == counts.retries


def test_what_is_given_up_counts_as_unanswered_with_the_time_until_then() -> None:
    with FakeEdge() as edge:
        edge.answer = lambda number, given: (503, {"detail": "the log is away"})
        told = played(edge.url, steady(20, 0.5), batch=5, give_up_s=0.3)
    assert (told.counts.sent, told.counts.unanswered, told.counts.waiting) == (10, 10, 0)
    assert "the log is away" in told.counts.last_trouble
    assert told.recorder.latency.count > 0 == told.recorder.service.count
    assert told.recorder.latency.max_us < 2_000_000


def test_without_a_server_everything_is_given_up_and_the_reason_told() -> None:
    told = played("http://127.0.0.1:9", steady(20, 0.2), give_up_s=0.2)
    assert (told.counts.sent, told.counts.unanswered, told.counts.requests) == (4, 4, 0)
    assert "no connection to 127.0.0.1:9" in told.counts.last_trouble
    assert told.complete


def test_a_request_that_gets_no_answer_in_time_is_sent_again() -> None:
    """To a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        told = played(url, steady(1, 1), timeout_s=0.2, give_up_s=0.8)
    assert told.counts.unanswered == 1
    assert told.counts.requests >= 2
    assert "no answer within 0.2 s" in told.counts.last_trouble


def test_a_stop_ends_it_before_its_end() -> None:
    stop = threading.Event()
    with model_edge() as url:
        told = played(url, steady(100, 60), stop=stop, on_progress=lambda progress: stop.set())
    assert not told.complete
    assert 0 < told.counts.sent == told.counts.accepted < 600


def test_a_generator_that_is_late_itself_measures_it() -> None:
    """Something blocks the event loop for 0.3 s in every second: the lag is that, and is in no service time's blame."""
    with model_edge() as url:
        told = played(url, steady(200, 2.5), batch=1, on_progress=lambda progress: time.sleep(0.3))
    assert told.recorder.lag.max_us > 250_000
    assert told.recorder.loop.max_us > 250_000


def test_what_may_be_without_an_answer_is_bounded_and_holding_back_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Room for twenty events: the rest waits to be sent, its latency runs on, and no lag is told for it."""
    monkeypatch.setattr(player, "HELD_BYTES", 20 * (len(EVENT) + REQUEST_BYTES))
    with model_edge("--capacity", "200") as url:
        told = played(url, steady(400, 1), batch=1, connections=64)
    assert told.counts.accepted == told.counts.sent == 400
    assert 0.8 < told.held_s < 4
    assert told.recorder.latency.max_us > 900_000
    assert told.recorder.lag.quantile_us(0.5) < 500_000


def test_a_plan_that_fails_ends_the_run() -> None:
    def failing() -> Iterator[Chunk]:
        yield from steady(10, 0.5)
        raise ValueError("the file is damaged")

    with model_edge() as url, pytest.raises(ValueError, match="damaged"):
        played(url, failing())


def test_every_request_carries_the_token_and_a_body_of_its_events() -> None:
    with FakeEdge() as edge:
        played(edge.url + "/prefix", steady(30, 0.1), batch=2, linger_s=1.0, token=Token("s3cret"))
    assert {headers["Authorization"] for headers in edge.headers} == {"Bearer s3cret"}
    assert edge.requests[0] == [{"service": "shop", "status": 200}] * 2


def test_an_alarm_rings_at_its_time_and_the_latest_counts() -> None:
    async def rings() -> list[float]:
        rung: list[float] = []
        alarm = Alarm(asyncio.get_running_loop(), lambda: rung.append(monotonic_s()))
        began_s = monotonic_s()
        alarm.at(began_s + 60)
        alarm.at(began_s + 0.0301)
        while not rung:
            await asyncio.sleep(0.01)
        alarm.at(began_s)  # has passed: at once
        while len(rung) < 2:
            await asyncio.sleep(0.001)
        alarm.close()
        return [at_s - began_s for at_s in rung]

    first, second = uvloop.run(rings())
    assert 0.0301 <= first < 1
    assert first < second < 2


@given(st.lists(st.integers(0, 1000), max_size=60), st.integers(1, 10), st.integers(0, 200))
@settings(max_examples=100)
def test_requests_hold_all_events_in_order_few_enough_and_close_enough(
    due: list[int], batch: int, linger_us: int
) -> None:
    due_us = np.sort(np.array(due, dtype=np.int64))
    stops = cut(due_us, batch, linger_us).tolist()
    assert stops == sorted(set(stops))
    assert (stops[-1:] or [0]) == [len(due)]
    for start, stop in zip([0, *stops], stops, strict=False):
        assert stop - start <= batch
        assert batch == 1 or due_us[stop - 1] - due_us[start] <= linger_us
        full = stop - start == batch
        assert full or stop == len(due) or due_us[stop] - due_us[start] > linger_us
