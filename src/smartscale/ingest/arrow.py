"""Arrow IPC streams (``application/vnd.apache.arrow.stream``): the columns of events, checked without looking at rows.

A stream has any of the columns of ``TYPES``; only ``service`` is required, and a null means that the event lacks the field.
Text may be dictionary-encoded. Times are timestamps of any unit (one without a zone is UTC), whole microseconds since
the epoch, or RFC 3339 text; ``attributes`` is the text of a JSON object.

Each row gets the verdict that the same event would get as JSON. Columns are checked as a whole; only a row that fails is
said as JSON, to be refused with the reason that JSON would be refused with. (One difference: an event's size is that
of its text, not that of its JSON.)

A stream is read only if what it claims is bounded: no more rows than the limit, no compressed buffers (they may stand for
any amount; Content-Encoding is for that), and dictionaries that stay small once they are spelled out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from smartscale.clock import iso
from smartscale.ingest.columns import RECEIVED, Columns
from smartscale.ingest.encodings import TooLong
from smartscale.records import events_json, topics
from smartscale.records.events_json import MAX_LABEL, SEVERITIES, Limits, MalformedBody, Refusal

MEDIA_TYPE: Final = "application/vnd.apache.arrow.stream"

Mask = npt.NDArray[np.bool_]
Check = Callable[[pa.DataType], bool]


def _is_text(kind: pa.DataType) -> bool:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_int64(kind)) or _is_text(kind)


TYPES: Final[Mapping[str, tuple[Check, str]]] = {
    "service": (_is_text, "text"),
    "time": (_is_time, "a timestamp, int64 (microseconds since 1970) or RFC 3339 text"),
    "kind": (_is_text, "text"),
    "name": (_is_text, "text"),
    "status": (pa.types.is_integer, "an integer"),
    "error": (pa.types.is_boolean, "a boolean"),
    "severity": (_is_text, "text"),
    "latency_ms": (_is_number, "a number"),
    "value": (_is_number, "a number"),
    "user": (_is_text, "text"),
    "id": (_is_text, "text"),
    "attributes": (_is_text, "text (of JSON objects)"),
}
"""Every column that is read, its types, and these in words."""

MAX_TEXT_BYTES: Final = 64 << 20
"""Text of a body once its dictionaries are spelled out; chosen as four times the largest body, which bounds memory."""


def decode(_headers: Mapping[str, str], body: bytes, limits: Limits) -> Columns:
    """The rows of a stream. Raises ``MalformedBody``, ``TooLong``."""
    try:
        fields, count = _read(body, limits)
    except (pa.ArrowException, OSError, UnicodeError, StopIteration, struct.error) as error:
        raise MalformedBody(f"the body is not a valid Arrow IPC stream: {error}") from None
    rows = _Rows(fields, count, limits)
    good = rows.good()
    refused = [rows.refusal(place) for place in np.flatnonzero(~good).tolist()]
    places = np.flatnonzero(good)
    return Columns(count, rows.batch(places), places.tolist(), refused)


def _read(body: bytes, limits: Limits) -> tuple[dict[str, pa.Array], int]:
    """The columns by name, text as plain strings, and the number of rows."""
    batches = _bounded(body, limits)
    columns: dict[str, list[pa.Array]] = {}
    room = MAX_TEXT_BYTES
    with pa.ipc.open_stream(body) as reader:
        _check_schema(reader.schema)
        for _ in range(batches):
            batch = reader.read_next_batch()
            batch.validate(full=True)
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                if _is_text(column.type):
                    room -= _text_bytes(column)
                    if room < 0:
                        raise TooLong(
                            f"the text of the body has more than {MAX_TEXT_BYTES:,} bytes; send less at once"
                        )
                    column = column.cast(pa.string())
                columns.setdefault(name, []).append(column)
    fields = {name: pa.concat_arrays(parts) for name, parts in columns.items()}
    return fields, len(fields["service"]) if fields else 0


def _check_schema(schema: pa.Schema) -> None:
    if len(set(schema.names)) < len(schema.names) or "service" not in schema.names:
        raise MalformedBody("a stream of events has the column `service`, and no column twice")
    for field in schema:
        if field.name not in TYPES:
            raise MalformedBody(f"unknown column {field.name[:80]!r}; the columns are {', '.join(TYPES)}")
        fits, words = TYPES[field.name]
        if not fits(field.type):
            raise MalformedBody(f"column `{field.name}` must be {words}, not {field.type}")


def _text_bytes(column: pa.Array) -> int:
    """How long the column's text is once a dictionary is spelled out."""
    if not pa.types.is_dictionary(column.type):
        return int(pc.sum(pc.binary_length(column)).as_py() or 0)
    lengths = pc.binary_length(column.dictionary).cast(pa.int64())
    return int(pc.sum(pc.take(lengths, column.indices)).as_py() or 0)


