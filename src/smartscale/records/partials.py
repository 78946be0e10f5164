"""Partials: what combine sends to window, and the accounts that go with it.

One record of the ``partials`` topic is an Arrow IPC stream with one batch of ``SCHEMA``: one row per
(tenant, service, kind, name, pane) of the services of that partition. The stream's schema metadata holds, under
``smartscale``, the JSON of ``Envelope``. **Every combine transaction writes one record to every partition**, so
that watermarks and accounts reach them all, rows or not.
"""

from __future__ import annotations

from typing import Final

import msgspec
import pyarrow as pa

from smartscale.errors import SchemaError

_LABEL = pa.dictionary(pa.int32(), pa.string())

SCHEMA: Final = pa.schema(
    [
        pa.field("tenant", _LABEL),
        pa.field("service", _LABEL),
        pa.field("kind", _LABEL),
        pa.field("name", _LABEL),
        pa.field("pane", pa.int64()),  # start of the pane, us; [pane, pane + pane_us)
        pa.field("count", pa.int64()),
        pa.field("errors", pa.int64()),
        pa.field("latency_count", pa.int64()),
        pa.field("latency_sum", pa.int64()),  # us
        pa.field("latency_min", pa.int64()),  # us; 0 where latency_count is 0
        pa.field("latency_max", pa.int64()),
        pa.field("value_count", pa.int64()),
        pa.field("value_sum", pa.float64()),
        pa.field("value_min", pa.float64()),  # NaN where value_count is 0
        pa.field("value_max", pa.float64()),
        pa.field("slots", pa.list_(pa.int16())),  # filled slots of the latency histogram, ascending
        pa.field("slot_counts", pa.list_(pa.int64())),
    ]
)


class InputRange(msgspec.Struct, frozen=True):
    """What one transaction read of one input partition: offsets ``[first, end)`` and where their events went.

    ``read = sum(rows) + duplicates + dead + moved``, where ``rows[p]`` counts the events in rows of ``partials``
    partition p. ``moved`` events were written on to another partition of the input, where their id belongs. ``end`` is the
    committed position after the transaction."""

    topic: str
    partition: int
    first: int
    end: int
    read: int
    duplicates: int
    dead: int
    rows: list[int]
    moved: int = 0


class SourceWatermark(msgspec.Struct, frozen=True):
    """What combine knows of one input partition.

    ``watermark_us``: no event before it is expected; it never falls. ``provisional_us`` >= it: up to here
    windows may be emitted although evidence is missing. ``state``: ``live`` (events flow), ``idle`` (heartbeats
    but no events: complete evidence), ``missing`` (neither: the watermark holds)."""

    topic: str
    partition: int
    watermark_us: int
    provisional_us: int
    state: str


LIVE: Final = "live"
IDLE: Final = "idle"
MISSING: Final = "missing"


class Envelope(msgspec.Struct, frozen=True):
    """The accounts of one combine transaction, the same in each of its records.

    ``sources`` counts the partitions of all subscribed inputs, so that window knows how many watermarks to wait
    for. ``inputs`` and ``watermarks`` cover the partitions this transaction speaks for."""

    pane_us: int
    histogram_scale: int
    sources: int
    inputs: list[InputRange]
    watermarks: list[SourceWatermark]


_KEY: Final = b"smartscale"
_decoder = msgspec.json.Decoder(Envelope)


def encode(batch: pa.RecordBatch, envelope: Envelope) -> bytes:
    """The value of a ``partials`` record."""
    schema = SCHEMA.with_metadata({_KEY: msgspec.json.encode(envelope)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(
        sink, schema, options=pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    ) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
    return bytes(sink.getvalue())


def decode(value: bytes) -> tuple[Envelope, pa.RecordBatch]:
    """Accounts and rows. Raises ``SchemaError`` if the value is no ``partials`` record."""
    try:
        with pa.ipc.open_stream(value, options=pa.ipc.IpcReadOptions(use_threads=False)) as reader:
            envelope = _decoder.decode((reader.schema.metadata or {})[_KEY])
            return envelope, reader.read_next_batch()
    except (pa.ArrowInvalid, OSError, StopIteration, KeyError, msgspec.MsgspecError) as error:
        raise SchemaError(f"a partials record cannot be read: {error}") from error
