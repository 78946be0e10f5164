"""Events: JSON at the edge, columns from there on.

One record of the ``events`` topic is an Arrow IPC stream with one record batch of ``SCHEMA`` (LZ4 by default),
holding hundreds to thousands of events. Its headers: ``schema`` = ``events/1``, ``n`` = number of events,
``ingest_us`` = world time when the edge wrote it, ``process`` = the edge process that did.

A heartbeat is a small JSON record in the same partitions (``schema`` = ``heartbeat/1``): see ``Heartbeat``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, Literal

import msgspec
import pyarrow as pa

from smartscale.errors import SchemaError
from smartscale.records import schema

_LABEL = pa.dictionary(pa.int32(), pa.string())

SCHEMA: Final = pa.schema(
    [
        pa.field("time", pa.int64(), nullable=False),  # event time, us since the epoch; a request's end
        pa.field("tenant", _LABEL, nullable=False),
        pa.field("service", _LABEL, nullable=False),
        pa.field("kind", _LABEL, nullable=False),
        pa.field("name", _LABEL, nullable=False),  # route, logger or metric name; "" if none
        pa.field("status", pa.int16()),
        pa.field("error", pa.bool_(), nullable=False),
        pa.field("latency", pa.int64()),  # whole microseconds
        pa.field("value", pa.float64()),  # metric events
        pa.field("user", pa.uint64()),  # keyed hash, never in clear
        pa.field("identity", pa.binary(16)),  # event_hash(tenant, service, id); null without an id
        pa.field("id", pa.string()),
        pa.field("attributes", pa.string()),  # JSON object, or null
    ]
)

MAX_RECORD_BYTES: Final = 512 << 10
"""An encoded record is at most this long, so that readers' buffers stay bounded (design, section 2)."""


class Heartbeat(msgspec.Struct, frozen=True):
    """Written by each live edge process to every partition of ``events`` once a second (real time).

    Says: every event that I will add was received at ``oldest_us`` or later. So none of them ended before ``oldest_us``
    less the out-of-orderness bound, unless it was beyond that bound when it came. ``oldest_us`` is when the oldest
    body was received whose events are not in the log yet, or ``clock_us`` if there is none.
    ``leaving`` is True in the last one of a process that stops cleanly.
    """

    process: str
    clock_us: int
    oldest_us: int
    leaving: bool = False


class Growth(msgspec.Struct, frozen=True):
    """A mark in every partition of ``events``, and the agreement in ``layout``, written in one transaction.

    Events with ids behind the mark belong to the partition ``hash % partitions``, those before it to ``hash % before``.
    Edges spread ids by the last agreement. ``before`` is 0 in the first one of a log, which sets no marks."""

    before: int
    partitions: int


def encode(batch: pa.RecordBatch, compression: Literal["lz4", "zstd"] | None = "lz4") -> bytes:
    """The value of an ``events`` record for a batch of ``SCHEMA``. ``compression``: "lz4", "zstd" or None."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression, use_threads=False)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def event_count(headers: Mapping[str, bytes]) -> int:
    """How many events a record of an input topic stands for: what it states, 0 for a heartbeat, 1 if it does not say."""
    if headers.get(schema.SCHEMA) == schema.HEARTBEAT.encode():
        return 0
    text = headers.get("n", b"")
    return int(text) if text.isdigit() else 1


_INDEX = {name: SCHEMA.get_field_index(name) for name in SCHEMA.names}


def decode(value: bytes, columns: Sequence[str] | None = None) -> pa.RecordBatch:
    """The batch in a record's value, only the named columns if given (in the schema's order).

    Raises ``SchemaError`` if the value is no such batch."""
    included = sorted(_INDEX[name] for name in columns or SCHEMA.names)
    options = pa.ipc.IpcReadOptions(included_fields=included, use_threads=False)
    try:
        with pa.ipc.open_stream(value, options=options) as reader:
            batch = reader.read_next_batch()
    except (pa.ArrowException, OSError, StopIteration) as error:
        raise SchemaError(f"an events record is not an Arrow stream: {error}") from error
    expected = _subset(tuple(included))
    if not batch.schema.equals(expected):
        raise SchemaError(f"an events record has the columns {batch.schema}, expected {expected}")
    return batch


@lru_cache
def _subset(included: tuple[int, ...]) -> pa.Schema:
    return pa.schema([SCHEMA.field(index) for index in included])
