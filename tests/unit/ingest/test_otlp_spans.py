"""The compiled pass over spans gives what the careful path gives, or leaves the body to it."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue

from smartscale.clock import MICROS, parse_iso_us
from smartscale.ingest.columns import RECEIVED, Columns
from smartscale.ingest.otlp import events, spans
from smartscale.records.events_json import Limits, MalformedBody, to_batch

NOW_US = parse_iso_us("2026-06-01T12:00:00Z")
LIMITS = Limits(NOW_US, NOW_US + 60 * MICROS, 64 << 10)
END_NS = (NOW_US - 1_000_000) * 1000


def attribute(key: str, value: object) -> KeyValue:
    match value:
        case bool():
            return KeyValue(key=key, value=AnyValue(bool_value=value))
        case int():
            return KeyValue(key=key, value=AnyValue(int_value=value))
        case str():
            return KeyValue(key=key, value=AnyValue(string_value=value))
        case float():
            return KeyValue(key=key, value=AnyValue(double_value=value))
        case list():
            return KeyValue(key=key, value=AnyValue(array_value=ArrayValue()))
    return KeyValue(key=key)


def body(groups: list[tuple[dict[str, object], list[dict[str, Any]]]]) -> bytes:
    """Resources, each with its spans."""
    made: list[Any] = [
        {
            "resource": {"attributes": [attribute(*pair) for pair in resource.items()]},
            "scope_spans": [
                {
                    "scope": {"name": "any"},
                    "spans": [
                        {**span, "attributes": [attribute(*pair) for pair in span.get("attributes", [])]}
                        for span in group
                    ],
                }
            ],
        }
        for resource, group in groups
    ]
    return ExportTraceServiceRequest(resource_spans=made).SerializeToString()


def span(number: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "trace_id": bytes(range(16)), "span_id": (number + 1).to_bytes(8, "big"), "name": "GET /a", "kind": 2,
        "start_time_unix_nano": END_NS - 1_500_000, "end_time_unix_nano": END_NS, **more,
    }  # fmt: skip


def rows(found: Columns) -> list[dict[str, Any]]:
    assert found.batch.schema == RECEIVED
    found.batch.validate(full=True)
    return [
        {**row, "attributes": row["attributes"] and json.loads(row["attributes"])}
        for row in found.batch.to_pylist()
    ]


def careful(given_body: bytes) -> tuple[list[dict[str, Any]], list[int], int]:
    """Rows, places and the number of refusals of the careful path."""
    decoded = events.decode_traces({}, given_body, LIMITS)
    batch = to_batch(decoded.events, decoded.times_us, [None] * len(decoded.events), lambda user: 0)
    found = []
    for row, event in zip(batch.to_pylist(), decoded.events, strict=True):
        kept = {name: row[name] for name in RECEIVED.names}
        found.append(
            {**kept, "user": event.user, "attributes": row["attributes"] and json.loads(row["attributes"])}
        )
    return found, list(decoded.indexes), len(decoded.refused)


def test_a_plain_body_is_taken_by_the_pass() -> None:
    """Several resources; kinds that are no interactions leave gaps between the places."""
    more: list[tuple[str, object]] = [
        ("http.route", "/a/{id}"), ("http.response.status_code", 503), ("http.status_code", 200), ("n", -(1 << 63)),
        ("t", True), ("f", False), ("e", ""), ("q", 'a"b\\c'), ("none", None), ("", "empty key"), ("ü", "é"),
        ("user.id", "7"),
    ]  # fmt: skip
    given_body = body(
        [
            (
                {"service.name": "shop", "service.version": "2"},
                [span(0, attributes=more), span(1, kind=3), span(2)],
            ),
            ({}, [span(3, status={"code": 2}), span(4, kind=5, status={"code": 1}, end_time_unix_nano=0)]),
        ]
    )
    found = spans._columns(given_body, LIMITS)
    assert found is not None
    assert (rows(found), list(found.indexes), 0) == careful(given_body)
    assert rows(found)[0]["attributes"]["n"] == -(1 << 63)
    assert [row["service"] for row in rows(found)] == ["shop", "shop", "unknown_service", "unknown_service"]


@pytest.mark.parametrize(
    "odd",
    [
        {"trace_id": b""}, {"span_id": bytes(8)}, {"name": "*"}, {"name": "a\n"}, {"name": "n" * 257},
        {"start_time_unix_nano": END_NS + 1}, {"end_time_unix_nano": 1 << 63},
        {"end_time_unix_nano": (NOW_US + 61 * MICROS) * 1000}, {"attributes": [("d", 1.5)]}, {"attributes": [("l", [])]},
        {"attributes": [("a", 1), ("a", 2)]}, {"attributes": [("service.version", "3")]}, {"attributes": [("c", "\x01")]},
        {"attributes": [("user.id", 7)]}, {"attributes": [(str(n), n) for n in range(200)]},
        {"attributes": [("big", "x" * 70_000)]},
    ],
)  # fmt: skip
def test_what_is_not_plain_is_left_to_the_careful_path(odd: dict[str, Any]) -> None:
    given_body = body([({"service.name": "shop"}, [span(0), span(1, **odd)])])
    assert spans._columns(given_body, LIMITS) is None
    spans.prepare()
    assert spans.decode_traces({}, given_body, LIMITS).count == 2


_VALUE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.sampled_from([200, 503, 99]),
    st.text(max_size=6),
)
_KEY = st.sampled_from(
    [
        "http.route",
        "http.status_code",
        "http.response.status_code",
        "user.id",
        "enduser.id",
        "a",
        "b",
        "service.version",
    ]
)
_SPAN = st.fixed_dictionaries(
    {
        "trace_id": st.just(b"t" * 16), "span_id": st.just(b"s" * 8),
        "kind": st.sampled_from([2, 2, 2, 5, 3]), "name": st.just("GET /a") | st.text(max_size=6),
        "start_time_unix_nano": st.sampled_from([0, END_NS - 1500, END_NS - 2500, END_NS]),
        "end_time_unix_nano": st.sampled_from([0, END_NS, END_NS + 500]),
        "attributes": st.dictionaries(_KEY, _VALUE, max_size=4).map(lambda found: list(found.items())),
        "status": st.sampled_from([{}, {"code": 1}, {"code": 2, "message": "m"}]),
    }
)  # fmt: skip
_RESOURCE = st.dictionaries(st.sampled_from(["service.name", "service.version", "x"]), _VALUE, max_size=2)


@given(st.lists(st.tuples(_RESOURCE, st.lists(_SPAN, max_size=4)), max_size=3))
@settings(deadline=None)
def test_whatever_the_pass_takes_is_what_the_careful_path_takes(
    groups: list[tuple[dict[str, object], list[dict[str, Any]]]],
) -> None:
    given_body = body(groups)
    found = spans._columns(given_body, LIMITS)
    if found is not None:
        assert (rows(found), list(found.indexes), 0) == careful(given_body)


_GOOD = body(
    [
        (
            {"service.name": "shop"},
            [span(n, attributes=[("http.route", "/é"), ("n", n)], status={"code": 2}) for n in range(3)],
        )
    ]
)


@given(st.binary(max_size=12), st.data())
@settings(deadline=None, max_examples=400)
def test_no_bytes_lead_the_pass_astray(noise: bytes, data: st.DataObject) -> None:
    """Good bodies with some bytes replaced or removed: what is taken is what the careful path takes, if it can read it."""
    broken = bytearray(_GOOD)
    at = data.draw(st.integers(0, len(broken)))
    end = data.draw(st.integers(at, min(len(broken), at + 12)))
    broken[at:end] = noise
    for given_body in (noise, bytes(broken)):
        found = spans._columns(given_body, LIMITS)
        if found is not None:
            with contextlib.suppress(MalformedBody):  # in what the pass skips
                assert (rows(found), list(found.indexes), 0) == careful(given_body)
