"""Loads for tests, and a sender that keeps its own list: every event with its final answer, whatever happens."""

from __future__ import annotations

import http.client
import math
import random
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

import msgspec

from smartscale.clock import MICROS, monotonic_s
from smartscale.testing.oracle import Event

_AGAIN: Final = frozenset({429, 500, 502, 503, 504})
_PAUSE_S: Final = 0.2
"""Real. Between two attempts; short beside the seconds that a restart takes."""


class Batch(NamedTuple):
    """Events of one request. ``due_s`` is when it should be sent, on the clock of ``monotonic_s``."""

    due_s: float
    events: Sequence[Event]


class _Verdict(msgspec.Struct):
    index: int
    verdict: str
    reason: str


class _Body(msgspec.Struct):
    verdicts: list[_Verdict] = []


_decode = msgspec.json.Decoder(_Body).decode


class Poster:
    """Posts each batch when it is due, over several connections, and again with the same ids until it has an answer.

    ``answers`` holds (event, answer) in the order of the answers: ``accepted``, ``duplicate``, ``refused: REASON``, or
    ``unanswered`` if ``give_up_s`` (real) passed. One connection keeps the order of the batches."""

    def __init__(self, url: str, connections: int = 8, give_up_s: float = 120.0) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._give_up_s = give_up_s
        self._connections = connections
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.answers: list[tuple[Event, str]] = []
        self.retries = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Send nothing more, however the block ends: the next pipeline may listen on the same port."""
        self.stop()

    def start(self, plan: Iterable[Batch]) -> None:
        """Begin to post; returns at once."""
        batches = iter(plan)
        self._threads = [
            threading.Thread(target=self._work, args=(batches,), name=f"poster-{i}", daemon=True)
            for i in range(self._connections)
        ]
        for thread in self._threads:
            thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait until every batch has its answer; False if that took longer."""
        deadline_s = monotonic_s() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - monotonic_s()))
        return not any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Send nothing more."""
        self._stop.set()
        self.join(30)

    def _work(self, batches: Iterator[Batch]) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=30)
        while not self._stop.is_set():
            with self._lock:
                batch = next(batches, None)
            if batch is None or self._stop.wait(max(0.0, batch.due_s - monotonic_s())):
                break
            answers = self._deliver(connection, batch.events)
            with self._lock:
                self.answers += zip(batch.events, answers, strict=True)
        connection.close()

    def _deliver(self, connection: http.client.HTTPConnection, events: Sequence[Event]) -> list[str]:
        body = msgspec.json.encode([event.to_json() for event in events])
        give_up_s = monotonic_s() + self._give_up_s
        while True:
            answers = _attempt(connection, body, len(events))
            if answers is not None:
                return answers
            with self._lock:
                self.retries += 1
            if monotonic_s() > give_up_s or self._stop.wait(_PAUSE_S):
                return ["unanswered"] * len(events)


def _attempt(connection: http.client.HTTPConnection, body: bytes, count: int) -> list[str] | None:
    """The answer for each event, None if there was none and the same events should be sent again."""
    try:
        connection.request("POST", "/v1/events", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        return None
    if response.status in _AGAIN:
        return None
    if response.status not in (200, 207, 400):
        raise AssertionError(f"the edge answered {response.status}: {text[:500]!r}")
    answers = ["accepted"] * count
    for one in _decode(text).verdicts:
        answers[one.index] = "duplicate" if one.verdict == "duplicate" else f"refused: {one.reason}"
    return answers


_ROUTES: Final = ("GET /cart", "POST /cart", "GET /item/{id}", "POST /order")


def steady_load(
    seed: int, start_us: int, start_s: float, duration_s: float, rate_per_s: int, out_of_orderness_s: float
) -> list[Batch]:
    """Live events of six services in all kinds, ten batches a second, out of order within the bound.

    World time ``start_us`` is ``start_s`` on the clock of ``monotonic_s``. One event in twenty is sent again with the
    same id, up to 20 s later: in the same request, the next, or one after a restart."""
    chance = random.Random(seed)
    batches: list[list[Event]] = [[] for _ in range(round(duration_s * 10))]
    each = rate_per_s // 10
    for i, batch in enumerate(batches):
        for j in range(each):
            time_us = start_us + i * 100_000 - chance.randrange(round(out_of_orderness_s * MICROS))
            event = random_event(chance, f"{seed}-{i * each + j}", time_us)
            batch.append(event)
            if chance.random() < 0.05:
                batches[min(i + chance.choice((0, 1, 5, 30, 200)), len(batches) - 1)].append(event)
    return [Batch(start_s + i / 10, batch) for i, batch in enumerate(batches)]


def random_event(chance: random.Random, event_id: str, time_us: int) -> Event:
    """An event of any kind; latencies over five orders of magnitude, so that many histogram slots are met."""
    service = f"service-{chance.randrange(6)}" if chance.random() < 0.7 else "checkout"
    draw = chance.random()
    if draw < 0.8:
        latency_us = round(math.exp(chance.uniform(0, math.log(10_000_000))))
        status = chance.choices((200, 404, 500, 503), (90, 5, 4, 1))[0]
        return Event(
            event_id, time_us, service, name=chance.choice(_ROUTES), status=status, latency_us=latency_us
        )
    if draw < 0.9:
        return Event(event_id, time_us, service, "log", "app", severity=chance.choice(("info", "error")))
    return Event(event_id, time_us, service, "metric", "queue", value=chance.uniform(0, 100))
