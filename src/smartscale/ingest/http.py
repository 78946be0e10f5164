"""The edge as a plain ASGI application: reads requests, asks the cores, answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Final

import numpy as np
from prometheus_client import Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from smartscale import config
from smartscale.clock import MICROS, Clock
from smartscale.ingest import answers, encodings
from smartscale.ingest.admission import Admission
from smartscale.ingest.answers import Answer, Verdict
from smartscale.ingest.batching import Parcel
from smartscale.ingest.cloudevents import HEADER_PREFIX
from smartscale.ingest.decode import decode
from smartscale.ingest.formats import FORMATS, Format, Unsupported, format_of
from smartscale.ingest.identities import Identities, Recent
from smartscale.ingest.writer import Job, Outcome
from smartscale.records.events_json import Decoded, Limits, MalformedBody
from smartscale.telemetry.health import Health

Scope = Mapping[str, object]
Event = MutableMapping[str, object]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


READ_S: Final = 30.0
"""Real. How long a body may take to arrive, because it holds room that others want; chosen as half a minute for the largest
body is half a megabyte a second."""


class App:
    """ASGI. Everything runs on one event loop; ``put`` hands a job to the writer, ``settle`` takes it back.

    Between reading a body and admitting its events nothing is awaited. So whatever else runs on the loop, such as
    the making of a heartbeat, sees every request that has been read either not at all or admitted."""

    def __init__(
        self,
        settings: config.Settings,
        clock: Clock,
        health: Health,
        admission: Admission,
        put: Callable[[Job], None],
    ) -> None:
        self._settings, self._clock, self._health = settings, clock, health
        self._admission, self._put = admission, put
        self._recent = Recent()
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._metrics = _Metrics(health, admission)
        self._gets = {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._prometheus}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self._open += 1
        self._idle.clear()
        try:
            answer = await self._answer(scope, receive)
            if answer is not None:
                await _send(send, answer)
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()

    async def answered(self, timeout_s: float) -> bool:
        """Wait until no request is open; False if some still are after ``timeout_s`` (real)."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Take back what the writer is done with."""
        for job, error in outcomes:
            self._admission.settle(job.ticket)
            if error is None:
                self._recent.add(job.parcel.identities)
            if not job.future.done():  # a client that went away cancelled it
                job.future.set_result(error)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer | None:
        path, method = str(scope["path"]), str(scope["method"])
        if path in FORMATS:
            if method != "POST":
                return answers.problem(405, "send events with POST", allow="POST")
            answer = await self._timely(path, _headers(scope), receive)
            if answer is not None:
                self._metrics.requests.labels(str(answer.status)).inc()
            return answer
        get = self._gets.get(path)
        if get is None:
            return answers.problem(404, f"nothing is at {path}; events go to POST /v1/events")
        if method != "GET":
            return answers.problem(405, f"{path} is read with GET", allow="GET")
        return get()

    async def _timely(self, path: str, headers: Mapping[str, str], receive: Receive) -> Answer | None:
        try:
            return await self._post(path, headers, receive)
        except TimeoutError:
            return answers.problem(408, f"the body did not arrive within {READ_S:g} s; send less at once")

    async def _post(self, path: str, headers: Mapping[str, str], receive: Receive) -> Answer | None:
        limit = self._settings.ingest.max_body_bytes
        length = headers.get("content-length", "")
        size = int(length) if length.isdigit() else limit
        if size > limit:
            async with asyncio.timeout(READ_S):
                await _body(receive, 0)
            return answers.problem(
                413, f"the body has {size:,} bytes, the limit is {limit:,}; send less at once"
            )
        if self._admission.closed:
            return _stopping()
        if not self._admission.reserve(size):
            return answers.problem(429, "too many bytes are waiting to be written; send the events again")
        try:
            async with asyncio.timeout(READ_S):
                body = await _body(receive, limit)
            if body is None:
                return None
            if len(body) > limit:
                return answers.problem(
                    413, f"the body is longer than the limit of {limit:,} bytes; send less at once"
                )
            return await self._events(path, headers, body)
        finally:
            self._admission.free(size)

    async def _events(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        now_us = self._clock.now_us()
        latest_us = now_us + round(self._settings.time.max_future_s * MICROS)
        most = self._settings.ingest.max_batch_events
        limits = Limits(now_us, latest_us, self._settings.ingest.max_event_bytes, most)
        try:
            form = format_of(path, headers)
        except Unsupported as error:
            return answers.problem(415, str(error))
        try:
            encoding = headers.get("content-encoding", "")
            body = encodings.unpacked(body, encoding, self._settings.ingest.max_body_bytes)
            decoded, identities = decode(form, headers, body, limits)
        except encodings.UnknownEncoding as error:
            return form.problem(415, str(error), **{"accept-encoding": encodings.ACCEPTED})
        except encodings.TooLong as error:
            return form.problem(413, str(error))
        except (encodings.Garbled, MalformedBody) as error:
            return form.problem(400, str(error))
        if decoded.count > most:
            return answers.problem(
                413, f"the body has {decoded.count:,} events, the limit is {most:,}; send less at once"
            )
        repeats = self._recent.repeats(identities)
        parcel = _parcel(decoded, identities, repeats)
        if parcel.events:
            problem = await self._written(parcel)
            if problem is not None:
                return problem
        return self._verdicts(form, decoded, repeats)

    async def _written(self, parcel: Parcel) -> Answer | None:
        """None once the events are durable, else why they are not."""
        ticket = self._admission.admit(len(parcel.events), int(parcel.times_us.min()))
        if ticket is None and self._admission.closed:
            return _stopping()
        if ticket is None:
            return answers.problem(429, "the queue is full; send the events again")
        future: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._put(Job(parcel, ticket, future))
        error = await future
        if error is None:
            self._metrics.events.labels("accepted", "").inc(len(parcel.events))
            return None
        return answers.problem(
            503, f"the events could not be written, send them again with the same ids: {error}"
        )

    def _verdicts(self, form: Format, decoded: Decoded, repeats: Sequence[int]) -> Answer:
        verdicts = [Verdict(refusal.index, "refused", refusal.reason) for refusal in decoded.refused]
        verdicts += [
            Verdict(decoded.indexes[place], "duplicate", "an event with this id is already in the log")
            for place in repeats
        ]
        for refusal in decoded.refused:
            self._metrics.events.labels("refused", refusal.code).inc()
        if repeats:
            self._metrics.events.labels("duplicate", "").inc(len(repeats))
        verdicts.sort(key=lambda verdict: verdict.index)
        return form.result(len(decoded.events) - len(repeats), verdicts)

    def _healthz(self) -> Answer:
        return _state(*self._health.is_healthy)

    def _readyz(self) -> Answer:
        return _state(*self._health.is_ready)

    def _prometheus(self) -> Answer:
        return Answer(200, generate_latest(self._health.registry), CONTENT_TYPE_LATEST)


def _stopping() -> Answer:
    return answers.problem(503, "this process is stopping; send the events again")


def _state(good: bool, reason: str) -> Answer:
    return Answer(200 if good else 503, f"{reason}\n".encode(), "text/plain; charset=utf-8")


async def _send(send: Send, answer: Answer) -> None:
    headers = [(b"content-type", answer.content_type.encode())]
    headers += [(name.encode(), value.encode()) for name, value in answer.headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def _parcel(decoded: Decoded, identities: Identities, repeats: Sequence[int]) -> Parcel:
    """What is to be written: the good events but the repeats."""
    if not repeats:
        return Parcel(decoded.events, decoded.times_us, identities)
    fresh = np.setdiff1d(np.arange(len(decoded.events)), repeats)
    events = [decoded.events[i] for i in fresh.tolist()]
    return Parcel(events, decoded.times_us[fresh], identities.take(fresh))


_CE: Final = HEADER_PREFIX.encode()
_READ: Final = frozenset({b"content-type", b"content-length", b"content-encoding", b"idempotency-key"})


def _headers(scope: Scope) -> dict[str, str]:
    """The headers the edge looks at; ASGI gives names in lower case."""
    pairs = scope["headers"]
    assert isinstance(pairs, Sequence)
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in pairs
        if name in _READ or name.startswith(_CE)
    }


_DISCARD: Final = 64 << 20
"""Bytes of a body that is too long which are still read, without being kept: a client that is cut off while it sends never
sees the answer. Beyond it, it is cut off."""


async def _body(receive: Receive, limit: int) -> bytes | None:
    """The request's body, or a little more than the first ``limit`` bytes of it; None if the client went away."""
    parts: list[bytes] = []
    size = 0
    more = True
    while more and size <= limit + _DISCARD:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        part = event.get("body", b"")
        assert isinstance(part, bytes)
        if size <= limit:
            parts.append(part)
        size += len(part)
        more = bool(event.get("more_body"))
    return parts[0] if len(parts) == 1 else b"".join(parts)


class _Metrics:
    def __init__(self, health: Health, admission: Admission) -> None:
        registry = health.registry
        self.requests = Counter(
            "smartscale_ingest_requests", "Requests with events, by status", ["status"], registry=registry
        )
        self.events = Counter(
            "smartscale_ingest_events",
            "Events by verdict and reason",
            ["verdict", "reason"],
            registry=registry,
        )
        waiting = Gauge(
            "smartscale_ingest_waiting_events", "Events admitted but not yet durable", registry=registry
        )
        waiting.set_function(lambda: admission.events)
