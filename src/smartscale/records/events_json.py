"""JSON events as they come in at the edge or on a third party's topic: decoding, checking, turning into columns.

Two speeds. A body whose events are all good is decoded and checked as a whole: no Python function is called per
event. Only if that finds something wrong is each element looked at alone, to say which one is wrong, why, and how
to mend it. Both give the same result for a good event.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from smartscale.clock import iso
from smartscale.records import topics
from smartscale.records.events import SCHEMA

MAX_LABEL: Final = 256
"""Characters in a service or a name; chosen because no route template or metric name comes near it."""


class EventIn(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False, kw_only=True):
    """One event as JSON. Only ``service`` is required."""

    service: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_LABEL)]
    time: str | None = None
    """RFC 3339 with a zone; when a request ended. None: the time of receipt."""
    kind: Literal["interaction", "log", "metric"] = "interaction"
    name: Annotated[str, msgspec.Meta(max_length=MAX_LABEL)] = ""
    """Route, logger or metric name."""
    status: Annotated[int, msgspec.Meta(ge=100, le=599)] | None = None
    error: bool | None = None
    """None: an error if ``status`` >= 500 or ``severity`` is error or worse."""
    severity: str | None = None
    """Of a log event: one of ``SEVERITIES``, upper or lower case."""
    latency_ms: Annotated[float, msgspec.Meta(ge=0, lt=2**31)] | None = None
    value: float | None = None
    """Of a metric event, where it is required."""
    user: str | None = None
    id: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    attributes: msgspec.Raw = msgspec.Raw(b"")
    """A JSON object of anything else; kept as it is."""


SEVERITIES: Final = {
    "trace": False, "debug": False, "info": False, "notice": False, "warn": False, "warning": False,
    "error": True, "err": True, "critical": True, "fatal": True, "alert": True, "emergency": True, "panic": True,
}  # fmt: skip
"""Severities and whether each makes a log event an error: OpenTelemetry's short names and syslog's."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an event is not taken: ``code`` counts it, ``reason`` is for the person who sent it."""

    index: int
    code: str
    reason: str
    payload: bytes = b""
    """The beginning of the event's own text, at most ``PAYLOAD`` bytes; nothing where its format has none."""


PAYLOAD: Final = 4 << 10
"""Bytes of a refused event that are kept to be shown; chosen because most events are a tenth of that."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an event may be, and how many a body may have. ``latest_us``: no event may be later than this world time."""

    now_us: int
    latest_us: int
    max_event_bytes: int
    max_events: int = 20_000


Times = npt.NDArray[np.int64]
"""Event times in microseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a body holds: the good events, each one's place in the body and event time, and the refused ones.

    ``len(events) + len(refused) == count``."""

    count: int
    events: list[EventIn]
    indexes: Sequence[int]
    times_us: Times
    refused: list[Refusal]


class MalformedBody(ValueError):
    """The body is not JSON at all; the message says where."""


