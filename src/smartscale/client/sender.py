"""Sends events to the edge: in batches, over several connections, again where no answer came.

Every event carries an id, given once; so an event that is sent twice is counted once.
"""

from __future__ import annotations

import http.client
import itertools
import random
import secrets
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from smartscale.client.address import Address, Token
from smartscale.client.answers import AGAIN, Fate, fate, pause_s, retry_after_s
from smartscale.clock import Clock, iso, monotonic_s
from smartscale.errors import RetryableError
from smartscale.records.events_json import EventIn

EventLike = EventIn | Mapping[str, object]


class SenderFull(RetryableError):
    """Too many events wait for their answer; none of the call were taken."""


class Totals(msgspec.Struct, frozen=True):
    """What became of the distinct events that were offered.

    ``sent = accepted + duplicate + refused + unanswered``. ``duplicate`` are events the edge already had: an earlier
    attempt got through, but its answer did not come back. ``unanswered`` may or may not be in the log; of these
    ``waiting`` may still be answered."""

    sent: int = 0
    accepted: int = 0
    duplicate: int = 0
    refused: int = 0
    unanswered: int = 0
    waiting: int = 0
    requests: int = 0
    """Requests made, retries included."""
    retries: int = 0
    answer_s: Mapping[str, float] = {}
    """``p50``, ``p90``, ``p99`` and ``max`` of the time from offer to final answer, real seconds."""
    refusals: Sequence[str] = ()
    """The latest reasons for refusals, at most ten."""
    last_trouble: str = ""
    """Why the latest retry was needed."""


@dataclass(slots=True)
class _Batch:
    """Encoded events of one request; ``offered_s`` is when the first of them was offered."""

    events: list[bytes]
    offered_s: float


_SAMPLE: Final = 10_000
"""Answer times kept for percentiles; a hundred of them lie beyond p99."""


@dataclass(slots=True)
class _Books:
    """Running counts; guarded by the sender's lock."""

    sent: int = 0
    accepted: int = 0
    duplicate: int = 0
    refused: int = 0
    given_up: int = 0
    requests: int = 0
    retries: int = 0
    answers: int = 0
    slowest_s: float = 0.0
    sample_s: list[float] = field(default_factory=list)
    refusals: deque[str] = field(default_factory=lambda: deque(maxlen=10))
    last_trouble: str = ""

    @property
    def waiting(self) -> int:
        return self.sent - self.accepted - self.duplicate - self.refused - self.given_up

    def took(self, seconds: float, chance: random.Random) -> None:
        """Note how long an answer took, in a uniform sample of all (Vitter 1985, algorithm R)."""
        self.answers += 1
        self.slowest_s = max(self.slowest_s, seconds)
        if len(self.sample_s) < _SAMPLE:
            self.sample_s.append(seconds)
        elif (place := chance.randrange(self.answers)) < _SAMPLE:
            self.sample_s[place] = seconds


_encode = msgspec.json.Encoder().encode


