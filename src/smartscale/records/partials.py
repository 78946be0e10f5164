"""Partials: what combine sends to window, and the accounts that go with it.

One record of the ``partials`` topic is an Arrow IPC stream with one batch: one row per (tenant, service, kind, name, group,
pane) of the services of that partition. Its columns are ``KEY`` and those of the aggregations configured: of ``SCHEMA``, and
of others, as ``NAME.column``. The stream's schema metadata holds, under
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
        pa.field("group", _LABEL),  # "region=eu" where events are grouped by attributes, else ""
        pa.field("pane", pa.int64()),  # start of the pane, us; [pane, pane + pane_us)
        pa.field("pane_us", pa.int64()),
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
        pa.field(
            "value_last_us", pa.int64()
        ),  # event time of the last value; the least int64 if there is none
        pa.field("value_last", pa.float64()),
        pa.field("value_slots", pa.list_(pa.int16())),  # as slots, of records.value_histogram
        pa.field("value_slot_counts", pa.list_(pa.int64())),
        pa.field(
            "users", pa.list_(pa.uint64())
        ),  # least hashes of users, ascending (stream.aggregates.users)
        pa.field("slots", pa.list_(pa.int16())),  # filled slots of the latency histogram, ascending
        pa.field("slot_counts", pa.list_(pa.int64())),
    ]
)

"""Version 2. Version 1 had no group, pane_us, value_last*, value_slot* and users; ``decode`` supplies the first two."""

KEY: Final = ("tenant", "service", "kind", "name", "group", "pane", "pane_us")


class InputRange(msgspec.Struct, frozen=True):
    """What one transaction read of one input partition: offsets ``[first, end)`` and where their events went.

    ``read = sum(rows) + duplicates + dead + moved``, where ``rows[p]`` counts the events in rows of ``partials``
    partition p. ``moved`` events were written on to another partition of the input, where their id belongs. The first
    ``lost`` offsets could not be read: retention had removed them, and a person said to go on. ``end`` is the committed
    position after the transaction."""

    topic: str
    partition: int
    first: int
    end: int
    read: int
    duplicates: int
    dead: int
    rows: list[int]
    moved: int = 0
    lost: int = 0


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
    for. ``inputs`` and ``watermarks`` cover the partitions this transaction speaks for. ``lost``: stretches of event time
    ``[from, until)`` of which records were removed before they were read."""

    pane_us: int
    """The widest pane that all rows' panes are multiples of."""
    histogram_scale: int
    sources: int
    inputs: list[InputRange]
    watermarks: list[SourceWatermark]
    lost: list[tuple[int, int]] = []


_METADATA: Final = b"smartscale"
_decoder = msgspec.json.Decoder(Envelope)


def encode(batch: pa.RecordBatch, envelope: Envelope) -> bytes:
    """The value of a ``partials`` record."""
    schema = batch.schema.with_metadata({_METADATA: msgspec.json.encode(envelope)})
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
            envelope = _decoder.decode((reader.schema.metadata or {})[_METADATA])
            batch = reader.read_next_batch()
            return envelope, batch if KEY[-1] in batch.schema.names else _from_version_1(batch, envelope)
    except (pa.ArrowInvalid, OSError, StopIteration, KeyError, msgspec.MsgspecError) as error:
        raise SchemaError(f"a partials record cannot be read: {error}") from error


def _from_version_1(batch: pa.RecordBatch, envelope: Envelope) -> pa.RecordBatch:
    n = batch.num_rows
    zeros = pa.array([0] * n, pa.int32())
    group = pa.DictionaryArray.from_arrays(zeros, pa.array([""] if n else [], pa.string()))
    batch = batch.append_column(SCHEMA.field("group"), group)
    return batch.append_column(SCHEMA.field("pane_us"), pa.array([envelope.pane_us] * n, pa.int64()))
