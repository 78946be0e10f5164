"""Records as version 1 wrote them, made from records of this version: for tests of a rolling upgrade.

What version 1 did not know is left out: groups, last values and percentiles of values, users, ``extra``. A record that says
something only by these cannot be one of version 1 and is refused.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pyarrow as pa

from smartscale.log.port import Message
from smartscale.records import metrics, partials, schema

_LABEL = pa.dictionary(pa.int32(), pa.string())
_NUMBERS: Final = {
    "pane": pa.int64(),
    "count": pa.int64(),
    "errors": pa.int64(),
    "latency_count": pa.int64(),
    "latency_sum": pa.int64(),
    "latency_min": pa.int64(),
    "latency_max": pa.int64(),
    "value_count": pa.int64(),
    "value_sum": pa.float64(),
    "value_min": pa.float64(),
    "value_max": pa.float64(),
    "slots": pa.list_(pa.int16()),
    "slot_counts": pa.list_(pa.int64()),
}
PARTIALS: Final = pa.schema(
    [*((name, _LABEL) for name in ("tenant", "service", "kind", "name")), *_NUMBERS.items()]
)
"""The columns of ``partials/1``."""

_METRIC: Final = metrics.MetricRow.__struct_fields__[: metrics.MetricRow.__struct_fields__.index("group")]
_ENVELOPE: Final = ("pane_us", "histogram_scale", "sources", "inputs", "watermarks")
_INPUT: Final = ("topic", "partition", "first", "end", "read", "duplicates", "dead", "rows")


def written(message: Message) -> Message:
    """The message as a stage of version 1 writes it; one whose schema has not changed as it is. Raises ``ValueError`` if it
    says what version 1 could not."""
    match schema.schema_of(message.headers or {}):
        case schema.PARTIALS:
            return _as(message, "partials/1", _partials(message.value))
        case schema.METRIC:
            row = msgspec.json.decode(message.value)
            if row.get("group"):
                raise ValueError("version 1 knows no groups")
            return _as(message, "metric/1", msgspec.json.encode(_kept(row, _METRIC)))
        case schema.LIVE_KEY:
            key = msgspec.json.decode(message.value) if message.value else {}
            if key.get("group"):
                raise ValueError("version 1 knows no groups")
            key.pop("group", None)
            return _as(message, "live-key/1", msgspec.json.encode(key) if key else b"")
    return message


def _as(message: Message, name: str, value: bytes) -> Message:
    headers = {**(message.headers or {}), schema.SCHEMA: name.encode()}
    return msgspec.structs.replace(message, value=value, headers=headers)


def _kept(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}


def _partials(value: bytes) -> bytes:
    envelope, batch = partials.decode(value)
    if batch.num_rows and (
        set(batch.column("group").to_pylist()) != {""}
        or set(batch.column("pane_us").to_pylist()) != {envelope.pane_us}
    ):
        raise ValueError("version 1 knows neither groups nor panes of several widths")
    told = _kept(msgspec.to_builtins(envelope), _ENVELOPE)
    told["inputs"] = [_kept(one, _INPUT) for one in told["inputs"]]
    columns = [batch.column(name).cast(PARTIALS.field(name).type) for name in PARTIALS.names]
    made = PARTIALS.with_metadata({b"smartscale": msgspec.json.encode(told)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, made, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=made))
    return bytes(sink.getvalue())