_decode_array = msgspec.json.Decoder(list[EventIn]).decode
_decode_lines = msgspec.json.Decoder(EventIn).decode_lines
_decode_one = msgspec.json.Decoder(EventIn).decode
_split_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_split_lines = msgspec.json.Decoder(msgspec.Raw).decode_lines
_syntax = msgspec.json.Decoder(msgspec.Raw).decode
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What a decoder raises for bytes that are not JSON, not UTF-8, or nested thousands deep."""


def decode(body: bytes, limits: Limits, lines: bool | None = None) -> Decoded:
    """Every event of a JSON array, of one JSON object, or of NDJSON (``lines``; None: found out from the body).

    An element that is no good event becomes a ``Refusal``, in the order of the body (of its lines that are not
    blank). In NDJSON a line that is not JSON is one too. Raises ``MalformedBody`` if an array or object is not JSON."""
    first = body[:256].lstrip()[:1] or body.lstrip()[:1]
    if not first:
        raise MalformedBody(
            "the body is empty; send a JSON object, an array of objects, or one object a line"
        )
    as_array = first == b"[" and not lines
    try:
        events = _decode_array(body) if as_array else _decode_lines(body)
        return Decoded(len(events), events, range(len(events)), _checked(events, limits), [])
    except (*_UNREADABLE, _Suspect):
        return _each(_elements(body, as_array, lines), limits)


class _Suspect(Exception):
    """Something in the whole may be wrong: look at each."""


def _checked(events: list[EventIn], limits: Limits) -> Times:
    """Event times of events that are all good; raises ``_Suspect`` if one may not be."""
    names = [event.name for event in events]
    ids = [event.id for event in events if event.id is not None]
    users = [event.user for event in events if event.user is not None]
    attributes = [str(event.attributes, "utf-8") for event in events if event.attributes]
    labels = "".join([*[event.service for event in events], *names, *ids])
    # 4 bytes a character at most, and room for the rest: what may be too large is measured in ``_each``.
    room = limits.max_event_bytes // 4 - 3 * MAX_LABEL
    good = (
        _plain(labels)
        and topics.ALL_NAMES not in names
        and (
            len(labels) + _longest(users) + _longest(attributes) <= room
            or _longest(ids, users, attributes) <= room
        )
        and all(text[0] in "{n" for text in attributes)
        and {event.severity.lower() for event in events if event.severity is not None} <= SEVERITIES.keys()
        and None not in [event.value for event in events if event.kind == topics.METRIC]
    )
    if not good:
        raise _Suspect
    times_us = _times_us(events, limits.now_us)
    if len(times_us) and (times_us.max() > limits.latest_us or times_us.min() < 0):
        raise _Suspect
    return times_us


def _longest(*texts: list[str]) -> int:
    """Characters of the longest of each, added up."""
    return sum(max(map(len, each), default=0) for each in texts)


def _plain(text: str) -> bool:
    """Whether the text is free of ASCII control characters (``_CONTROL`` does the same, faster for short texts)."""
    octets = text.encode()
    return not octets or (np.frombuffer(octets, dtype=np.uint8).min() >= 0x20 and b"\x7f" not in octets)


_CONTROL: Final = re.compile("[\x00-\x1f\x7f]")


def _times_us(events: list[EventIn], now_us: int) -> Times:
    """Event times: Arrow's parser for all at once; one by one where it balks (nanoseconds, lower-case letters)."""
    texts = [event.time for event in events]
    try:
        parsed = _parse_times(texts)
    except pa.ArrowInvalid:
        return np.array([now_us if text is None else _time_us(text) for text in texts], dtype=np.int64)
    times_us: Times = (parsed.fill_null(now_us) if parsed.null_count else parsed).to_numpy()
    return times_us


def _parse_times(texts: list[str | None]) -> pa.Int64Array:
    return pa.array(texts, pa.string()).cast(pa.timestamp("us", "UTC")).view(pa.int64())


_Instant = Annotated[datetime, msgspec.Meta(tz=True)]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def _time_us(text: str) -> int:
    """One event time, by either parser. Raises ``_Suspect`` if the text is no instant with a zone."""
    try:
        moment: datetime = msgspec.convert(text, _Instant)
        return (moment - _EPOCH) // _MICROSECOND
    except (msgspec.ValidationError, OverflowError):
        try:
            return int(_parse_times([text])[0].as_py())
        except pa.ArrowInvalid:
            raise _Suspect from None


def instant_us(text: str) -> int | None:
    """An event time in microseconds, None if the text is no instant with a zone.

    >>> instant_us("1970-01-01T01:00:00.5+01:00")
    500000
    """
    try:
        return _time_us(text)
    except _Suspect:
        return None


def _elements(body: bytes, as_array: bool, lines: bool | None) -> Sequence[bytes | msgspec.Raw]:
    """The body's elements, each still JSON text. Raises ``MalformedBody``."""
    try:
        return _split_array(body) if as_array else _split_lines(body)
    except _UNREADABLE as error:
        found = [line for line in body.split(b"\n") if line.strip()]
        if not as_array and (lines or any(_is_json(line) for line in found)):
            return found
        raise MalformedBody(f"the body is not valid JSON: {error}") from None


