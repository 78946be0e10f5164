"""The edge as an application of its HTTP server: lets requests in, hands bodies to the writer, answers."""

from __future__ import annotations

import logging
from collections import Counter as Counts
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from smartscale import config
from smartscale.clock import Clock, monotonic_s, wall_ms
from smartscale.errors import SmartScaleError
from smartscale.ingest import answers, encodings, openapi
from smartscale.ingest.access_log import AccessLog, Line
from smartscale.ingest.admission import REQUEST_BYTES, Admission
from smartscale.ingest.answers import Answer, Verdict
from smartscale.ingest.decode import Job, Outcome, check_key
from smartscale.ingest.formats import FORMATS, Format, Unsupported, format_of
from smartscale.ingest.gate import Gate
from smartscale.ingest.idempotency import Keys
from smartscale.ingest.metrics import Metrics
from smartscale.ingest.server import Request
from smartscale.ingest.tokens import Denied
from smartscale.records.events_json import MalformedBody
from smartscale.telemetry.health import Health

LOG = logging.getLogger(__name__)

_STOPPING: Final = "this process is stopping; send the events again"
_NO_ROOM: Final = "too many bytes are waiting to be written; send the events again"
_GONE: Final = 499
"""Counted for a request whose body never came as a whole; no answer has this status (nginx counts these so)."""
_UNKNOWN: Final = "-"
"""Stands for the tenant or the format of a request that was turned away before they were known."""


@dataclass(slots=True)
class _Post:
    """A request with events, from its head to its answer: whose it is, and how many bytes are reserved for it."""

    form: Format
    request: Request
    tenant: str
    reserved: int
    begun_s: float
    key: str | None


@dataclass(slots=True)
class _Visitor:
    """Who sent a request and in which format, as far as that was found out before it was turned away."""

    tenant: str = _UNKNOWN
    form: str = _UNKNOWN