def _bounded(body: bytes, limits: Limits) -> int:
    """How many record batches the stream has; raises unless they are bounded, before anything is made of them."""
    batches = rows = messages = 0
    reader = pa.ipc.MessageReader.open_stream(body)
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return batches
        if message.type == "schema":
            continue
        length, compressed = _claims(memoryview(message.metadata), message.type)
        if compressed:
            raise MalformedBody(
                "its buffers are compressed; write the stream without, and use Content-Encoding: zstd or gzip"
            )
        messages += 1
        if message.type == "record batch":
            batches, rows = batches + 1, rows + max(0, length)
        if max(rows, messages - 1000) > limits.max_events:
            raise TooLong(
                f"the body has more events than the limit of {limits.max_events:,}, or more batches; send less at once"
            )


def _claims(metadata: memoryview, kind: str) -> tuple[int, bool]:
    """Rows of a batch (or entries of a dictionary), and whether its buffers are compressed.

    Read from the message's flatbuffer, which Arrow has verified (format/Message.fbs: field 2 of Message is the header;
    field 1 of DictionaryBatch its data; fields 0 and 3 of RecordBatch length and compression)."""
    header = _table(metadata, struct.unpack_from("<I", metadata)[0], 2)
    batch = _table(metadata, header, 1) if kind == "dictionary" and header else header
    at = _field(metadata, batch, 0) if batch else 0
    length = struct.unpack_from("<q", metadata, at)[0] if at else 0
    return length, bool(batch and _field(metadata, batch, 3))


def _field(buffer: memoryview, table: int, index: int) -> int:
    """Where a field of a flatbuffer's table is; 0 if it is absent (flatbuffers.dev/internals)."""
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    (size,) = struct.unpack_from("<H", buffer, vtable)
    slot = 4 + 2 * index
    (offset,) = struct.unpack_from("<H", buffer, vtable + slot) if slot < size else (0,)
    return table + offset if offset else 0


def _table(buffer: memoryview, table: int, index: int) -> int:
    """Where the table is that a field points to; 0 if it is absent."""
    at = _field(buffer, table, index)
    return at + struct.unpack_from("<I", buffer, at)[0] if at else 0


_LATEST_US: Final = 253_402_300_799_999_999
"""The end of the year 9999, beyond which RFC 3339 has no times."""
_NEVER_US: Final = -1
"""Stands for a time that is none."""
_BAD: Final = b""
"""Stands for attributes that are no JSON object."""


class _Rows:
    """The columns of a stream, each as one array of the type that its field has; nulls where it has no such column."""

    def __init__(self, fields: Mapping[str, pa.Array], count: int, limits: Limits) -> None:
        self._count, self._limits = count, limits
        self._given = fields
        types = {"status": pa.int64(), "latency_ms": pa.float64(), "value": pa.float64(), "error": pa.bool_()}
        self._fields = {
            name: fields[name].cast(kind, safe=False) if name in fields else pa.nulls(count, kind)
            for name in TYPES
            if name not in ("time", "attributes")
            for kind in [types.get(name, pa.string())]
        }
        self._times_us = _times_us(fields.get("time"), count, limits.now_us)
        self._attributes = _objects(fields.get("attributes"), count)

    def good(self) -> Mask:
        """Which rows are good events: what ``events_json`` checks, field by field."""
        field = self._fields
        checks = [
            pc.is_valid(field["service"]),
            _is_label(field["service"], 1, MAX_LABEL),
            _is_label(field["name"], 0, MAX_LABEL),
            _is_label(field["id"], 1, None),
            pc.not_equal(field["name"], topics.ALL_NAMES),
            pc.is_in(field["kind"], pa.array([*topics.KINDS, None])),
            pc.is_in(pc.utf8_lower(field["severity"]), pa.array([*SEVERITIES, None])),
            pc.and_(pc.greater_equal(field["status"], 100), pc.less_equal(field["status"], 599)),
            pc.and_(pc.greater_equal(field["latency_ms"], 0), pc.less(field["latency_ms"], 2.0**31)),
            pc.is_finite(field["value"]),
            pc.or_(pc.is_valid(field["value"]), pc.not_equal(pc.fill_null(field["kind"], ""), topics.METRIC)),
        ]
        good = (self._times_us >= 0) & (self._times_us <= self._limits.latest_us)
        good &= np.array([text is not _BAD for text in self._attributes], dtype=bool)
        good &= self._sizes() <= self._limits.max_event_bytes
        for check in checks:
            good &= pc.fill_null(check, True).to_numpy(zero_copy_only=False)  # a field that is absent is good
        return good

    def _sizes(self) -> npt.NDArray[np.int64]:
        """Bytes of each row's text."""
        sizes = np.zeros(self._count, dtype=np.int64)
        for column in self._given.values():
            if pa.types.is_string(column.type):
                sizes += pc.fill_null(pc.binary_length(column), 0).to_numpy()
        return sizes

    def refusal(self, place: int) -> Refusal:
        """Why a row is no good event: in the words that JSON would be refused with."""
        event: dict[str, Any] = {name: column[place].as_py() for name, column in self._fields.items()}
        for name in ("latency_ms", "value"):  # JSON has no words for these
            if event[name] is not None and not np.isfinite(event[name]):
                return Refusal(
                    place, f"invalid-{name}", f"`{name}` must be a finite number, not {event[name]}"
                )
        if "time" in self._given:
            event["time"] = self._time(place)
        if "attributes" in self._given:
            text = self._given["attributes"][place].as_py()
            event["attributes"] = (
                text if self._attributes[place] is _BAD or text is None else msgspec.Raw(text.encode())
            )
        said = {name: value for name, value in event.items() if value is not None}
        (found,) = events_json.decode(msgspec.json.encode(said), self._limits, lines=True).refused
        return Refusal(place, found.code, found.reason)

    def _time(self, place: int) -> str | None:
        """A row's time as text."""
        given = self._given["time"]
        if not given[place].is_valid or pa.types.is_string(given.type):
            text: str | None = given[place].as_py()
            return text
        time_us = int(self._times_us[place])
        return iso(time_us) if _EARLIEST_US <= time_us <= _LATEST_US else f"{time_us} us"

    def batch(self, places: npt.NDArray[np.int64]) -> pa.RecordBatch:
        """These rows, which are good, as columns of ``RECEIVED``."""
        field = {name: column.take(pa.array(places)) for name, column in self._fields.items()}
        severity = pc.utf8_lower(field["severity"])
        columns = {
            "time": pa.array(self._times_us[places]),
            "service": field["service"].dictionary_encode(),
            "kind": pc.fill_null(field["kind"], topics.INTERACTION).dictionary_encode(),
            "name": pc.fill_null(field["name"], "").dictionary_encode(),
            "status": field["status"].cast(pa.int16()),
            "error": pc.coalesce(
                field["error"],
                pc.or_(
                    pc.is_in(severity, _ERRORS), pc.fill_null(pc.greater_equal(field["status"], 500), False)
                ),
            ),
            "latency": pc.round(pc.multiply(field["latency_ms"], 1000.0)).cast(pa.int64()),
            "value": field["value"],
            "user": field["user"],
            "id": field["id"],
            "attributes": self._kept(places, field["severity"]),
        }
        return pa.RecordBatch.from_arrays([columns[name] for name in RECEIVED.names], schema=RECEIVED)

    def _kept(self, places: npt.NDArray[np.int64], severity: pa.StringArray) -> pa.StringArray:
        """The rows' attributes, a log event's severity among them."""
        texts = [self._attributes[place] for place in places.tolist()]
        for i in np.flatnonzero(severity.is_valid()).tolist():
            own = _object(texts[i] or b"{}")
            texts[i] = msgspec.json.encode({"severity": severity[i].as_py(), **own})
        return pa.array([None if text is None else text.decode() for text in texts], pa.string())