def _is_json(text: bytes) -> bool:
    try:
        _syntax(text)
    except _UNREADABLE:
        return False
    return True


def _each(elements: Sequence[bytes | msgspec.Raw], limits: Limits) -> Decoded:
    """Every element looked at alone."""
    events, indexes, times_us, refused = [], [], [], []
    for index, element in enumerate(elements):
        try:
            event = _one(element, limits)
            times_us.append(_checked_time(event, limits))
            events.append(event)
            indexes.append(index)
        except _Refused as refusal:
            refused.append(Refusal(index, refusal.code, refusal.reason, bytes(element)[:PAYLOAD]))
    return Decoded(len(elements), events, indexes, np.array(times_us, dtype=np.int64), refused)


class _Refused(Exception):
    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def _one(element: bytes | msgspec.Raw, limits: Limits) -> EventIn:
    """The event, good but for its time. Raises ``_Refused``."""
    if len(element) > limits.max_event_bytes:
        raise _Refused(
            "too-large",
            f"the event has {len(element):,} bytes, "
            f"more than the limit of {limits.max_event_bytes:,}; shorten its attributes",
        )
    try:
        event = _decode_one(element)
        attributes = str(event.attributes, "utf-8")
    except msgspec.ValidationError as error:
        raise _explained(error) from None
    except _UNREADABLE as error:
        raise _Refused("malformed", f"not valid JSON: {error}") from None
    for field, text in (("service", event.service), ("name", event.name), ("id", event.id or "")):
        if _CONTROL.search(text):
            raise _Refused(
                f"invalid-{field}", f"`{field}` must not contain control characters: {text[:MAX_LABEL]!r}"
            )
    if event.name == topics.ALL_NAMES:
        raise _Refused("invalid-name", "`name` must not be '*', which stands for all names; rename it")
    if event.severity is not None and event.severity.lower() not in SEVERITIES:
        raise _Refused(
            "invalid-severity", f"`severity` must be {_WANTED['severity']}, not {event.severity[:40]!r}"
        )
    if attributes and attributes[0] not in "{n":  # an object or null
        raise _Refused("invalid-attributes", f"`attributes` must be {_WANTED['attributes']}")
    if event.kind == topics.METRIC and event.value is None:
        raise _Refused("missing-value", '`value` is required where `kind` is "metric"')
    return event


def _checked_time(event: EventIn, limits: Limits) -> int:
    try:
        time_us = limits.now_us if event.time is None else _time_us(event.time)
    except _Suspect:
        raise _Refused("invalid-time", f"`time` must be {_WANTED['time']}, not {event.time!r:.60}") from None
    if time_us > limits.latest_us:
        raise _Refused(
            "far-future",
            f"`time` {event.time} is too far in the future: it is {iso(limits.now_us)} here; check the sender's clock",
        )
    if time_us < 0:
        raise _Refused("invalid-time", f"`time` {event.time} is before 1970")
    return time_us


_WANTED: Final = {
    "service": f"text of 1 to {MAX_LABEL} characters",
    "time": 'an RFC 3339 time with a zone, such as "2026-01-31T12:00:00.5Z"',
    "kind": '"interaction", "log" or "metric"',
    "name": f"text of at most {MAX_LABEL} characters",
    "status": "a whole number from 100 to 599",
    "error": "true or false",
    "severity": f"one of {', '.join(SEVERITIES)} (upper or lower case)",
    "latency_ms": "a number of milliseconds from 0 to below 2^31",
    "value": "a finite number",
    "user": "text",
    "id": "text that is not empty; leave it out if there is none",
    "attributes": "a JSON object",
}
"""What each field must be, in words."""


