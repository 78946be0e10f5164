"""OTLP: what becomes of spans, log records and data points, the same in protobuf and JSON, and what exporters are told."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList

from smartscale.clock import MICROS, parse_iso_us
from smartscale.ingest.answers import Verdict
from smartscale.ingest.otlp import answers, events
from smartscale.records.events_json import Decoded, EventIn, Limits, MalformedBody

NOW_US = parse_iso_us("2026-06-01T12:00:00Z")
LIMITS = Limits(NOW_US, NOW_US + 60 * MICROS, 64 << 10)
END_NS = (NOW_US - 1_000_000) * 1000
PROTOBUF = {"content-type": "application/x-protobuf"}
JSON = {"content-type": "application/json; charset=utf-8"}


def any_value(value: Any) -> AnyValue:
    """As an SDK makes it."""
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case str():
            return AnyValue(string_value=value)
        case bytes():
            return AnyValue(bytes_value=value)
        case list():
            return AnyValue(array_value=ArrayValue(values=[any_value(inner) for inner in value]))
        case dict():
            return AnyValue(kvlist_value=KeyValueList(values=pairs(value)))
    return AnyValue()


def pairs(attributes: Mapping[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=any_value(value)) for key, value in attributes.items()]


def as_json(message: Message) -> bytes:
    """OTLP's JSON: protobuf's, but for ids in hex and enums as numbers."""
    tree = MessageToDict(message, use_integers_for_enums=True)

    def mend(node: Any) -> Any:
        if isinstance(node, list):
            return [mend(inner) for inner in node]
        if not isinstance(node, dict):
            return node
        return {
            name: base64.b64decode(value).hex()
            if name in ("traceId", "spanId", "parentSpanId")
            else mend(value)
            for name, value in node.items()
        }

    return json.dumps(mend(tree)).encode()


Decode = Callable[[Mapping[str, str], bytes, Limits], Decoded]


def both(decode: Decode, message: Message) -> Decoded:
    """What both encodings give: the same but for the ids of items that have none of their own."""
    one, other = decode(PROTOBUF, message.SerializeToString(), LIMITS), decode(JSON, as_json(message), LIMITS)
    assert [said(event) for event in one.events] == [said(event) for event in other.events]
    assert one.times_us.tolist() == other.times_us.tolist()
    assert (list(one.indexes), one.refused, one.count) == (list(other.indexes), other.refused, other.count)
    return one


def said(event: EventIn) -> dict[str, Any]:
    """The fields that say something; attributes as an object."""
    fields = {name: getattr(event, name) for name in EventIn.__struct_fields__}
    given = {
        name: value
        for name, value in fields.items()
        if value is not None and name not in ("time", "attributes")
    }
    if event.kind != "interaction":
        given.pop("id", None)
    return given | ({"attributes": json.loads(bytes(event.attributes))} if event.attributes else {})


RESOURCE = {"service.name": "shop", "service.version": "2", "host.name": "h"}
SPAN: dict[str, Any] = {
    "trace_id": bytes(range(16)), "span_id": bytes(range(8)), "name": "GET /cart/7", "kind": 2,
    "start_time_unix_nano": END_NS - 12_345_678, "end_time_unix_nano": END_NS,
}  # fmt: skip
SPAN_ID = bytes(range(16)).hex() + bytes(range(8)).hex()


def traces(*spans: Mapping[str, Any], resource: Mapping[str, Any] = RESOURCE) -> ExportTraceServiceRequest:
    made = [{**SPAN, **span, "attributes": pairs(span.get("attributes", {}))} for span in spans]
    scopes = [{"spans": made}]
    groups = [{"resource": {"attributes": pairs(resource)}, "scope_spans": scopes}]
    return ExportTraceServiceRequest(resource_spans=groups)  # type: ignore[arg-type]  # dicts are taken too


def span(**fields: Any) -> Decoded:
    return both(events.decode_traces, traces(fields))


def test_a_server_span_is_an_interaction() -> None:
    """Route, status, duration in whole microseconds, end time, and an id that a retry repeats."""
    decoded = span(
        attributes={
            "http.route": "/cart/{id}",
            "http.response.status_code": 200,
            "http.request.method": "GET",
        }
    )
    assert [said(event) for event in decoded.events] == [
        {
            "service": "shop", "kind": "interaction", "name": "/cart/{id}", "status": 200, "latency_ms": 12.346,
            "id": SPAN_ID, "attributes": {"service.version": "2", "http.request.method": "GET"},
        }
    ]  # fmt: skip
    assert decoded.times_us.tolist() == [NOW_US - 1_000_000]


def test_without_a_route_the_span_names_it() -> None:
    assert span().events[0].name == "GET /cart/7"
    assert span(attributes={"http.route": ""}).events[0].name == "GET /cart/7"


def test_the_old_name_of_the_status_is_read_too() -> None:
    assert span(attributes={"http.status_code": 503}).events[0].status == 503
    both_given = span(attributes={"http.status_code": 503, "http.response.status_code": 200}).events[0]
    assert both_given.status == 200


@pytest.mark.parametrize("status", [0, 99, 600, "200", 2.0, True])
def test_a_status_that_is_none_stays_an_attribute(status: object) -> None:
    event = span(attributes={"http.status_code": status}).events[0]
    assert event.status is None
    assert said(event)["attributes"]["http.status_code"] == status


@pytest.mark.parametrize(("code", "error"), [(0, None), (1, False), (2, True)])
def test_the_span_says_whether_it_is_an_error(code: int, error: bool | None) -> None:
    """Unset leaves it to the HTTP status."""
    assert span(status={"code": code}).events[0].error is error


def test_the_user_is_a_field_and_not_kept_in_clear() -> None:
    event = span(attributes={"enduser.id": "ada", "user.id": "7"}).events[0]
    assert event.user == "ada"
    assert said(event)["attributes"] == {"service.version": "2"}


@pytest.mark.parametrize("kind", [0, 1, 3, 4, 77])
def test_other_kinds_of_spans_are_taken_and_nothing_is_written_of_them(kind: int) -> None:
    decoded = both(events.decode_traces, traces({"kind": kind}, {}))
    assert (list(decoded.indexes), decoded.refused) == ([1], [])


def test_consumers_are_interactions_too() -> None:
    assert len(span(kind=5).events) == 1


@pytest.mark.parametrize("resource", [{}, {"service.name": ""}, {"service.name": 7}])
def test_a_resource_without_a_name_is_an_unknown_service(resource: Mapping[str, Any]) -> None:
    assert both(events.decode_traces, traces({}, resource=resource)).events[0].service == "unknown_service"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"trace_id": b""}, "invalid-id"),
        ({"trace_id": bytes(16)}, "invalid-id"),
        ({"span_id": b"1234567"}, "invalid-id"),
        ({"start_time_unix_nano": END_NS + 1}, "invalid-latency_ms"),
        ({"start_time_unix_nano": 1, "end_time_unix_nano": 1 << 62}, "invalid-latency_ms"),
        ({"end_time_unix_nano": 1 << 63}, "invalid-time"),
        ({"end_time_unix_nano": (NOW_US + 61 * MICROS) * 1000}, "far-future"),
        ({"name": "n" * 257}, "invalid-name"),
        ({"name": "*"}, "invalid-name"),
        ({"name": "a\nb"}, "invalid-name"),
        ({"attributes": {"a": "x" * 70_000}}, "too-large"),
    ],
)
def test_a_span_that_cannot_be_taken_is_refused_alone(fields: Mapping[str, Any], code: str) -> None:
    decoded = both(events.decode_traces, traces({}, fields, {}))
    assert [(found.index, found.code) for found in decoded.refused] == [(1, code)]
    assert list(decoded.indexes) == [0, 2]


def test_a_span_without_times_happened_when_it_came() -> None:
    decoded = span(start_time_unix_nano=0, end_time_unix_nano=0)
    assert decoded.times_us.tolist() == [NOW_US]
    assert decoded.events[0].latency_ms is None


def test_all_kinds_of_attribute_values_are_kept() -> None:
    """What JSON has no number for is null, bytes are base64."""
    given = {
        "s": 'a"\n',
        "i": -(1 << 60),
        "b": True,
        "d": 1.5,
        "n": float("nan"),
        "l": [1, "x"],
        "m": {"k": []},
        "y": b"\x00",
    }
    kept = said(span(attributes=given).events[0])["attributes"]
    assert kept == {**given, "service.version": "2", "n": None, "y": "AA=="}


def logs(**fields: Any) -> Decoded:
    record = {"time_unix_nano": END_NS, **fields, "attributes": pairs(fields.get("attributes", {}))}
    scopes = [{"scope": {"name": "app.cart"}, "log_records": [record]}]
    groups = [{"resource": {"attributes": pairs(RESOURCE)}, "scope_logs": scopes}]
    return both(events.decode_logs, ExportLogsServiceRequest(resource_logs=groups))  # type: ignore[arg-type]  # dicts


def test_a_log_record_is_a_log_event_named_by_its_logger() -> None:
    """Its text is not kept, what links it to a trace is."""
    decoded = logs(
        severity_number=17,
        body=any_value("secret"),
        attributes={"k": 1},
        trace_id=bytes(range(16)),
        event_name="sold",
    )
    (event,) = decoded.events
    assert said(event) == {
        "service": "shop", "kind": "log", "name": "app.cart", "severity": "error",
        "attributes": {"service.version": "2", "k": 1, "trace_id": bytes(range(16)).hex(), "event_name": "sold"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("number", "text", "severity"),
    [
        (0, "", None),
        (0, "WARNING", "warning"),
        (0, "loud", None),
        (1, "", "trace"),
        (12, "x", "info"),
        (21, "", "fatal"),
        (25, "", None),
    ],
)
def test_severity_comes_from_the_number_else_from_a_known_text(
    number: int, text: str, severity: str | None
) -> None:
    assert logs(severity_number=number, severity_text=text).events[0].severity == severity


def test_a_log_record_without_a_time_has_the_time_it_was_observed() -> None:
    assert logs(time_unix_nano=0, observed_time_unix_nano=END_NS).times_us.tolist() == [NOW_US - 1_000_000]
    assert logs(time_unix_nano=0).times_us.tolist() == [NOW_US]


def test_ids_come_from_the_bytes_so_that_a_retry_counts_once() -> None:
    """The same body gives the same ids, another one others; an item without a time has none: it may be a new one."""
    groups = [{"scope_logs": [{"log_records": [{"time_unix_nano": END_NS}, {}]}]}]
    body = ExportLogsServiceRequest(resource_logs=groups).SerializeToString()  # type: ignore[arg-type]  # dicts
    first, again = (events.decode_logs(PROTOBUF, body, LIMITS).events for _ in range(2))
    assert [event.id for event in first] == [event.id for event in again]
    assert first[0].id is not None
    assert first[1].id is None
    keyed = events.decode_logs({**PROTOBUF, "idempotency-key": "k"}, body, LIMITS).events
    assert keyed[0].id == "k:0"


def metrics(**data: Any) -> Decoded:
    groups = [
        {
            "resource": {"attributes": pairs(RESOURCE)},
            "scope_metrics": [{"metrics": [{"name": "queue", **data}]}],
        }
    ]
    return both(events.decode_metrics, ExportMetricsServiceRequest(resource_metrics=groups))  # type: ignore[arg-type]  # dicts


def point(**fields: Any) -> dict[str, Any]:
    return {"time_unix_nano": END_NS, **fields, "attributes": pairs(fields.get("attributes", {}))}


def test_each_data_point_of_a_gauge_is_a_metric_event() -> None:
    shared = {"service": "shop", "kind": "metric", "name": "queue"}
    decoded = metrics(gauge={"data_points": [point(as_double=2.5, attributes={"q": "a"}), point(as_int=-7)]})
    assert [said(event) for event in decoded.events] == [
        {**shared, "value": 2.5, "attributes": {"service.version": "2", "q": "a"}},
        {**shared, "value": -7.0, "attributes": {"service.version": "2"}},
    ]
    assert decoded.times_us.tolist() == [NOW_US - 1_000_000] * 2
    assert len({event.id for event in decoded.events}) == 2


@pytest.mark.parametrize(("number", "word"), [(1, "delta"), (2, "cumulative")])
def test_a_sum_keeps_its_value_and_says_what_it_is(number: int, word: str) -> None:
    (event,) = metrics(sum={"aggregation_temporality": number, "data_points": [point(as_int=5)]}).events
    assert (event.value, said(event)["attributes"]["temporality"]) == (5.0, word)


@pytest.mark.parametrize("kind", ["histogram", "exponential_histogram", "summary"])
def test_a_distribution_becomes_its_count_and_its_sum(kind: str) -> None:
    decoded = metrics(**{kind: {"data_points": [point(count=4, sum=10.0)]}})
    assert [(event.name, event.value) for event in decoded.events] == [
        ("queue_count", 4.0),
        ("queue_sum", 10.0),
    ]
    assert list(decoded.indexes) == [0, 0]
    assert len({event.id for event in decoded.events}) == 2


def test_a_histogram_without_a_sum_is_its_count() -> None:
    assert [event.name for event in metrics(histogram={"data_points": [point(count=4)]}).events] == [
        "queue_count"
    ]


def test_points_without_a_value_are_taken_and_nothing_is_written() -> None:
    decoded = metrics(
        gauge={"data_points": [point(as_double=1, flags=1), point(as_double=float("nan")), point(as_int=1)]}
    )
    assert (list(decoded.indexes), decoded.refused) == ([2], [])


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({"gauge": {"data_points": [point()]}}, "missing-value"),
        ({"gauge": {"data_points": [point(as_double=float("inf"))]}}, "invalid-value"),
        ({"name": "", "gauge": {"data_points": [point(as_int=1)]}}, "invalid-name"),
        ({"name": "n" * 257, "gauge": {"data_points": [point(as_int=1)]}}, "invalid-name"),
    ],
)
def test_a_point_that_cannot_be_taken_is_refused(data: Mapping[str, Any], code: str) -> None:
    assert [found.code for found in metrics(**data).refused] == [code]


def test_json_as_people_write_it_is_read() -> None:
    """Numbers for integers in text, fields nobody knows, nulls, ids in capitals."""
    text = {
        "resourceSpans": [
            {
                "schemaUrl": "x", "resource": None,
                "scopeSpans": [
                    {"spans": [{
                        "traceId": "5B8EFFF798038103D269B633813FC60C", "spanId": "EEE19B7EC3C1B174", "name": "n", "kind": 2,
                        "startTimeUnixNano": END_NS - 1000, "endTimeUnixNano": str(END_NS), "attributes": None, "new": [1],
                    }]}
                ],
            }
        ]
    }  # fmt: skip
    (event,) = events.decode_traces(JSON, json.dumps(text).encode(), LIMITS).events
    assert (event.id, event.latency_ms) == ("5b8efff798038103d269b633813fc60ceee19b7ec3c1b174", 0.001)


def test_an_empty_request_is_nothing_to_complain_about() -> None:
    for decode in (events.decode_traces, events.decode_logs, events.decode_metrics):
        assert decode(PROTOBUF, b"", LIMITS).count == 0
        assert decode(JSON, b"{}", LIMITS).count == 0


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (PROTOBUF, b"\xff"), (PROTOBUF, b"\x0a\x05abc"), (JSON, b""), (JSON, b"["), (JSON, b"[]"), (JSON, b"\xff"),
        (JSON, b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"endTimeUnixNano":"soon"}]}]}]}'),
        (JSON, b"[" * 100_000),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_malformed_as_a_whole(headers: Mapping[str, str], body: bytes) -> None:
    with pytest.raises(MalformedBody):
        events.decode_traces(headers, body, LIMITS)


def test_deep_values_are_malformed_or_kept_but_never_an_error() -> None:
    value = AnyValue(string_value="x")
    for _ in range(40):
        value = AnyValue(array_value=ArrayValue(values=[value]))
    request = traces({})
    request.resource_spans[0].scope_spans[0].spans[0].attributes.append(KeyValue(key="deep", value=value))
    assert len(events.decode_traces(PROTOBUF, request.SerializeToString(), LIMITS).events) == 1
    deep = b'{"arrayValue":{"values":[' * 450 + b"{}" + b"]}}" * 450
    body = (
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"kind":2,"attributes":[{"key":"k","value":'
        + deep
        + b"}]}]}]}]}"
    )
    with contextlib.suppress(MalformedBody):
        assert events.decode_traces(JSON, body, LIMITS).count == 1


VERDICTS = [
    Verdict(4, "refused", "second"),
    Verdict(2, "refused", "first"),
    Verdict(3, "duplicate", "there already"),
]


def test_refused_items_are_told_as_a_partial_success() -> None:
    """Repeats are not: they were taken before."""
    answer = answers.TRACES.result(5, sorted(VERDICTS, key=lambda verdict: verdict.index), as_json=False)
    assert (answer.status, answer.content_type) == (200, "application/x-protobuf")
    partial = ExportTraceServiceResponse.FromString(answer.body).partial_success
    assert (partial.rejected_spans, partial.error_message) == (
        2, "2 refused; the first, item 2 of the request: first",
    )  # fmt: skip
    told = json.loads(answers.METRICS.result(5, VERDICTS, as_json=True).body)["partialSuccess"]
    assert (told["rejectedDataPoints"], told["errorMessage"]) == ("2", partial.error_message)
    assert (
        "rejectedLogRecords"
        in json.loads(answers.LOGS.result(5, VERDICTS, as_json=True).body)["partialSuccess"]
    )


def test_full_success_is_an_empty_response() -> None:
    assert answers.TRACES.result(5, VERDICTS[2:], as_json=False).body == b""
    assert answers.TRACES.result(5, [], as_json=True).body == b"{}"


def test_a_problem_is_a_status_message_and_says_when_to_come_again() -> None:
    """google.rpc.Status, field 2: the message."""
    answer = answers.problem(503, "ä" * 200, as_json=False)
    assert answer.body == b"\x12\x90\x03" + ("ä" * 200).encode()
    assert (answer.status, answer.content_type) == (503, "application/x-protobuf")
    assert "retry-after" in answer.headers
    told = answers.problem(400, "no", as_json=True)
    assert (json.loads(told.body), told.content_type) == ({"message": "no"}, "application/json")


_LOGS = [{"scope_logs": [{"log_records": [{"time_unix_nano": END_NS}]}]}]
_GAUGE = {"name": "m", "gauge": {"data_points": [point(as_int=3)]}}
_METRICS = [{"scope_metrics": [{"metrics": [_GAUGE]}]}]
_GOOD: list[tuple[Decode, Message]] = [
    (events.decode_traces, traces({"attributes": {"http.route": "/a", "n": 7}}, {"kind": 3})),
    (events.decode_logs, ExportLogsServiceRequest(resource_logs=_LOGS)),  # type: ignore[arg-type]  # dicts
    (events.decode_metrics, ExportMetricsServiceRequest(resource_metrics=_METRICS)),  # type: ignore[arg-type]  # dicts
]


@given(st.sampled_from(_GOOD), st.booleans(), st.binary(max_size=20), st.data())
def test_no_bytes_break_a_decoder(
    case: tuple[Decode, Message], json_body: bool, noise: bytes, data: st.DataObject
) -> None:
    """Noise, and good bodies with some bytes replaced or removed: a verdict for each item, or malformed."""
    decode, message = case
    good = bytearray(as_json(message) if json_body else message.SerializeToString())
    at = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(at, min(len(good), at + 20)))
    good[at:end] = noise
    for body in (noise, bytes(good)):
        try:
            decoded = decode(JSON if json_body else PROTOBUF, body, LIMITS)
        except MalformedBody:
            continue
        assert len(decoded.events) == len(decoded.indexes) == len(decoded.times_us)
