"""Spans in protobuf become columns in one compiled pass over the wire format, without a Python object a span.

Invariant: a body is taken only if ``events.decode_traces`` finds every interaction of it good, and then the columns are the
same. Whatever is not plainly so (an attribute that is no text, integer or boolean, one given twice, a label out of bounds, a
malformed message) leaves the body to ``events``, which knows the reasons. What is read by neither, such as the events
of a span, is skipped here by its length and not looked into.

The wire format is that of https://protobuf.dev/programming-guides/encoding/; field numbers are those of
opentelemetry/proto/trace/v1/trace.proto, common/v1/common.proto.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.message import DecodeError
from numba import njit
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from smartscale.ingest.columns import RECEIVED, Columns
from smartscale.ingest.otlp import events
from smartscale.records import topics
from smartscale.records.events_json import MAX_LABEL, Decoded, Limits
from smartscale.records.texts import Integers, Octets, string_array, strings

_U = np.uint64
_I = cast("Callable[[object], int]", np.int64)
_MOST_ATTRIBUTES: Final = 128
"""Attributes of a span, as SDKs limit them by default; one with more is left to ``events``."""
_MARGIN: Final = 2048
"""Bytes that an event's JSON has beside its texts, at most: a span so close to the limit is left to ``events``."""

# Columns of the table of interactions. Places and sizes are of bytes in the body; a size of -1 stands for none.
(_GROUP, _ITEM, _TRACE, _SPAN, _START, _END, _NAME, _NAME_SIZE, _STATUS, _CODE, _USER, _USER_SIZE, _TEXT_END,
 _WIDTH) = range(14)  # fmt: skip


def _octets(text: str) -> Octets:
    return np.frombuffer(text.encode(), dtype=np.uint8)


_ROUTE: Final = _octets(events.ROUTE)
_NEW_STATUS, _OLD_STATUS = (_octets(name) for name in events.STATUS)
_FIRST_USER, _SECOND_USER = (_octets(name) for name in events.USER)
_OF_RESOURCE: Final = (_octets("service."), _octets("deployment."))
"""Beginnings of attributes that may also be the resource's; a span with one of its own is left to ``events``."""


def decode_traces(headers: Mapping[str, str], body: bytes, limits: Limits) -> Decoded | Columns:
    """The interactions among the spans of a body in protobuf. Raises ``MalformedBody``.

    The first call of a process has the pass compiled, or loaded from its cache, by a thread of its own; until that is
    done, bodies go the careful path, so that nobody waits for it."""
    if not _prepared.is_set():
        if _preparing.acquire(blocking=False):
            threading.Thread(target=prepare, name="compile", daemon=True).start()
        return events.decode_traces(headers, body, limits)
    return _columns(body, limits) or events.decode_traces(headers, body, limits)


_prepared: Final = threading.Event()
_preparing: Final = threading.Lock()


def prepare() -> None:
    """Make the pass ready now."""
    span: Any = {
        "trace_id": b"t" * 16,
        "span_id": b"s" * 8,
        "kind": 2,
        "name": "any",
        "end_time_unix_nano": 1,
    }
    group: Any = {"scope_spans": [{"spans": [span]}]}
    _columns(ExportTraceServiceRequest(resource_spans=[group]).SerializeToString(), Limits(1, 1, 1 << 20))
    _prepared.set()


def _columns(body: bytes, limits: Limits) -> Columns | None:
    """The interactions as columns; None if ``events`` must look at the body."""
    data = np.frombuffer(body, dtype=np.uint8)
    groups, spans = _survey(data)
    if not len(spans) or spans[0, 0] < 0 or len(spans) > limits.max_events:
        return None
    resources = [_resource(body[start:end]) for start, end in groups.tolist()]
    if any(each is None for each in resources):
        return None
    services, prefixes = zip(*(each for each in resources if each is not None), strict=True)
    ends = np.cumsum([len(prefix) for prefix in prefixes])
    rows, text = _interactions(data, spans, np.frombuffer(b"".join(prefixes), dtype=np.uint8), ends)
    if not len(rows) or rows[0, 0] < 0:
        return None
    return _checked(data, rows, text, services, limits)


