"""The sender against a small edge that answers as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from smartscale.clock import ManualClock, monotonic_s
from smartscale.errors import UserError
from smartscale.producer.http import Sender, SenderFull
from smartscale.producer.profiles import parse
from smartscale.producer.service import Progress, run
from smartscale.records.events_json import EventIn

DEADLINE_S = 10.0

Answer = tuple[int, dict[str, object]]


class FakeEdge:
    """Answers with ``answer(number of the request, its events)``; None closes the connection without one."""

    def __init__(self) -> None:
        self.requests: list[list[dict[str, object]]] = []
        self.answer: Callable[[int, list[dict[str, object]]], Answer | None] = lambda _, given: accept(given)
        self.lock = threading.Lock()
        edge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with edge.lock:
                    edge.requests.append(given)
                    found = edge.answer(len(edge.requests), given)
                if found is None:
                    self.close_connection = True
                    return
                body = json.dumps(found[1]).encode()
                self.send_response(found[0])
                if found[0] in (429, 503):
                    self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Quiet."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def received(self) -> list[dict[str, object]]:
        return [event for request in self.requests for event in request]


def accept(given: list[dict[str, object]], duplicate: int = 0) -> Answer:
    return 200, {"accepted": len(given) - duplicate, "duplicate": duplicate, "refused": 0, "verdicts": []}


@pytest.fixture
def edge() -> Iterator[FakeEdge]:
    edge = FakeEdge()
    yield edge
    edge.server.shutdown()
    edge.server.server_close()


def sender(edge: FakeEdge, **options: float) -> Sender:
    given: dict[str, float] = {"linger_s": 0.001, **options}
    return Sender(edge.url, ManualClock(1_000_000), run_id="run", **given)  # type: ignore[arg-type]  # numbers all


def test_every_event_gets_an_id_and_a_time_of_its_own_unless_it_has_one(edge: FakeEdge) -> None:
    with_both = {"service": "a", "id": "mine", "time": "2020-01-01T00:00:00Z"}
    ours = sender(edge)
    ours.offer([{"service": "a"}, EventIn(service="b"), with_both])
    totals = ours.close(DEADLINE_S)
    assert (totals.sent, totals.accepted, totals.unanswered) == (3, 3, 0)
    assert edge.received == [
        {"service": "a", "id": "run-1", "time": "1970-01-01T00:00:01Z"},
        {"service": "b", "id": "run-2", "time": "1970-01-01T00:00:01Z"},
        with_both,
    ]


def test_batches_are_at_most_as_large_as_asked(edge: FakeEdge) -> None:
    ours = sender(edge, batch_events=10, linger_s=5.0)
    ours.offer([{"service": "a"}] * 95)
    assert ours.close(DEADLINE_S).accepted == 95
    assert sorted(len(request) for request in edge.requests) == [5] + [10] * 9


@pytest.mark.parametrize(
    "trouble", [(503, {}), (429, {}), (500, {}), None], ids=["503", "429", "500", "no answer"]
)
def test_what_got_no_answer_is_sent_again_with_the_same_ids(edge: FakeEdge, trouble: Answer | None) -> None:
    """The first two attempts fail; the third is counted, once."""
    edge.answer = lambda number, given: trouble if number <= 2 else accept(given)
    ours = sender(edge)
    ours.offer([{"service": "a"}, {"service": "b"}])
    totals = ours.close(DEADLINE_S)
    assert (totals.sent, totals.accepted, totals.requests, totals.retries) == (2, 2, 3, 2)
    assert edge.requests[0] == edge.requests[1] == edge.requests[2]
    assert totals.last_trouble


def test_the_books_balance_over_every_kind_of_verdict(edge: FakeEdge) -> None:
    """sent = accepted + duplicate + refused + unanswered; a whole request may be refused as well."""
    answers: list[Answer] = [
        (207, {"accepted": 1, "duplicate": 1, "refused": 1, "verdicts": [{"verdict": "refused", "reason": "no"}]}),
        (413, {"detail": "too large"}),
    ]  # fmt: skip
    edge.answer = lambda number, given: answers[number - 1]
    ours = sender(edge, batch_events=3, connections=1)
    ours.offer([{"service": "a"}] * 6)
    totals = ours.close(DEADLINE_S)
    assert (totals.sent, totals.accepted, totals.duplicate, totals.refused, totals.unanswered) == (
        6,
        1,
        1,
        4,
        0,
    )
    assert list(totals.refusals) == ["no", "too large"]


def test_it_gives_up_after_its_time_and_says_so(edge: FakeEdge) -> None:
    edge.answer = lambda number, given: (503, {"detail": "the log is away"})
    ours = sender(edge, give_up_s=0.3)
    ours.offer([{"service": "a"}])
    totals = ours.close(DEADLINE_S)
    assert (totals.sent, totals.unanswered, totals.waiting) == (1, 1, 0)
    assert "the log is away" in totals.last_trouble


def test_a_full_queue_takes_nothing(edge: FakeEdge) -> None:
    """Bounded memory: events count until they are answered."""
    held = threading.Event()
    edge.answer = lambda number, given: accept(given) if held.wait(DEADLINE_S) else None
    ours = sender(edge, queue_events=2)
    ours.offer([{"service": "a"}] * 2)
    with pytest.raises(SenderFull):
        ours.offer([{"service": "b"}], timeout_s=0.05)
    with pytest.raises(ValueError, match="never fit"):
        ours.offer([{"service": "b"}] * 3)
    held.set()
    ours.offer([{"service": "c"}], timeout_s=DEADLINE_S)
    assert ours.close(DEADLINE_S).accepted == 3


def test_closing_waits_no_longer_than_it_may_and_counts_the_rest_as_unanswered(edge: FakeEdge) -> None:
    edge.answer = lambda number, given: (503, {})
    ours = sender(edge)
    ours.offer([{"service": "a"}] * 7)
    start = monotonic_s()
    totals = ours.close(0.2)
    assert monotonic_s() - start < 5
    assert (totals.sent, totals.unanswered) == (7, 7)
    with pytest.raises(ValueError, match="closed"):
        ours.offer([{"service": "a"}])


@pytest.mark.parametrize("url", ["localhost:8070", "ftp://x", "http://"])
def test_a_wrong_address_is_told(url: str) -> None:
    with pytest.raises(UserError, match="--url"):
        Sender(url, ManualClock(0))


LOAD = """
duration_s = 2
[[services]]
name = "shop"
[[phases]]
kind = "constant"
per_s = 100
"""


class SteppingClock(ManualClock):
    """Every look at the clock takes five milliseconds of world time, so that nobody has to wait."""

    def now_us(self) -> int:
        self.advance(0.005)
        return super().now_us()

    def to_real_s(self, world_s: float) -> float:
        return 0.0


def test_a_load_is_played_to_its_end(edge: FakeEdge) -> None:
    """Two seconds of load at 100 a second: everything planned is sent and answered, on time."""
    summary = run(parse(LOAD), edge.url, SteppingClock(10**15), threading.Event(), lambda progress: None)
    assert summary.complete
    assert summary.totals.sent == summary.totals.accepted == len(edge.received)
    assert 150 < summary.totals.sent < 250
    assert len({event["id"] for event in edge.received}) == summary.totals.sent
    assert all("2001-09-09T01:46:4" in str(event["time"]) for event in edge.received)


def test_a_stop_ends_it_before_its_end(edge: FakeEdge) -> None:
    stop = threading.Event()
    stop.set()
    summary = run(parse(LOAD), edge.url, ManualClock(0), stop, lambda progress: None)
    assert not summary.complete
    assert summary.totals.sent == 0


def test_falling_behind_is_told(edge: FakeEdge) -> None:
    """The clock leaps by a minute: what was due is sent at once, and the delay is in the summary."""
    clock = ManualClock(10**15)
    seen: list[Progress] = []
    clock_leaps = threading.Timer(0.1, lambda: clock.advance(60))
    clock_leaps.start()
    summary = run(parse(LOAD), edge.url, clock, threading.Event(), seen.append)
    assert summary.complete
    assert 50 < summary.greatest_behind_s <= 60