class Sender:
    """Sends what is offered, from threads of its own. All its durations are real.

    At most ``queue_events`` wait for their answer. An event is not tried again later than ``give_up_s`` after it was
    offered. A batch that is not full is sent after ``linger_s``. ``run_id`` starts the ids of events that have none
    (``RUN-1``, ``RUN-2``, ...): a fixed one makes a run repeatable, a random one, the default, keeps runs apart.
    """

    def __init__(
        self,
        url: str,
        clock: Clock,
        *,
        run_id: str | None = None,
        batch_events: int = 500,
        connections: int = 8,
        queue_events: int = 100_000,
        linger_s: float = 0.02,
        give_up_s: float = 60.0,
        request_timeout_s: float = 30.0,
        token: Token | None = None,
    ) -> None:
        """Raises ``UserError`` if ``url`` is not http(s)://HOST[:PORT][/PREFIX]. Connects only when it has to send."""
        self._address = Address.of(url)
        self._path = self._address.prefix + "/v1/events"
        self._token = token
        self._clock = clock
        self._run_id = run_id or secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._batch_events, self._queue_events, self._linger_s = batch_events, queue_events, linger_s
        self._give_up_s, self._request_timeout_s = give_up_s, request_timeout_s
        self._chance = random.Random(self._run_id)
        self._changed = threading.Condition()
        self._queue: deque[_Batch] = deque()
        self._books = _Books()
        self._draining = False
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"sender-{i}", daemon=True) for i in range(connections)
        ]
        for thread in self._threads:
            thread.start()

    def offer(self, events: Sequence[EventLike], timeout_s: float | None = None) -> None:
        """Take all these events to be sent, or none; waits while there is no room, at most ``timeout_s`` (None: as
        long as it takes).

        An event without an id gets one; one without a time gets the clock's now. Raises ``SenderFull``, ValueError
        once the sender is closed or if the events can never fit, TypeError for what cannot be JSON."""
        if len(events) > self._queue_events:
            raise ValueError(f"{len(events)} events never fit into a queue of {self._queue_events}")
        time = iso(self._clock.now_us())
        encoded = [_encode(self._completed(event, time)) for event in events]
        with self._changed:
            self._changed.wait_for(lambda: self._draining or self._has_room(len(events)), timeout_s)
            if self._draining:
                raise ValueError("the sender is closed")
            if not self._has_room(len(events)):
                raise SenderFull(
                    f"{self._books.waiting} events wait for their answer: {self._books.last_trouble}"
                )
            self._books.sent += len(events)
            for event in encoded:
                self._enqueue(event)
            self._changed.notify_all()

    def totals(self) -> Totals:
        """The counts so far."""
        with self._changed:
            books = self._books
            p50, p90, p99 = np.quantile(books.sample_s or [0.0], [0.5, 0.9, 0.99]).tolist()
            return Totals(
                sent=books.sent,
                accepted=books.accepted,
                duplicate=books.duplicate,
                refused=books.refused,
                unanswered=books.given_up + books.waiting,
                waiting=books.waiting,
                requests=books.requests,
                retries=books.retries,
                answer_s={"p50": p50, "p90": p90, "p99": p99, "max": books.slowest_s},
                refusals=list(books.refusals),
                last_trouble=books.last_trouble,
            )

    def close(self, timeout_s: float = 30.0) -> Totals:
        """Send what waits, at most for ``timeout_s``, and end. The final counts: what is left is unanswered."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._books.waiting, timeout_s)
            self._closed.set()
            self._books.given_up += self._books.waiting
            self._queue.clear()
            self._changed.notify_all()
        return self.totals()

    def _has_room(self, events: int) -> bool:
        return self._books.waiting + events <= self._queue_events

    def _completed(self, event: EventLike, time: str) -> EventLike:
        if isinstance(event, EventIn):
            if event.id is not None and event.time is not None:
                return event
            return msgspec.structs.replace(event, id=event.id or self._new_id(), time=event.time or time)
        if event.get("id") is not None and event.get("time") is not None:
            return event
        return {**event, "id": event.get("id") or self._new_id(), "time": event.get("time") or time}

    def _new_id(self) -> str:
        return f"{self._run_id}-{next(self._numbers)}"

    def _enqueue(self, event: bytes) -> None:
        if self._queue and len(self._queue[-1].events) < self._batch_events:
            self._queue[-1].events.append(event)
        else:
            self._queue.append(_Batch([event], monotonic_s()))

    def _work(self) -> None:
        """One connection: takes a batch, sends it until it has its answer, takes the next."""
        at = self._address
        connection = _CONNECTIONS[at.scheme](at.host, at.port, timeout=self._request_timeout_s)
        try:
            while (batch := self._next()) is not None:
                self._deliver(connection, batch)
        finally:
            connection.close()

    def _next(self) -> _Batch | None:
        """The oldest batch, once it is full or has lingered; None when all is sent and no more can come."""
        with self._changed:
            while not self._closed.is_set():
                if not self._queue:
                    if self._draining:
                        return None
                    self._changed.wait()
                    continue
                ripe_s = self._queue[0].offered_s + self._linger_s - monotonic_s()
                if len(self._queue[0].events) >= self._batch_events or ripe_s <= 0 or self._draining:
                    return self._queue.popleft()
                self._changed.wait(ripe_s)
        return None

    def _deliver(self, connection: http.client.HTTPConnection, batch: _Batch) -> None:
        body = b"[" + b",".join(batch.events) + b"]"
        for attempt in itertools.count():
            fate, trouble, asked_s = self._attempt(connection, body, len(batch.events))
            if fate is not None:
                self._settle(batch, fate)
                return
            wait_s = pause_s(attempt, asked_s, self._chance)
            over = monotonic_s() + wait_s > batch.offered_s + self._give_up_s
            with self._changed:
                self._books.retries += not over
                self._books.last_trouble = trouble
            if over or self._closed.wait(wait_s):
                break
        self._settle(batch, None)

    def _attempt(
        self, connection: http.client.HTTPConnection, body: bytes, events: int
    ) -> tuple[Fate | None, str, float]:
        """One request: what became of the events, or what went wrong and how many seconds to wait at least."""
        with self._changed:
            self._books.requests += 1
        try:
            connection.request("POST", self._path, body, self._headers())
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return None, f"no answer from {self._address.netloc}: {error!r}", 0.0
        if response.status in AGAIN:
            asked_s = retry_after_s(response.headers.get("Retry-After"))
            return None, f"answer {response.status}: {text[:200]!r}", asked_s
        return fate(response.status, text, events), "", 0.0

    def _headers(self) -> Mapping[str, str]:
        return {"Content-Type": "application/json", **(self._token.headers() if self._token else {})}

    def _settle(self, batch: _Batch, fate: Fate | None) -> None:
        """Book a batch that has its final answer, or None if it got none."""
        with self._changed:
            if self._closed.is_set():  # already booked as unanswered
                return
            if fate is None:
                self._books.given_up += len(batch.events)
            else:
                self._books.accepted += fate.accepted
                self._books.duplicate += fate.duplicate
                self._books.refused += fate.refused
                self._books.refusals.extend(fate.reasons)
                self._books.took(monotonic_s() - batch.offered_s, self._chance)
            self._changed.notify_all()


_CONNECTIONS: Final[Mapping[str, type[http.client.HTTPConnection]]] = {
    "http": http.client.HTTPConnection,
    "https": http.client.HTTPSConnection,
}