class App:
    """A ``server.App``. Everything runs on one event loop; ``put`` hands a job to the writer, ``settle`` takes it back.

    Between reading the last of a body and admitting it nothing else runs on the loop. So whatever does, such as the making
    of a heartbeat, sees every body either not received or admitted."""

    def __init__(
        self,
        settings: config.Settings,
        clock: Clock,
        health: Health,
        admission: Admission,
        gate: Gate,
        put: Callable[[Job], None],
        access_log: AccessLog | None = None,
    ) -> None:
        self._settings, self._clock, self._health = settings, clock, health
        self._admission, self._gate, self._put, self._access_log = admission, gate, put, access_log
        self._keys = Keys()
        self._bug_told_s = 0.0
        self.metrics = Metrics(health.registry)
        self.metrics.gauge(
            "waiting_requests", "Requests whose events are not durable yet", lambda: admission.requests
        )
        self.metrics.gauge(
            "waiting_bytes",
            "Bytes of requests being read or waiting to become durable",
            lambda: admission.bytes,
        )
        self._gets = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._prometheus,
            openapi.PATH: _openapi,
        }

    def begin(self, request: Request) -> Answer | None:
        head, now_s = request.head, monotonic_s()
        visitor = _Visitor()
        get = self._gets.get(head.path)
        if get is not None:
            answer: Answer | None = _asked(head.method, ("GET", "HEAD")) or get()
        elif head.path in FORMATS:
            answer = _asked(head.method, ("POST",)) or self._let_in(request, visitor, now_s)
        else:
            answer = answers.problem(404, f"nothing is at {head.path:.200}; events go to POST /v1/events")
        if answer is not None:
            if head.path in FORMATS:
                self.metrics.answered({(visitor.form, answer.status): 1})
            self._log(request, answer, visitor.tenant, now_s)
        return answer

    def more(self, request: Request) -> Answer | None:
        """Bounds a body that does not say its length, and makes room for it as it comes."""
        post, limit = _post(request), self._settings.ingest.max_body_bytes
        if request.arrived > limit:
            detail = f"the body is longer than the limit of {limit:,} bytes; send less at once"
            return self._dropped(post, 413, detail)
        more = request.arrived + REQUEST_BYTES - post.reserved
        if not self._gate.reserve(post.tenant, more):
            return self._dropped(post, 429, _NO_ROOM)
        post.reserved += more
        return None

    def complete(self, request: Request) -> Answer | None:
        post = _post(request)
        if self._admission.closed:
            return self._dropped(post, 503, _STOPPING)
        body = request.body
        if post.key is not None and not self._keys.claim(post.tenant, post.key, body):
            detail = "this Idempotency-Key was used for another body; give each request a key of its own"
            return self._dropped(post, 422, detail)
        received_us = self._clock.now_us()
        self._gate.waits(monotonic_s())
        ticket = self._admission.admit(received_us)
        self._put(Job(post.form, request.head.headers, body, received_us, post.tenant, ticket, post))
        return None

    def lost(self, request: Request) -> None:
        if isinstance(request.context, _Post):
            self._gate.free(request.context.tenant, request.context.reserved)
            self.metrics.answered({(request.context.form.name, _GONE): 1})
            request.context = None

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Take back what the writer is done with, and answer."""
        now_s = monotonic_s()
        for outcome in outcomes:
            post = _post_of(outcome)
            self._admission.settle(outcome.job.ticket)
            self._gate.free(post.tenant, post.reserved)
        written = [outcome for outcome in outcomes if outcome.error is None]
        if written:
            size = sum(len(outcome.job.body) for outcome in written)
            self._gate.drained(size, sum(outcome.count for outcome in written), now_s)
        requests = Counts[tuple[str, int]]()
        for outcome in outcomes:
            post = _post_of(outcome)
            if outcome.error is None:
                self._gate.charge(post.tenant, outcome.count, len(outcome.job.body), now_s)
            if post.key is not None and not outcome.accepted and not outcome.repeats:
                self._keys.release(post.tenant, post.key)
            answer = self._verdict(outcome, post.form, now_s)
            post.request.answer(answer)
            post.request.context = None  # else the two hold each other until a garbage collection
            requests[post.form.name, answer.status] += 1
            self.metrics.seconds.observe(post.form.name, now_s - post.begun_s)
            if self._access_log is not None:
                self._log(post.request, answer, post.tenant, post.begun_s, outcome)
        self.metrics.answered(requests)
        self._count(written)

    def _let_in(self, request: Request, visitor: _Visitor, now_s: float) -> Answer | None:
        """None if the body may come, else why not. Tells ``visitor`` who it is as far as that is known."""
        head, limit = request.head, self._settings.ingest.max_body_bytes
        tenant = self._gate.tenant(head.headers.get("authorization"), wall_ms() * 1000)
        if isinstance(tenant, Denied):
            return _denied(tenant, "authorization" in head.headers)
        visitor.tenant = tenant
        key = head.headers.get("idempotency-key")
        try:
            form = format_of(head.path, head.headers)
            visitor.form = form.name
            check_key(key)
        except Unsupported as error:
            return answers.problem(415, str(error), accept_encoding=encodings.ACCEPTED)
        except MalformedBody as error:
            return answers.problem(400, str(error))
        if head.length is not None and head.length > limit:
            return form.problem(
                413, f"the body has {head.length:,} bytes, the limit is {limit:,}; send less at once"
            )
        if self._admission.closed:
            return form.problem(503, _STOPPING)
        wait_s = self._gate.quota_wait_s(tenant, now_s)
        if wait_s > 0:
            detail = f"this tenant's quota is used up; send the same again in {wait_s:.3f} s"
            return form.problem(429, detail, kind="quota", retry_after_s=wait_s)
        reserved = (head.length or 0) + REQUEST_BYTES
        if not self._gate.reserve(tenant, reserved):
            return form.problem(429, _NO_ROOM, retry_after_s=self._retry_after_s(429, now_s))
        request.context = _Post(form, request, tenant, reserved, now_s, key)
        return None

    def _dropped(self, post: _Post, status: int, detail: str) -> Answer:
        """The answer to a request that was let in, and then not taken."""
        self._gate.free(post.tenant, post.reserved)
        post.request.context = None
        answer = post.form.problem(status, detail, retry_after_s=self._retry_after_s(status, monotonic_s()))
        self.metrics.answered({(post.form.name, answer.status): 1})
        self._log(post.request, answer, post.tenant, post.begun_s)
        return answer

    def _retry_after_s(self, status: int, now_s: float) -> int | None:
        return self._gate.retry_after_s(now_s) if status in (429, 503) else None

    def _verdict(self, outcome: Outcome, form: Format, now_s: float) -> Answer:
        if outcome.error is not None:
            if not isinstance(outcome.error, SmartScaleError):
                self._tell_bug(outcome.error, now_s)
                return form.problem(
                    500, f"the body could not be read: {type(outcome.error).__name__}; this is our mistake"
                )
            detail = f"the events could not be written, send them again with the same ids: {outcome.error}"
            return form.problem(503, detail, retry_after_s=self._retry_after_s(503, now_s))
        if outcome.problem is not None:
            return form.problem(outcome.problem.status, outcome.problem.detail, **outcome.problem.headers)
        if not outcome.refused and not outcome.repeats:
            return form.result(outcome.count, ())
        verdicts = [Verdict(refusal.index, "refused", refusal.reason) for refusal in outcome.refused]
        verdicts += [
            Verdict(place, "duplicate", "an event with this id is already in the log")
            for place in outcome.repeats
        ]
        verdicts.sort(key=lambda verdict: verdict.index)
        return form.result(outcome.accepted, verdicts)

    def _tell_bug(self, error: Exception, now_s: float) -> None:
        """With its traceback, once a second at most: whoever has found a body that does it may send many."""
        if now_s - self._bug_told_s >= 1:
            self._bug_told_s = now_s
            LOG.error("a body could not be read: this is a bug", exc_info=error)

    def _count(self, written: Sequence[Outcome]) -> None:
        accepted, sizes = Counts[tuple[str, str]](), Counts[tuple[str, str]]()
        rest, refused = Counts[tuple[str, str, str]](), Counts[str]()
        for outcome in written:
            tenant, form = outcome.job.tenant, outcome.job.form.name
            sizes[tenant, form] += len(outcome.job.body)
            if outcome.problem is not None:
                continue
            accepted[tenant, form] += outcome.accepted
            if outcome.repeats:
                rest[tenant, form, "duplicate"] += len(outcome.repeats)
            if outcome.refused:
                rest[tenant, form, "refused"] += len(outcome.refused)
                refused.update(refusal.code for refusal in outcome.refused)
        taken = {(tenant, form, "accepted"): count for (tenant, form), count in accepted.items() if count}
        self.metrics.judged({**taken, **rest}, refused, sizes)

    def _log(
        self, request: Request, answer: Answer, tenant: str, begun_s: float, outcome: Outcome | None = None
    ) -> None:
        if self._access_log is None:
            return
        head = request.head
        judged = outcome is not None and outcome.error is None and outcome.problem is None
        counts = (
            (outcome.accepted, len(outcome.repeats), len(outcome.refused))
            if outcome and judged
            else (0, 0, 0)
        )
        self._access_log.put(
            Line(
                wall_ms() * 1000,
                head.method,
                head.path,
                answer.status,
                request.peer,
                tenant,
                head.headers.get("content-type", ""),
                request.arrived,
                *counts,
                (monotonic_s() - begun_s) * 1000,
            )
        )

    def _healthz(self) -> Answer:
        return _state(*self._health.is_healthy)

    def _readyz(self) -> Answer:
        return _state(*self._health.is_ready)

    def _prometheus(self) -> Answer:
        return Answer(200, generate_latest(self._health.registry), CONTENT_TYPE_LATEST)


def _asked(method: str, known: Sequence[str]) -> Answer | None:
    """The answer to a request that only asks what may be done, or uses a method that is not ``known``; else None."""
    if method in known:
        return None
    allow = ", ".join((*known, "OPTIONS"))
    if method == "OPTIONS":
        return Answer(200, b"", "text/plain", {"allow": allow})
    return answers.problem(405, f"use one of the methods {allow}", allow=allow)


def _denied(denied: Denied, known: bool) -> Answer:
    """RFC 6750, section 3: the challenge says whether the token was the trouble."""
    if denied.status != 401:
        return answers.problem(denied.status, denied.detail)
    challenge = 'Bearer realm="smartscale"' + (', error="invalid_token"' if known else "")
    return answers.problem(401, denied.detail, www_authenticate=challenge)


def _openapi() -> Answer:
    return Answer(200, openapi.text())


def _post(request: Request) -> _Post:
    assert isinstance(request.context, _Post)
    return request.context


def _post_of(outcome: Outcome) -> _Post:
    assert isinstance(outcome.job.context, _Post)
    return outcome.job.context


def _state(good: bool, reason: str) -> Answer:
    return Answer(200 if good else 503, f"{reason}\n".encode(), "text/plain; charset=utf-8")