def _resource(message: bytes) -> tuple[str, bytes] | None:
    """The service, and the beginning of each event's attributes as JSON; None if it is not plainly good."""
    try:
        service, kept = events.service_and_kept(Resource.FromString(message))
    except (DecodeError, RecursionError):
        return None
    if not 0 < len(service) <= MAX_LABEL or not service.isprintable():
        return None
    return service, msgspec.json.encode(kept)[:-1]


def _checked(
    data: Octets, rows: Integers, text: Octets, services: tuple[str, ...], limits: Limits
) -> Columns | None:
    """The columns of the interactions; None if one of them may not be good."""
    start_ns, end_ns = rows[:, _START], rows[:, _END]
    times_us = np.where(end_ns == 0, limits.now_us, end_ns // 1000)
    timed = (start_ns != 0) & (end_ns != 0)
    latency_us = (end_ns - start_ns + 500) // 1000
    text_ends = rows[:, _TEXT_END]
    sizes = np.diff(text_ends, prepend=0) + rows[:, _NAME_SIZE] + np.maximum(rows[:, _USER_SIZE], 0)
    if (
        (start_ns < 0).any()
        or (end_ns < 0).any()
        or (timed & (end_ns < start_ns)).any()
        or (times_us > limits.latest_us).any()
        or (timed & (latency_us >= 2**31 * 1000)).any()
        or sizes.max() > limits.max_event_bytes - _MARGIN
    ):
        return None
    names = strings(data, rows[:, _NAME], rows[:, _NAME_SIZE]).dictionary_encode()
    users = strings(data, rows[:, _USER], rows[:, _USER_SIZE])
    attributes = _attributes(text, text_ends)
    try:
        for array in (names.dictionary, users, attributes):
            array.validate(full=True)
    except pa.ArrowInvalid:  # not UTF-8
        return None
    known = names.dictionary
    good = pc.and_(
        pc.less_equal(pc.utf8_length(known), MAX_LABEL),
        pc.invert(
            pc.or_(pc.equal(known, topics.ALL_NAMES), pc.match_substring_regex(known, r"[\x00-\x1f\x7f]"))
        ),
    )
    if not pc.all(good, min_count=0).as_py():
        return None
    count = len(rows)
    status = rows[:, _STATUS]
    code = rows[:, _CODE]
    columns = {
        "time": pa.array(times_us),
        "service": pa.DictionaryArray.from_arrays(
            pa.array(rows[:, _GROUP].astype(np.int32)), pa.array(services)
        ),
        "kind": pa.DictionaryArray.from_arrays(
            pa.array(np.zeros(count, np.int32)), pa.array([topics.INTERACTION])
        ),
        "name": names,
        "status": pa.array(status.astype(np.int16), mask=status < 0),
        "error": pa.array((code == 2) | ((code != 1) & (status >= 500))),
        "latency": pa.array(latency_us, mask=~timed),
        "value": pa.nulls(count, pa.float64()),
        "user": users,
        "id": _ids(data, rows),
        "attributes": attributes,
    }
    batch = pa.RecordBatch.from_arrays([columns[name] for name in RECEIVED.names], schema=RECEIVED)
    return Columns(count, batch, rows[:, _ITEM].tolist(), [])


def _attributes(text: Octets, ends: Integers) -> pa.StringArray:
    """Each event's attributes; null where there are none."""
    offsets = np.concatenate([np.zeros(1, np.int32), ends.astype(np.int32)])
    return string_array(offsets, text, np.diff(offsets) != 0)


def _ids(data: Octets, rows: Integers) -> pa.StringArray:
    size = 48
    return string_array(
        np.arange(len(rows) + 1, dtype=np.int32) * size, _hex(data, rows), np.ones(len(rows), np.bool_)
    )


@njit(cache=True, nogil=True)
def _varint(data: Octets, at: int, end: int) -> tuple[np.uint64, int]:
    """A number, and where it ends; -1 if it does not."""
    value, shift = _U(0), _U(0)
    while at < end and shift < _U(70):
        octet = _U(data[at])
        at += 1
        value |= (octet & _U(127)) << shift
        if octet < _U(128):
            return value, at
        shift += _U(7)
    return _U(0), -1


@njit(cache=True, nogil=True)
def _field(data: Octets, at: int, end: int) -> tuple[int, int, int, int]:
    """Number, wire type, start and end of the content of the field at ``at``; a number of -1 if it is malformed.

    The start of a number (wire type 0) is that of its bytes."""
    tag, start = _varint(data, at, end)
    number, wire = _I(tag >> _U(3)), _I(tag & _U(7))
    if start < 0 or number <= 0:
        return -1, 0, 0, 0
    if wire == 0:
        _, stop = _varint(data, start, end)
    elif wire == 1:
        stop = start + 8
    elif wire == 5:
        stop = start + 4
    elif wire == 2:
        size, start = _varint(data, start, end)
        if start < 0 or size > _U(end):
            return -1, 0, 0, 0
        stop = start + _I(size)
    else:
        return -1, 0, 0, 0
    if stop < 0 or stop > end:
        return -1, 0, 0, 0
    return number, wire, start, stop


@njit(cache=True, nogil=True)
def _survey(data: Octets) -> tuple[Integers, Integers]:
    """Start and end of each resource, and group, start and end of each span; one span of -1 if something is odd."""
    odd = np.full((1, 3), -1, np.int64)
    groups, spans = np.empty((4, 2), np.int64), np.empty((64, 3), np.int64)
    group_count = span_count = 0
    at, end = 0, len(data)
    while at < end:
        number, wire, group_at, group_end = _field(data, at, end)
        if number < 0 or (number == 1 and wire != 2):
            return groups[:0], odd
        at = group_end
        if number != 1:
            continue
        if group_count == len(groups):
            groups = np.concatenate((groups, np.empty_like(groups)))
        groups[group_count] = 0
        resources = 0
        while group_at < group_end:
            number, wire, scope_at, scope_end = _field(data, group_at, group_end)
            if number < 0 or (number <= 2 and wire != 2):
                return groups[:0], odd
            group_at = scope_end
            if number == 1:
                groups[group_count, 0], groups[group_count, 1] = scope_at, scope_end
                resources += 1
            if number != 2:
                continue
            while scope_at < scope_end:
                number, wire, start, stop = _field(data, scope_at, scope_end)
                if number < 0 or (number == 2 and wire != 2):
                    return groups[:0], odd
                scope_at = stop
                if number == 2:
                    if span_count == len(spans):
                        spans = np.concatenate((spans, np.empty_like(spans)))
                    spans[span_count, 0], spans[span_count, 1], spans[span_count, 2] = (
                        group_count,
                        start,
                        stop,
                    )
                    span_count += 1
        if resources > 1:
            return groups[:0], odd
        group_count += 1
    return groups[:group_count], spans[:span_count]


@njit(cache=True, nogil=True)
def _same(data: Octets, at: int, size: int, text: Octets) -> bool:
    if size != len(text):
        return False
    for i in range(size):  # noqa: SIM110 -- the compiler knows no generators
        if data[at + i] != text[i]:
            return False
    return True


@njit(cache=True, nogil=True)
def _starts(data: Octets, at: int, size: int, text: Octets) -> bool:
    return size >= len(text) and _same(data, at, len(text), text)


@njit(cache=True, nogil=True)
def _fixed64(data: Octets, at: int) -> int:
    value = _U(0)
    for i in range(8):
        value |= _U(data[at + i]) << _U(8 * i)
    return _I(value)


@njit(cache=True, nogil=True)
def _is_zero(data: Octets, at: int, size: int) -> bool:
    for i in range(at, at + size):  # noqa: SIM110 -- the compiler knows no generators
        if data[i] != 0:
            return False
    return True


# Kinds of an attribute's value.
_NONE, _STRING, _BOOLEAN, _INTEGER, _OTHER = range(5)
# Columns of a span's table of attributes; the value's start is the number itself for a boolean or an integer.
_KEY, _KEY_SIZE, _KIND, _VALUE, _VALUE_SIZE = range(5)


@njit(cache=True, nogil=True)
def _attribute(data: Octets, at: int, end: int, into: Integers) -> bool:
    """A ``KeyValue``; False if something is odd."""
    into[_KEY], into[_KEY_SIZE], into[_KIND], into[_VALUE], into[_VALUE_SIZE] = at, 0, _NONE, 0, 0
    values = 0
    while at < end:
        number, wire, start, stop = _field(data, at, end)
        if number < 0 or (number <= 2 and wire != 2):
            return False
        at = stop
        if number == 1:
            into[_KEY], into[_KEY_SIZE] = start, stop - start
        elif number == 2:
            while start < stop:
                which, wire, value_at, value_end = _field(data, start, stop)
                start = value_end
                values += 1
                if which == 1 and wire == 2:
                    into[_KIND], into[_VALUE], into[_VALUE_SIZE] = _STRING, value_at, value_end - value_at
                elif (which == 2 or which == 3) and wire == 0:
                    value, _ = _varint(data, value_at, value_end)
                    into[_KIND], into[_VALUE] = which, _I(value)
                else:
                    return False
    return values <= 1


@njit(cache=True, nogil=True)
def _quoted(data: Octets, at: int, size: int, out: Octets, to: int) -> int:
    """Write a text as JSON; where it ends, -1 if it holds control characters."""
    out[to] = 34
    to += 1
    for i in range(at, at + size):
        octet = data[i]
        if octet < 32:
            return -1
        if octet == 34 or octet == 92:
            out[to] = 92
            to += 1
        out[to] = octet
        to += 1
    out[to] = 34
    return to + 1


@njit(cache=True, nogil=True)
def _written(text: Octets, out: Octets, to: int) -> int:
    for i in range(len(text)):
        out[to + i] = text[i]
    return to + len(text)


@njit(cache=True, nogil=True)
def _decimal(number: int, out: Octets, to: int) -> int:
    """Write an integer; where it ends."""
    left = _U(number)
    if number < 0:
        out[to] = 45
        to += 1
        left = ~left + _U(1)
    first = to
    while True:
        out[to] = 48 + left % _U(10)
        to += 1
        left //= _U(10)
        if left == _U(0):
            break
    low, high = first, to - 1
    while low < high:
        out[low], out[high] = out[high], out[low]
        low += 1
        high -= 1
    return to


_TRUE, _FALSE, _NULL = _octets("true"), _octets("false"), _octets("null")


@njit(cache=True, nogil=True)
def _interactions(
    data: Octets, spans: Integers, prefix: Octets, prefix_ends: Integers
) -> tuple[Integers, Octets]:
    """The table of interactions, and their attributes as JSON one after the other; one row of -1 if something is odd."""
    odd, nothing = np.full((1, _WIDTH), -1, np.int64), np.empty(0, np.uint8)
    rows = np.empty((len(spans), _WIDTH), np.int64)
    room = 0
    for i in range(len(spans)):
        group = spans[i, 0]
        first = prefix_ends[group - 1] if group else 0
        # Text is at most doubled by escapes; the rest, such as `"":null,`, is within six times what is read.
        room += prefix_ends[group] - first + 6 * (spans[i, 2] - spans[i, 1]) + 2
    out = np.empty(room, np.uint8)
    table = np.empty((_MOST_ATTRIBUTES, 5), np.int64)
    to = count = 0
    for item in range(len(spans)):
        group, at, end = spans[item]
        row = rows[count]
        row[:] = 0
        row[_GROUP], row[_ITEM], row[_STATUS], row[_USER_SIZE], row[_TRACE], row[_SPAN] = (
            group,
            item,
            -1,
            -1,
            -1,
            -1,
        )
        kind = attributes = statuses = 0
        while at < end:
            number, wire, start, stop = _field(data, at, end)
            if number < 0:
                return odd, nothing
            at = stop
            size = stop - start
            if number == 1:
                row[_TRACE] = start if wire == 2 and size == 16 and not _is_zero(data, start, 16) else -1
            elif number == 2:
                row[_SPAN] = start if wire == 2 and size == 8 and not _is_zero(data, start, 8) else -1
            elif number == 5:
                if wire != 2:
                    return odd, nothing
                row[_NAME], row[_NAME_SIZE] = start, size
            elif number == 6:
                if wire != 0:
                    return odd, nothing
                kind = _I(_varint(data, start, stop)[0])
            elif number == 7 or number == 8:
                if wire != 1:
                    return odd, nothing
                row[_START if number == 7 else _END] = _fixed64(data, start)
            elif number == 9:
                if attributes == _MOST_ATTRIBUTES or wire != 2:
                    return odd, nothing
                table[attributes, 0], table[attributes, 1] = start, stop
                attributes += 1
            elif number == 15:
                statuses += 1
                if wire != 2 or statuses > 1:
                    return odd, nothing
                while start < stop:
                    which, wire, code_at, code_end = _field(data, start, stop)
                    if which < 0 or (which == 3 and wire != 0):
                        return odd, nothing
                    if which == 3:
                        row[_CODE] = _I(_varint(data, code_at, code_end)[0])
                    start = code_end
        if not (0 <= kind < 1 << 31 and 0 <= row[_CODE] < 1 << 31):
            return odd, nothing
        if kind != 2 and kind != 5:
            continue
        if row[_TRACE] < 0 or row[_SPAN] < 0:
            return odd, nothing
        to = _attributes_of(data, table[:attributes], row, prefix, prefix_ends, out, to)
        if to < 0:
            return odd, nothing
        row[_TEXT_END] = to
        count += 1
    return rows[:count], out[:to]


@njit(cache=True, nogil=True)
def _attributes_of(
    data: Octets, table: Integers, row: Integers, prefix: Octets, prefix_ends: Integers, out: Octets, to: int
) -> int:
    """Take what fields hold out of a span's attributes, and write the others behind those of its resource; where they end,
    -1 if something is odd."""
    status = -1
    for i in range(len(table)):
        if not _attribute(data, table[i, 0], table[i, 1], table[i]):
            return -1
        for j in range(i):
            if table[i, _KEY_SIZE] == table[j, _KEY_SIZE] and _equal(
                data, table[i, _KEY], table[j, _KEY], table[i, _KEY_SIZE]
            ):
                return -1
        key, size = table[i, _KEY], table[i, _KEY_SIZE]
        for start in _OF_RESOURCE:
            if _starts(data, key, size, start):
                return -1
        whole = table[i, _KIND] == _INTEGER and 100 <= table[i, _VALUE] <= 599
        if whole and (
            _same(data, key, size, _NEW_STATUS) or (status < 0 and _same(data, key, size, _OLD_STATUS))
        ):
            status = i
    if status >= 0:
        row[_STATUS] = table[status, _VALUE]
    first = prefix_ends[row[_GROUP] - 1] if row[_GROUP] else 0
    begin = to
    to = _written(prefix[first : prefix_ends[row[_GROUP]]], out, to)
    empty = to - begin == 1
    for i in range(len(table)):
        key, size, kind = table[i, _KEY], table[i, _KEY_SIZE], table[i, _KIND]
        text = table[i, _VALUE_SIZE] if kind == _STRING else 0
        if i == status:
            continue
        if _same(data, key, size, _ROUTE):
            if text:
                row[_NAME], row[_NAME_SIZE] = table[i, _VALUE], text
            continue
        is_first = _same(data, key, size, _FIRST_USER)
        if is_first or _same(data, key, size, _SECOND_USER):
            if kind != _STRING:
                return -1
            if text and (is_first or row[_USER_SIZE] < 0):
                row[_USER], row[_USER_SIZE] = table[i, _VALUE], text
            continue
        if not empty:
            out[to] = 44
            to += 1
        empty = False
        to = _quoted(data, key, size, out, to)
        if to < 0:
            return -1
        out[to] = 58
        to += 1
        if kind == _STRING:
            to = _quoted(data, table[i, _VALUE], text, out, to)
            if to < 0:
                return -1
        elif kind == _INTEGER:
            to = _decimal(table[i, _VALUE], out, to)
        else:
            to = _written(_NULL if kind == _NONE else (_TRUE if table[i, _VALUE] else _FALSE), out, to)
    if empty:
        return begin
    out[to] = 125
    return to + 1


@njit(cache=True, nogil=True)
def _equal(data: Octets, one: int, other: int, size: int) -> bool:
    for i in range(size):  # noqa: SIM110 -- the compiler knows no generators
        if data[one + i] != data[other + i]:
            return False
    return True


_DIGITS: Final = _octets("0123456789abcdef")


@njit(cache=True, nogil=True)
def _hex(data: Octets, rows: Integers) -> Octets:
    """Trace and span id of each row: 48 digits."""
    out = np.empty(48 * len(rows), np.uint8)
    to = 0
    for i in range(len(rows)):
        for j in range(24):
            octet = data[rows[i, _TRACE] + j] if j < 16 else data[rows[i, _SPAN] + j - 16]
            out[to], out[to + 1] = _DIGITS[octet >> 4], _DIGITS[octet & 15]
            to += 2
    return out