def _explained(error: msgspec.ValidationError) -> _Refused:
    """The refusal for what msgspec found wrong in one event."""
    message, _, path = str(error).partition(" - at `$.")
    field = path.rstrip("`")
    if field in _WANTED:
        return _Refused(f"invalid-{field}", f"`{field}` must be {_WANTED[field]} ({message})")
    unknown, missing = _UNKNOWN.fullmatch(message), _MISSING.fullmatch(message)
    if unknown:
        return _Refused("unknown-field", f"unknown field {unknown[1]:.80}; put it into `attributes`")
    if missing:
        return _Refused("missing-service", f"{missing[1]} is required")
    return _Refused("not-an-object", f"an event must be a JSON object ({message})")


_UNKNOWN: Final = re.compile(r"Object contains unknown field (.*)", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field (.*)")


def to_batch(
    events: Sequence[EventIn],
    times_us: Times,
    identities: Sequence[bytes | None] | pa.FixedSizeBinaryArray,
    hash_user: Callable[[str], int],
    tenant: str = "default",
) -> pa.RecordBatch:
    """Good events (as ``decode`` gives them) as columns of ``records.events.SCHEMA``, in the same order.

    ``identities[i]`` is the 16-byte identity of an event with an id, else null."""
    latency_ms = pa.array([event.latency_ms for event in events], pa.float64())
    status = pa.array([event.status for event in events], pa.int16())
    columns = {
        "time": pa.array(times_us, pa.int64()),
        "tenant": _constant(tenant, len(events)),
        "service": _labels([event.service for event in events]),
        "kind": _labels([event.kind for event in events]),
        "name": _labels([event.name for event in events]),
        "status": status,
        "error": _errors(events, status),
        "latency": pc.round(pc.multiply(latency_ms, 1000.0)).cast(pa.int64()),
        "value": pa.array([event.value for event in events], pa.float64()),
        "user": pa.array(
            [None if event.user is None else hash_user(event.user) for event in events], pa.uint64()
        ),
        "identity": pa.array(identities, pa.binary(16)),
        "id": pa.array([event.id for event in events], pa.string()),
        "attributes": pa.array(
            [_attributes(event) if event.attributes or event.severity else None for event in events],
            pa.string(),
        ),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _labels(values: list[str]) -> pa.DictionaryArray:
    if len(set(values)) == 1:
        return _constant(values[0], len(values))
    return pa.array(values, pa.string()).dictionary_encode()


def _constant(value: str, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(count, dtype=np.int32)), pa.array([value]), safe=False
    )


def _errors(events: Sequence[EventIn], status: pa.Int16Array) -> pa.BooleanArray:
    """As given, else by severity or status; most events have only a status."""
    by_status = pc.fill_null(pc.greater_equal(status, 500), False)
    if {event.error for event in events} | {event.severity for event in events} <= {None}:
        return by_status
    told = [
        (place, event.error if event.error is not None else SEVERITIES[(event.severity or "").lower()])
        for place, event in enumerate(events)
        if event.error is not None or event.severity is not None
    ]
    errors = by_status.to_pylist()
    for place, error in told:
        errors[place] = error if events[place].error is not None else error or errors[place]
    return pa.array(errors, pa.bool_())


def _attributes(event: EventIn) -> str | None:
    """The attributes as JSON text, a log event's severity put first (where both have one, the attributes' comes last, which
    is the one that counts)."""
    given = str(event.attributes, "utf-8")
    text = given if given.startswith("{") else None
    if event.severity is None:
        return text
    rest = text[1:].lstrip(" \t\r\n") if text else "}"
    return f'{{"severity":"{event.severity}"' + ("}" if rest == "}" else f",{(text or '')[1:]}")


def user_hasher(key: bytes) -> Callable[[str], int]:
    """A function that gives a user's 64-bit pseudonym: BLAKE2b keyed with ``key`` (at most 64 bytes).

    Without the key a pseudonym cannot be found by trying names. Remembers the last hundred thousand users, because
    the same ones come again and again."""

    @lru_cache(maxsize=100_000)
    def hash_user(user: str) -> int:
        return int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8, key=key).digest(), "little")

    return hash_user
