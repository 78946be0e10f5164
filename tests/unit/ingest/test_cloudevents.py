"""CloudEvents: the mapping in all three content modes, what is refused, and that nothing breaks the decoder."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale.clock import MICROS, parse_iso_us
from smartscale.ingest import cloudevents
from smartscale.records.events_json import Decoded, EventIn, Limits, MalformedBody

NOW_US = parse_iso_us("2026-06-01T12:00:00Z")
LIMITS = Limits(NOW_US, NOW_US + 60 * MICROS, 64 << 10)
ENVELOPE = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "org.example.sold"}


def structured(**more: object) -> Decoded:
    return cloudevents.decode_structured(json.dumps({**ENVELOPE, **more}).encode(), LIMITS)


def binary(body: bytes = b"", content_type: str = "application/json", **more: str) -> Decoded:
    headers = {f"ce-{name}": value for name, value in {**ENVELOPE, **more}.items()}
    return cloudevents.decode_binary({**headers, "content-type": content_type}, body, LIMITS)


def only(decoded: Decoded) -> EventIn:
    assert not decoded.refused, decoded.refused
    (event,) = decoded.events
    return event


def attributes(decoded: Decoded) -> Any:
    return json.loads(bytes(only(decoded).attributes))


def test_source_is_the_service_and_type_the_name() -> None:
    """The id contains the source, for it is unique only there."""
    event = only(structured())
    assert (event.service, event.name, event.kind) == ("/shop", "org.example.sold", "interaction")
    assert event.id == "/shop 7"
    assert not event.attributes


def test_the_time_is_the_envelopes_else_the_datas_else_that_of_receipt() -> None:
    assert structured(time="2026-06-01T11:00:00.5Z").times_us.tolist() == [NOW_US - 3_599_500_000]
    assert structured(data={"time": "2026-06-01T11:00:00Z"}).times_us.tolist() == [NOW_US - 3_600_000_000]
    assert structured().times_us.tolist() == [NOW_US]


def test_data_of_ours_gives_its_fields() -> None:
    """Also service and name; then the envelope's are kept as attributes."""
    data = {
        "service": "cart", "name": "GET /cart", "status": 503, "latency_ms": 1.5, "user": "ada", "id": "not used",
        "attributes": {"zone": "a"},
    }  # fmt: skip
    decoded = structured(data=data, subject="s")
    event = only(decoded)
    assert (event.service, event.name, event.status, event.latency_ms, event.user) == (
        "cart", "GET /cart", 503, 1.5, "ada",
    )  # fmt: skip
    assert event.id == "/shop 7"
    assert attributes(decoded) == {
        "subject": "s",
        "source": "/shop",
        "type": "org.example.sold",
        "zone": "a",
    }


@pytest.mark.parametrize(
    "data", [{"order": 7}, {"status": "open"}, {"name": "n", "other": 1}, {"attributes": []}, [1], "text", 3]
)
def test_data_of_somebody_else_is_kept_and_the_event_counts(data: object) -> None:
    """Even if a field has the name of one of ours: what it means there nobody knows."""
    decoded = structured(data=data)
    assert only(decoded).name == "org.example.sold"
    assert only(decoded).status is None
    assert attributes(decoded) == {"data": data}


def test_data_of_ours_is_held_to_our_rules() -> None:
    """Its kinds of values are right, so it is ours; then what it says must hold."""
    (refusal,) = structured(data={"kind": "metric"}).refused
    assert refusal.code == "missing-value"


def test_extension_attributes_and_the_subject_are_kept() -> None:
    assert attributes(structured(subject="x/1", traceparent="00-ab", sampled=True, n=3)) == {
        "subject": "x/1", "traceparent": "00-ab", "sampled": True, "n": 3,
    }  # fmt: skip


def test_data_in_base64_is_read_if_it_is_json() -> None:
    encoded = base64.b64encode(b'{"status":500}').decode()
    assert only(structured(data_base64=encoded, datacontenttype="application/json")).status == 500
    assert not only(structured(data_base64=encoded, datacontenttype="text/xml")).attributes


