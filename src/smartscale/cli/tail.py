"""``smartscale tail``: the records of a topic as readable lines, whatever their schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import pyarrow as pa

from smartscale import config
from smartscale.clock import iso
from smartscale.errors import SchemaError, UserError
from smartscale.log.port import Log, Record, TopicPartition
from smartscale.records import decisions, events, forecasts, metrics, partials, people, schema


def follow(
    log: Log, topic: str, settings: config.Settings, from_beginning: bool, keep_on: bool
) -> Iterator[Record | None]:
    """The records of ``topic``, from now or its beginning; ends at its present end unless ``keep_on``.

    Gives None when there is nothing new for a while, so that the caller can look around. Raises ``UserError``
    for a topic that does not exist.
    """
    found = log.topics().get(topic)
    if found is None:
        names = ", ".join(sorted(log.topics())) or "none yet: `smartscale topics` creates them"
        raise UserError(f"no topic {topic!r} in {settings.log}; topics: {names}")
    partitions = [TopicPartition(topic, p) for p in range(found.partitions)]
    bounds = log.bounds(partitions)
    reader = log.reader()
    try:
        reader.assign({at: bounds[at].begin if from_beginning else bounds[at].end for at in partitions})
        unread = set(partitions)
        while keep_on or unread:
            polled = reader.poll(0.5)
            yield from polled.records
            unread -= polled.ends
            if not polled.records:
                yield None
    finally:
        reader.close()


def describe(record: Record) -> object:
    """The record as plain values, ready for JSON. Never raises: what cannot be read is told as such."""
    about = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": record.key.decode(errors="replace").replace("\x1f", "/") if record.key else None,
        "schema": record.headers.get(schema.SCHEMA, b"").decode(errors="replace") or None,
    }
    try:
        return {**about, "value": _VALUES.get(schema.known(record.headers) or "", _json)(record)}
    except (SchemaError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        return {**about, "unreadable": str(error), "bytes": len(record.value)}


def line(record: Record) -> str:
    """The record as one line for people. Never raises."""
    place = f"{record.topic}/{record.partition}@{record.offset}"
    try:
        text = _LINES.get(schema.known(record.headers) or "", _json_line)(record)
    except (SchemaError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        text = f"cannot be read: {error}"
    return f"{place}  {text}"


def _json(record: Record) -> object:
    return msgspec.json.decode(record.value) if record.value else None


def _json_line(record: Record) -> str:
    return msgspec.json.encode(_json(record)).decode()


def _events(record: Record) -> object:
    return {"ingest_us": schema.int_header(record.headers, "ingest_us"), "events": _rows(record)}


def _rows(record: Record) -> list[dict[str, object]]:
    rows: list[dict[str, Any]] = events.decode(record.value).to_pylist()
    return [{k: v.hex() if isinstance(v, bytes) else v for k, v in row.items()} for row in rows]


def _partials(record: Record) -> object:
    envelope, batch = partials.decode(record.value)
    return {"envelope": msgspec.to_builtins(envelope), "rows": batch.to_pylist()}


_VALUES: Final[dict[str, Callable[[Record], object]]] = {
    schema.EVENTS: _events,
    schema.PARTIALS: _partials,
    schema.SNAPSHOT: lambda record: {"bytes": len(record.value)},
}
"""Readers of what is no JSON."""


def _events_line(record: Record) -> str:
    batch = events.decode(record.value, ["time", "service", "error"])
    times: list[int] = _column(batch, "time")
    services: list[str] = sorted(set(_column(batch, "service")))
    errors = sum(_column(batch, "error"))
    named = f"{', '.join(services[:5])}{' …' if len(services) > 5 else ''}"
    return (
        f"{len(times):,} event{'' if len(times) == 1 else 's'} of {named}, "
        f"{iso(min(times))} to {iso(max(times))}, {errors:,} errors"
    )


def _column(batch: pa.RecordBatch, name: str) -> list[Any]:
    """One column's values; their type depends on its name."""
    values: list[Any] = batch.column(name).to_pylist()
    return values


def _heartbeat_line(record: Record) -> str:
    beat = msgspec.json.decode(record.value, type=events.Heartbeat)
    return f"heartbeat of {beat.process} at {iso(beat.clock_us)}{', leaving' if beat.leaving else ''}"


def _partials_line(record: Record) -> str:
    envelope, batch = partials.decode(record.value)
    count = sum(_column(batch, "count"))
    low = min((w.watermark_us for w in envelope.watermarks), default=None)
    return f"{batch.num_rows} rows of {count:,} events, watermark {iso(low) if low else 'unknown'}"


def _metric_line(record: Record) -> str:
    row = metrics.decode_row(record.value)
    p99 = f", p99 {row.latency_p99_ms:.0f} ms" if row.latency_p99_ms is not None else ""
    state = "final" if row.final else f"revision {row.revision}"
    group = f" {row.group}" if row.group else ""
    return (
        f"{row.service} {row.kind} {row.name}{group} [{iso(row.start_us)}, {row.window}): {row.count:,} events, "
        f"{row.rate_per_s:.1f}/s, {row.error_rate:.1%} errors{p99}, {state}"
        f"{'' if row.complete else ', incomplete'}"
    )


def _progress_line(record: Record) -> str:
    progress = metrics.decode_progress(record.value)
    missing = f", missing {', '.join(progress.missing)}" if progress.missing else ""
    return f"progress: watermark {iso(progress.watermark_us)}, closed to {iso(progress.closed_us)}{missing}"


def _forecast_line(record: Record) -> str:
    forecast = forecasts.decode_forecast(record.value)
    ends = " … ".join(f"{value:.1f}" for value in (forecast.values[-1][0], forecast.values[-1][-1]))
    return (
        f"{forecast.service} {forecast.series} from {iso(forecast.origin_us)}, {len(forecast.values)} steps of "
        f"{forecast.step_s:g} s: at the end {ends} /s, anomaly {forecast.anomaly:.2f}"
    )


def _incident_line(record: Record) -> str:
    incident = forecasts.decode_incident(record.value)
    until = f"until {iso(incident.end_us)}" if incident.end_us is not None else "open"
    return f"{incident.id} {forecasts.headline(incident)}, from {iso(incident.start_us)}, {until}"


def _decision_line(record: Record) -> str:
    made = decisions.decode_decision(record.value)
    act = "" if made.act else " (no action)"
    return f"{made.id} {made.service}: {made.current} -> {made.desired} replicas{act}: {made.reason}"


def _said_line(record: Record) -> str:
    return people.said_text(people.DECODERS[schema.known(record.headers) or ""](record.value))


_LINES: Final[dict[str, Callable[[Record], str]]] = {
    schema.EVENTS: _events_line,
    schema.HEARTBEAT: _heartbeat_line,
    schema.PARTIALS: _partials_line,
    schema.METRIC: _metric_line,
    schema.PROGRESS: _progress_line,
    schema.FORECAST: _forecast_line,
    schema.INCIDENT: _incident_line,
    schema.NOTICE: lambda record: people.decode_notice(record.value).text,
    **dict.fromkeys(people.DECODERS, _said_line),
    schema.DECISION: _decision_line,
    schema.SNAPSHOT: lambda record: f"snapshot of {len(record.value):,} bytes",
}
