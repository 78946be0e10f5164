"""What becomes of spans, log records and data points.

The service is the resource's ``service.name``, else ``unknown_service``. Of the resource's attributes those of ``KEPT``
are kept with each event, of an item's all that no field holds.

Spans. One of kind SERVER or CONSUMER is an interaction: named by ``http.route``, else by the span; its status
``http.response.status_code`` (``http.status_code`` of older senders), an error if the span's status says so, else by
the HTTP status; its latency the span's duration, its time the span's end; its id trace and span id, so that an
exporter's retry counts once. Any other span is taken and nothing is written of it: what it tells of is told by a
server's span too, or is work inside it, and would be counted twice.

Log records become log events named by their logger (scope), an error from severity ERROR on. Their text is not kept.

Data points of gauges and sums become metric events named by the metric, with the value as it is: an increment if the
sum is of delta temporality, a running total if it is cumulative, which the attribute ``temporality`` tells. A data point
of a histogram or summary becomes two, ``NAME_count`` and ``NAME_sum``. A point without a recorded value, or NaN, is
taken and nothing is written.

Log records and data points have no ids. But an exporter that tries again sends the same bytes: so a hash of the body
and the item's place in it are the id of an item that has a time of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec
import xxhash

from smartscale.clock import iso
from smartscale.ingest.otlp import messages
from smartscale.ingest.otlp.messages import has, hex_id, plain, whole
from smartscale.ingest.translation import Translation
from smartscale.records.events_json import SEVERITIES, Decoded, EventIn, Limits, MalformedBody

UNKNOWN_SERVICE: Final = "unknown_service"
"""The service of a resource that names none (OpenTelemetry's resource conventions)."""
KEPT: Final = (
    "service.namespace", "service.instance.id", "service.version", "deployment.environment.name",
    "deployment.environment",
)  # fmt: skip
"""Attributes of a resource that are kept; the others repeat with every event what seldom is asked for."""

INTERACTIONS: Final = frozenset({2, 5})
"""Kinds of spans that are interactions: SERVER and CONSUMER."""
_STATUS_OK, _STATUS_ERROR = 1, 2
ROUTE: Final = "http.route"
STATUS: Final = ("http.response.status_code", "http.status_code")
USER: Final = ("enduser.id", "user.id")

_encode = msgspec.json.Encoder().encode
Headers = Mapping[str, str]


def decode_traces(headers: Headers, body: bytes, limits: Limits) -> Decoded:
    """The interactions among the spans of a body. Raises ``MalformedBody``."""
    return _decoded(messages.Traces, _spans, headers, body, limits)


def decode_logs(headers: Headers, body: bytes, limits: Limits) -> Decoded:
    """The log records of a body as log events. Raises ``MalformedBody``."""
    return _decoded(messages.Logs, _logs, headers, body, limits)


def decode_metrics(headers: Headers, body: bytes, limits: Limits) -> Decoded:
    """The data points of a body as metric events. Raises ``MalformedBody``."""
    return _decoded(messages.Metrics, _metrics, headers, body, limits)


def is_json(headers: Headers) -> bool:
    """Whether a request, and so its answer, is in JSON."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _decoded(
    shape: type[messages.Traces | messages.Logs | messages.Metrics],
    translate: Callable[[Any, Translation, str], None],
    headers: Headers,
    body: bytes,
    limits: Limits,
) -> Decoded:
    request = messages.read(shape, body, is_json(headers))
    stem = headers.get("idempotency-key") or xxhash.xxh3_128_hexdigest(body)
    translation = Translation()
    try:
        translate(request, translation, stem)
    except (
        RecursionError,
        ValueError,
        OverflowError,
    ) as error:  # of JSON alone: numbers in text, deep values
        raise MalformedBody(f"the body is not valid OTLP: {error}") from None
    return translation.checked(limits)


def _attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: plain(pair.value) for pair in pairs}


def service_and_kept(resource: Any) -> tuple[str, dict[str, Any]]:
    """The service that a resource is, and its attributes to be kept with each event."""
    found = _attributes(resource.attributes)
    service = found.get("service.name")
    return (
        service if isinstance(service, str) and service else UNKNOWN_SERVICE,
        {name: found[name] for name in KEPT if name in found},
    )


def _raw(kept: Mapping[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(_encode(kept)) if kept else _NO_ATTRIBUTES


_NO_ATTRIBUTES: Final = EventIn(service="any").attributes
"""The very default: only then the field is left out."""


class _Wrong(Exception):
    """Code and reason of a refusal."""


def _time(nanoseconds: int) -> str | None:
    """The time as a native event has it; None for 0, which stands for unknown."""
    if not 0 <= nanoseconds < 1 << 63:
        raise _Wrong(
            "invalid-time", f"the time {nanoseconds} is no number of nanoseconds since 1970 before 2262"
        )
    return iso(nanoseconds // 1000) if nanoseconds else None


def _spans(request: Any, translation: Translation, _stem: str) -> None:
    for group in request.resource_spans:
        service, kept = service_and_kept(group.resource)
        for scope in group.scope_spans:
            for span in scope.spans:
                if span.kind not in INTERACTIONS:
                    translation.ignore()
                    continue
                try:
                    translation.add(_interaction(span, service, kept))
                except _Wrong as wrong:
                    translation.refuse(*wrong.args)


def _interaction(span: Any, service: str, kept: Mapping[str, Any]) -> EventIn:
    """Raises ``_Wrong``."""
    trace_id, span_id = hex_id(span.trace_id, 16), hex_id(span.span_id, 8)
    if trace_id is None or span_id is None:
        raise _Wrong(
            "invalid-id", "a span must have a trace id of 16 bytes and a span id of 8, not only zeros"
        )
    attributes = _attributes(span.attributes)
    route, status, user = attributes.pop(ROUTE, None), _status(attributes), _user(attributes)
    start_ns, end_ns = whole(span.start_time_unix_nano), whole(span.end_time_unix_nano)
    return EventIn(
        service=service,
        time=_time(end_ns),
        name=route if isinstance(route, str) and route else span.name,
        status=status,
        error={_STATUS_OK: False, _STATUS_ERROR: True}.get(span.status.code),
        latency_ms=_latency_ms(start_ns, end_ns) if start_ns and end_ns else None,
        user=user,
        id=trace_id + span_id,
        attributes=_raw({**kept, **attributes}),
    )


def _latency_ms(start_ns: int, end_ns: int) -> float:
    """Whole microseconds, half of one rounded up."""
    if end_ns < start_ns:
        raise _Wrong("invalid-latency_ms", "the span ends before it starts")
    return (end_ns - start_ns + 500) // 1000 / 1000


def _status(attributes: dict[str, Any]) -> int | None:
    """The HTTP status, taken out of the attributes; one that is none stays there."""
    for name in STATUS:
        found = attributes.get(name)
        if isinstance(found, int) and 100 <= found <= 599:
            del attributes[name]
            return found
    return None


def _user(attributes: dict[str, Any]) -> str | None:
    """The user, taken out of the attributes, where it would be kept in clear."""
    found = [attributes.pop(name, None) for name in USER]
    return next((str(user) for user in found if user not in (None, "")), None)


def _logs(request: Any, translation: Translation, stem: str) -> None:
    for group in request.resource_logs:
        service, kept = service_and_kept(group.resource)
        for scope in group.scope_logs:
            for record in scope.log_records:
                try:
                    translation.add(
                        _log(record, scope.scope.name, service, kept, f"{stem}:{translation.items}")
                    )
                except _Wrong as wrong:
                    translation.refuse(*wrong.args)


def _log(record: Any, logger: str, service: str, kept: Mapping[str, Any], own_id: str) -> EventIn:
    """Raises ``_Wrong``."""
    attributes = {**kept, **_attributes(record.attributes)}
    user = _user(attributes)
    links = {
        "trace_id": hex_id(record.trace_id, 16),
        "span_id": hex_id(record.span_id, 8),
        "event_name": record.event_name,
    }
    attributes |= {name: value for name, value in links.items() if value}
    time = _time(whole(record.time_unix_nano) or whole(record.observed_time_unix_nano))
    return EventIn(
        service=service,
        time=time,
        kind="log",
        name=logger or record.event_name,
        severity=_severity(record.severity_number, record.severity_text),
        user=user,
        id=own_id if time else None,
        attributes=_raw(attributes),
    )


_SEVERITIES: Final = ("trace", "debug", "info", "warn", "error", "fatal")


def _severity(number: int, text: str) -> str | None:
    """By number (1 to 24, four to a name: OpenTelemetry's logs data model), else by a text that is known."""
    if 1 <= number <= 24:
        return _SEVERITIES[(number - 1) // 4]
    return text.lower() if text.lower() in SEVERITIES else None


_NO_RECORDED_VALUE: Final = 1
_TEMPORALITIES: Final = {1: "delta", 2: "cumulative"}


def _metrics(request: Any, translation: Translation, stem: str) -> None:
    for group in request.resource_metrics:
        service, kept = service_and_kept(group.resource)
        for scope in group.scope_metrics:
            for metric in scope.metrics:
                _metric(metric, service, kept, translation, stem)


_KINDS: Final = ("gauge", "sum", "histogram", "exponential_histogram", "summary")


def _metric(metric: Any, service: str, kept: Mapping[str, Any], translation: Translation, stem: str) -> None:
    kind = next((kind for kind in _KINDS if has(metric, kind)), None)
    if kind is None:
        return  # a metric without data points
    data = getattr(metric, kind)
    temporality = _TEMPORALITIES.get(getattr(data, "aggregation_temporality", 0))
    if temporality:
        kept = {**kept, "temporality": temporality}
    for point in data.data_points:
        try:
            values = _values(point, kind)
            if not values:
                translation.ignore()
                continue
            attributes = {**kept, **_attributes(point.attributes)}
            user = _user(attributes)
            time, raw = _time(whole(point.time_unix_nano)), _raw(attributes)
            translation.add(
                *(
                    EventIn(
                        service=service,
                        time=time,
                        kind="metric",
                        name=_metric_name(metric.name, suffix),
                        value=value,
                        user=user,
                        id=f"{stem}:{translation.items}{suffix}" if time else None,
                        attributes=raw,
                    )
                    for suffix, value in values
                )
            )
        except _Wrong as wrong:
            translation.refuse(*wrong.args)


def _values(point: Any, kind: str) -> list[tuple[str, float]]:
    """What a data point says, by the ending of the metric's name; nothing where no value was recorded. Raises ``_Wrong``."""
    if point.flags & _NO_RECORDED_VALUE:
        return []
    if kind not in ("gauge", "sum"):
        total = [("_sum", float(point.sum))] if kind == "summary" or has(point, "sum") else []
        values = [("_count", float(whole(point.count))), *total]
    elif has(point, "as_int"):
        values = [("", float(whole(point.as_int)))]
    elif has(point, "as_double"):
        values = [("", float(point.as_double))]
    else:
        raise _Wrong("missing-value", "the data point has no value")
    if any(math.isinf(value) for _, value in values):
        raise _Wrong("invalid-value", "`value` must be a finite number")
    return [(suffix, value) for suffix, value in values if not math.isnan(value)]


def _metric_name(name: str, suffix: str) -> str:
    if not name:
        raise _Wrong("invalid-name", "a metric must have a name")
    return name + suffix