def test_binary_mode_takes_attributes_from_headers_and_data_from_the_body() -> None:
    event = only(binary(b'{"status":404,"latency_ms":2}', time="2026-06-01T11:59:59Z"))
    assert (event.service, event.name, event.status, event.id) == (
        "/shop",
        "org.example.sold",
        404,
        "/shop 7",
    )
    assert not only(binary(b"\x00\xff", "application/octet-stream")).attributes
    assert only(binary()).id == "/shop 7"


@pytest.mark.parametrize(
    ("header", "value"),
    [("Euro%20%E2%82%AC", "Euro €"), ('"a b"', "a b"), ('"say \\"x\\""', 'say "x"'), ('"', '"')],
)
def test_header_values_are_decoded(header: str, value: str) -> None:
    """Percent-encoding and quoted strings, as the HTTP binding says."""
    assert attributes(binary(subject=header)) == {"subject": value}


def test_binary_mode_with_data_that_is_not_the_json_it_claims_is_refused() -> None:
    assert binary(b"{").refused[0].code == "invalid-data"
    assert binary(subject="%ff").refused[0].code == "malformed"


def test_a_batch_gives_a_verdict_for_each() -> None:
    batch = [{**ENVELOPE, "id": "1"}, {"id": "2"}, 7, {**ENVELOPE, "id": "4", "time": "soon"}]
    decoded = cloudevents.decode_batch(json.dumps(batch).encode(), LIMITS)
    assert list(decoded.indexes) == [0]
    assert [(found.index, found.code) for found in decoded.refused] == [
        (1, "invalid-specversion"), (2, "not-an-object"), (3, "invalid-time"),
    ]  # fmt: skip
    assert cloudevents.decode_batch(b"[]", LIMITS).count == 0


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("specversion", "0.3", "invalid-specversion"),
        ("id", "", "invalid-id"),
        ("id", 7, "invalid-id"),
        ("id", "\x00", "invalid-id"),
        ("source", "", "invalid-source"),
        ("source", "a b", "invalid-source"),
        ("source", "s" * 257, "invalid-service"),
        ("type", None, "invalid-type"),
        ("type", "t" * 257, "invalid-name"),
        ("time", "yesterday", "invalid-time"),
        ("time", 12, "invalid-time"),
        ("time", "2026-06-01T12:02:00Z", "far-future"),
        ("data", {"a": "x" * 70_000}, "too-large"),
        ("data_base64", "?", "invalid-data"),
        ("data_base64", 7, "invalid-data"),
    ],
)
def test_what_is_wrong_is_refused_with_its_reason(field: str, value: object, code: str) -> None:
    assert [found.code for found in structured(**{field: value}).refused] == [code]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000])
def test_a_body_that_is_not_json_is_malformed(body: bytes) -> None:
    for decode in (cloudevents.decode_structured, cloudevents.decode_batch):
        with pytest.raises(MalformedBody, match="JSON"):
            decode(body, LIMITS)


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_NAMES = st.sampled_from(
    [*ENVELOPE, "time", "subject", "data", "data_base64", "datacontenttype", "extension"]
)
_OURS = st.dictionaries(st.sampled_from(EventIn.__struct_fields__), _JSON, max_size=4)


@given(st.lists(st.dictionaries(_NAMES, _JSON | _OURS, max_size=4), max_size=4))
def test_every_event_of_a_batch_gets_exactly_one_verdict(changes: list[dict[str, Any]]) -> None:
    """Good envelopes with anything replaced by anything."""
    body = json.dumps([{**ENVELOPE, **change} for change in changes]).encode()
    decoded = cloudevents.decode_batch(body, LIMITS)
    assert sorted([*decoded.indexes, *(found.index for found in decoded.refused)]) == list(
        range(len(changes))
    )


@given(st.binary(max_size=100), st.dictionaries(_NAMES, st.text(max_size=12), max_size=3))
def test_no_bytes_break_the_decoders(noise: bytes, more: dict[str, str]) -> None:
    good = bytearray(json.dumps([{**ENVELOPE, "data": {"status": 200}}]).encode())
    good[: len(noise)] = noise
    for body in (noise, bytes(good)):
        for decode in (cloudevents.decode_structured, cloudevents.decode_batch):
            try:
                decode(body, LIMITS)
            except MalformedBody:
                continue
        assert binary(body, **more).count == 1
