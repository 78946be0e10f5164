"""The edge as an application of its HTTP server: admits requests, hands bodies to the writer, answers."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from smartscale import config
from smartscale.clock import Clock, monotonic_s
from smartscale.errors import SmartScaleError
from smartscale.ingest import answers
from smartscale.ingest.admission import REQUEST_BYTES, Admission, Drain
from smartscale.ingest.answers import Answer, Verdict
from smartscale.ingest.decode import Job, Outcome, check_key
from smartscale.ingest.formats import FORMATS, Format, Unsupported, format_of
from smartscale.ingest.server import Request
from smartscale.records.events_json import MalformedBody
from smartscale.telemetry.health import Health

_STOPPING: Final = "this process is stopping; send the events again"


@dataclass(slots=True)
class _Post:
    """A request with events: its format, and how many bytes are reserved for it."""

    form: Format
    request: Request
    reserved: int


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
        put: Callable[[Job], None],
    ) -> None:
        self._settings, self._clock, self._health = settings, clock, health
        self._admission, self._put = admission, put
        self.drain = Drain()
        self._metrics = _Metrics(health, admission)
        self._gets = {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._prometheus}

    def begin(self, request: Request) -> Answer | None:
        head = request.head
        if head.path in FORMATS:
            answer = self._admitted(request)
            if answer is not None:
                self._metrics.answered({answer.status: 1})
            return answer
        get = self._gets.get(head.path)
        if get is None:
            return answers.problem(404, f"nothing is at {head.path}; events go to POST /v1/events")
        if head.method not in ("GET", "HEAD"):
            return answers.problem(405, f"{head.path} is read with GET", allow="GET, HEAD")
        return get()

    def more(self, request: Request) -> Answer | None:
        """Bounds a body that does not say its length, and makes room for it as it comes."""
        post, limit = _post(request), self._settings.ingest.max_body_bytes
        if request.arrived > limit:
            return self._dropped(
                post, 413, f"the body is longer than the limit of {limit:,} bytes; send less at once"
            )
        if not self._admission.reserve(request.arrived + REQUEST_BYTES - post.reserved):
            return self._dropped(post, 429, "too many bytes are waiting to be written; send the events again")
        post.reserved = request.arrived + REQUEST_BYTES
        return None

    def complete(self, request: Request) -> Answer | None:
        post = _post(request)
        if self._admission.closed:
            return self._dropped(post, 503, _STOPPING)
        received_us = self._clock.now_us()
        job = Job(
            post.form,
            request.head.headers,
            request.body,
            received_us,
            ticket=self._admission.admit(received_us),
            context=post,
        )
        self._put(job)
        return None

    def lost(self, request: Request) -> None:
        if isinstance(request.context, _Post):
            self._admission.free(request.context.reserved)
            request.context = None

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Take back what the writer is done with, and answer."""
        statuses = Counts[int]()
        events = size = 0
        for outcome in outcomes:
            post = outcome.job.context
            assert isinstance(post, _Post)
            self._admission.settle(outcome.job.ticket)
            self._admission.free(post.reserved)
            answer = self._verdict(outcome, post.form)
            if outcome.error is None:
                size += len(outcome.job.body)
                events += outcome.count
            statuses[answer.status] += 1
            post.request.answer(answer)
        if size:
            self.drain.add(monotonic_s(), size, events)
        self._metrics.answered(statuses)
        self._metrics.judged(outcomes)

    def _admitted(self, request: Request) -> Answer | None:
        """None if the body may come, else why not."""
        head, limit = request.head, self._settings.ingest.max_body_bytes
        if head.method != "POST":
            return answers.problem(405, "send events with POST", allow="POST")
        try:
            form = format_of(head.path, head.headers)
            check_key(head.headers.get("idempotency-key"))
        except Unsupported as error:
            return answers.problem(415, str(error))
        except MalformedBody as error:
            return answers.problem(400, str(error))
        if head.length is not None and head.length > limit:
            return form.problem(
                413, f"the body has {head.length:,} bytes, the limit is {limit:,}; send less at once"
            )
        if self._admission.closed:
            return form.problem(503, _STOPPING)
        reserved = (head.length or 0) + REQUEST_BYTES
        if not self._admission.reserve(reserved):
            return form.problem(429, "too many bytes are waiting to be written; send the events again")
        request.context = _Post(form, request, reserved)
        return None

    def _dropped(self, post: _Post, status: int, detail: str) -> Answer:
        self._admission.free(post.reserved)
        post.request.context = None
        self._metrics.answered({status: 1})
        return post.form.problem(status, detail)

    def _verdict(self, outcome: Outcome, form: Format) -> Answer:
        if outcome.error is not None:
            if not isinstance(outcome.error, SmartScaleError):
                return form.problem(
                    500, f"the body could not be read: {outcome.error!r}; this is our mistake"
                )
            return form.problem(
                503, f"the events could not be written, send them again with the same ids: {outcome.error}"
            )
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

    def _healthz(self) -> Answer:
        return _state(*self._health.is_healthy)

    def _readyz(self) -> Answer:
        return _state(*self._health.is_ready)

    def _prometheus(self) -> Answer:
        return Answer(200, generate_latest(self._health.registry), CONTENT_TYPE_LATEST)


def _post(request: Request) -> _Post:
    assert isinstance(request.context, _Post)
    return request.context


def _state(good: bool, reason: str) -> Answer:
    return Answer(200 if good else 503, f"{reason}\n".encode(), "text/plain; charset=utf-8")


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
        for name, text, of in (
            ("requests", "Requests whose events are not durable yet", lambda: admission.requests),
            ("bytes", "Bytes of requests being read or waiting to become durable", lambda: admission.bytes),
        ):
            Gauge(f"smartscale_ingest_waiting_{name}", text, registry=registry).set_function(of)

    def answered(self, statuses: Mapping[int, int]) -> None:
        for status, requests in statuses.items():
            self.requests.labels(str(status)).inc(requests)

    def judged(self, outcomes: Sequence[Outcome]) -> None:
        accepted = repeats = 0
        for outcome in outcomes:
            if outcome.error is not None or outcome.problem is not None:
                continue
            accepted += outcome.accepted
            repeats += len(outcome.repeats)
            for refusal in outcome.refused:
                self.events.labels("refused", refusal.code).inc()
        if accepted:
            self.events.labels("accepted", "").inc(accepted)
        if repeats:
            self.events.labels("duplicate", "").inc(repeats)