_EARLIEST_US: Final = -62_135_596_800_000_000
"""The beginning of the year 1."""
_ERRORS: Final = pa.array([name for name, error in SEVERITIES.items() if error])
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_objects_of = msgspec.json.Decoder(list[msgspec.Raw]).decode


def _is_label(column: pa.StringArray, least: int, most: int | None) -> pa.BooleanArray:
    """Whether each text has from ``least`` to ``most`` characters, none of them a control character."""
    length = pc.utf8_length(column)
    fits = pc.greater_equal(length, least)
    if most is not None:
        fits = pc.and_(fits, pc.less_equal(length, most))
    return pc.and_(fits, pc.invert(pc.match_substring_regex(column, r"[\x00-\x1f\x7f]")))


_FACTORS: Final = {"s": (1_000_000, 1), "ms": (1000, 1), "us": (1, 1), "ns": (1, 1000)}


def _times_us(column: pa.Array | None, count: int, now_us: int) -> npt.NDArray[np.int64]:
    """Event times; ``now_us`` where there is none, ``_NEVER_US`` where the text is no time."""
    if column is None:
        return np.full(count, now_us, dtype=np.int64)
    if pa.types.is_string(column.type):
        times = [now_us if text is None else events_json.instant_us(text) for text in column.to_pylist()]
        return np.array([_NEVER_US if time is None else time for time in times], dtype=np.int64)
    up, down = _FACTORS[column.type.unit] if pa.types.is_timestamp(column.type) else (1, 1)
    given = column.view(pa.int64()).fill_null(0).to_numpy()
    times_us = np.clip(given, -(1 << 62) // up, (1 << 62) // up) * up // down
    return np.where(column.is_valid(), times_us, now_us)


def _objects(column: pa.StringArray | None, count: int) -> Sequence[bytes | None]:
    """Each row's attributes as the text of a JSON object; None where there are none, ``_BAD`` where it is not one."""
    if column is None:
        return [None] * count
    texts = [None if text is None else text.strip().encode() for text in column.to_pylist()]
    given = [text for text in texts if text is not None]
    try:  # all at once; each is a value of its own only if it comes out as it went in
        found = _objects_of(b"[" + b",".join(given) + b"]")
        if len(found) == len(given) and all(
            text == raw and text[:1] == b"{" for text, raw in zip(given, found, strict=True)
        ):
            return texts
    except (msgspec.MsgspecError, RecursionError):
        pass  # at least one is none: look at each
    return [None if text in (None, b"null") else _one_object(text) for text in texts]


def _one_object(text: bytes) -> bytes:
    try:
        _object(text)
    except (msgspec.MsgspecError, RecursionError):
        return _BAD
    return text
