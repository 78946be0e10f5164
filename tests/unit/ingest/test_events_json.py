"""JSON events: what is taken, what is refused and why, and what the columns hold."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale.clock import MICROS, parse_iso_us
from smartscale.records import events
from smartscale.records.events_json import (
    Decoded,
    EventIn,
    Limits,
    MalformedBody,
    Refusal,
    decode,
    to_batch,
    user_hasher,
)

NOW_US = parse_iso_us("2026-06-01T12:00:00Z")
LIMITS = Limits(NOW_US, NOW_US + 60 * MICROS, 64 << 10)


def decode_json(value: object) -> Decoded:
    return decode(json.dumps(value).encode(), LIMITS)


def refusal(event: object) -> Refusal:
    """Why one event among good ones is refused."""
    decoded = decode_json([{"service": "good"}, event, {"service": "good"}])
    assert decoded.count == 3
    assert list(decoded.indexes) == [0, 2]
    (found,) = decoded.refused
    assert found.index == 1
    return found


def row(event: dict[str, object]) -> dict[str, object]:
    """The columns of one event."""
    decoded = decode_json([event])
    assert not decoded.refused
    identities = [bytes(16) if event.id else None for event in decoded.events]
    batch = to_batch(decoded.events, decoded.times_us, identities, user_hasher(b"key"))
    assert batch.schema == events.SCHEMA
    (only,) = batch.to_pylist()
    return dict(only)


def test_an_event_needs_only_a_service() -> None:
    """Everything else has a default; the time is that of receipt."""
    assert row({"service": "shop"}) == {
        "time": NOW_US, "tenant": "default", "service": "shop", "kind": "interaction", "name": "", "status": None,
        "error": False, "latency": None, "value": None, "user": None, "identity": None, "id": None,
        "attributes": None,
    }  # fmt: skip


def test_every_field_reaches_its_column() -> None:
    """Milliseconds become whole microseconds, the user a keyed hash, attributes stay the JSON they were."""
    found = row(
        {
            "service": "shop",
            "time": "2026-06-01T14:00:00.25+02:00",
            "kind": "metric",
            "name": "queue",
            "status": 404,
            "latency_ms": 1.2345,
            "value": -2.5,
            "user": "ada@example.org",
            "id": "e-1",
            "attributes": {"a": [1, {"b": None}]},
        }
    )
    assert found["time"] == NOW_US + 250_000
    assert (found["kind"], found["name"], found["status"], found["value"]) == ("metric", "queue", 404, -2.5)
    assert found["latency"] in (1234, 1235)  # 1234.5 us; a half goes either way
    assert found["user"] == user_hasher(b"key")("ada@example.org")
    assert found["user"] != user_hasher(b"other")("ada@example.org")
    assert (found["id"], found["identity"]) == ("e-1", bytes(16))
    assert json.loads(str(found["attributes"])) == {"a": [1, {"b": None}]}


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ({"status": 499}, False),
        ({"status": 500}, True),
        ({"status": 500, "error": False}, False),
        ({"status": 200, "error": True}, True),
        ({"kind": "log", "severity": "WARN"}, False),
        ({"kind": "log", "severity": "Error"}, True),
        ({"kind": "log", "severity": "fatal", "error": False}, False),
        ({"kind": "log", "severity": "info", "status": 503}, True),
    ],
)
def test_an_error_is_what_is_said_or_status_500_or_severity_error(
    event: dict[str, object], error: bool
) -> None:
    """What the event says wins; else either of the two is enough."""
    assert row({"service": "shop", **event})["error"] is error


def test_a_severity_is_kept_among_the_attributes() -> None:
    """There is no column of its own for it."""
    found = row({"service": "shop", "kind": "log", "severity": "ERROR", "attributes": {"a": 1}})
    assert json.loads(str(found["attributes"])) == {"severity": "ERROR", "a": 1}


@pytest.mark.parametrize(
    "time",
    [
        "2026-06-01T12:00:00Z",
        "2026-06-01T12:00:00.000000000z",
        "2026-06-01t08:00:00-04:00",
        "2026-06-01 12:00:00Z",
    ],
)
def test_times_may_have_any_zone_and_nanoseconds(time: str) -> None:
    """The same instant, whichever of the two parsers reads it."""
    assert row({"service": "shop", "time": time})["time"] == NOW_US


REFUSED = [
    (1, "not-an-object", "object"),
    (None, "not-an-object", "object"),
    ({}, "missing-service", "required"),
    ({"service": ""}, "invalid-service", "1 to 256 characters"),
    ({"service": "s" * 257}, "invalid-service", "1 to 256 characters"),
    ({"service": "a\x1fb"}, "invalid-service", "control characters"),
    ({"service": "a", "name": "n" * 257}, "invalid-name", "256"),
    ({"service": "a", "name": "n\n"}, "invalid-name", "control characters"),
    ({"service": "a", "name": "*"}, "invalid-name", "stands for all names"),
    ({"service": "a", "id": "\x00"}, "invalid-id", "control characters"),
    ({"service": "a", "id": ""}, "invalid-id", "leave it out"),
    ({"service": "a", "status": 99}, "invalid-status", "100 to 599"),
    ({"service": "a", "status": 600}, "invalid-status", "100 to 599"),
    ({"service": "a", "status": "200"}, "invalid-status", "whole number"),
    ({"service": "a", "latency_ms": -0.1}, "invalid-latency_ms", "from 0"),
    ({"service": "a", "latency_ms": 2**31}, "invalid-latency_ms", "2^31"),
    ({"service": "a", "latency_ms": True}, "invalid-latency_ms", "number"),
    ({"service": "a", "kind": "trace"}, "invalid-kind", "interaction"),
    ({"service": "a", "kind": "metric"}, "missing-value", "required"),
    ({"service": "a", "kind": "log", "severity": "loud"}, "invalid-severity", "one of trace"),
    ({"service": "a", "error": "yes"}, "invalid-error", "true or false"),
    ({"service": "a", "user": 7}, "invalid-user", "text"),
    ({"service": "a", "attributes": [1]}, "invalid-attributes", "JSON object"),
    ({"service": "a", "route": "/"}, "unknown-field", "`route`; put it into `attributes`"),
    ({"service": "a", "time": "yesterday"}, "invalid-time", "RFC 3339"),
    ({"service": "a", "time": "2026-06-01T12:00:00"}, "invalid-time", "zone"),
    ({"service": "a", "time": 1780315200}, "invalid-time", "RFC 3339"),
    ({"service": "a", "time": "2026-06-01T12:01:01Z"}, "far-future", "sender's clock"),
    ({"service": "a", "time": "1969-12-31T23:59:59Z"}, "invalid-time", "before 1970"),
    ({"service": "a", "attributes": {"a": "x" * 70_000}}, "too-large", "limit of 65,536"),
]


@pytest.mark.parametrize(("event", "code", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_bad_event_is_refused_with_a_reason_and_stops_no_other(
    event: object, code: str, words: str
) -> None:
    """The reason names what is wrong and how to mend it."""
    found = refusal(event)
    assert found.code == code
    assert words in found.reason


def test_an_event_a_minute_ahead_is_still_taken() -> None:
    """The limit itself is allowed."""
    assert row({"service": "a", "time": "2026-06-01T12:01:00Z"})["time"] == LIMITS.latest_us


@pytest.mark.parametrize(
    "body",
    [
        b'{"service":"a"}\n{"service":"b"}',
        b'{"service":"a"}\r\n\r\n{"service":"b"}\r\n',
        b'[{"service":"a"},{"service":"b"}]',
        b' \n [\n{"service":"a"},\n{"service":"b"}]\n',
    ],
)
def test_arrays_and_lines_are_told_apart_by_themselves(body: bytes) -> None:
    assert [event.service for event in decode(body, LIMITS).events] == ["a", "b"]


def test_one_object_may_span_lines() -> None:
    assert decode(b'{\n  "service": "a"\n}\n', LIMITS).count == 1


def test_a_line_that_is_not_json_is_refused_alone() -> None:
    """Lines are independent; an array is not."""
    decoded = decode(b'{"service":"a"}\n{"service":\n{"service":"b"}', LIMITS)
    assert [event.service for event in decoded.events] == ["a", "b"]
    assert [(found.index, found.code) for found in decoded.refused] == [(1, "malformed")]


@pytest.mark.parametrize(
    "body", [b"", b" \n ", b"{", b'[{"service":"a"}', b"\xff", b"[" * 100_000, b"hello\nworld"]
)
def test_what_is_not_json_is_malformed_as_a_whole(body: bytes) -> None:
    """The message says where, as far as it can be told."""
    with pytest.raises(MalformedBody, match="JSON"):
        decode(body, LIMITS)


def test_bytes_that_are_not_utf8_are_refused_wherever_they_stand() -> None:
    decoded = decode(
        b'[{"service":"a","attributes":{"k":"\xff"}},{"service":"\xff"},{"service":"c"}]', LIMITS
    )
    assert [event.service for event in decoded.events] == ["c"]
    assert [found.code for found in decoded.refused] == ["malformed", "malformed"]


_TEXT = st.text(max_size=12)
_VALUE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), _TEXT
)
_FIELDS = st.sampled_from([*EventIn.__struct_fields__, "other"])
_EVENT = st.one_of(
    st.fixed_dictionaries(
        {"service": st.just("shop")}, optional={"status": st.just(200), "id": st.just("x")}
    ),
    st.dictionaries(_FIELDS, st.one_of(_VALUE, st.dictionaries(_TEXT, _VALUE)), max_size=5),
    _VALUE,
)


@given(st.lists(_EVENT, max_size=8))
def test_every_event_gets_exactly_one_verdict(given_events: list[object]) -> None:
    """Any JSON array: no exception, one verdict an element, the same as if it had come alone, and columns."""
    decoded = decode_json(given_events)
    assert decoded.count == len(given_events)
    assert sorted([*decoded.indexes, *(found.index for found in decoded.refused)]) == list(
        range(decoded.count)
    )
    for index, event in zip(decoded.indexes, decoded.events, strict=True):
        alone = decode_json([given_events[index]])
        assert msgspec.structs.asdict(alone.events[0]).keys() == msgspec.structs.asdict(event).keys()
        assert alone.events[0].service == event.service
    for found in decoded.refused:
        assert decode_json([given_events[found.index]]).refused[0].code == found.code
    batch = to_batch(decoded.events, decoded.times_us, [None] * len(decoded.events), user_hasher(b""))
    batch.validate(full=True)
    assert batch.num_rows == len(decoded.events)


@given(
    st.one_of(
        st.binary(max_size=200), st.text(alphabet='[]{}",:\\service 01a\n', max_size=60).map(str.encode)
    )
)
def test_no_body_breaks_the_decoder(body: bytes) -> None:
    """Any bytes are either malformed as a whole or give a verdict for each element."""
    for lines in (None, True):
        try:
            decoded = decode(body, LIMITS, lines)
        except MalformedBody:
            continue
        assert len(decoded.events) + len(decoded.refused) == decoded.count
        assert isinstance(decoded.times_us, np.ndarray)
