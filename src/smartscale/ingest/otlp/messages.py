"""OTLP requests in both encodings, as objects that read alike.

Protobuf messages come from ``opentelemetry-proto``. OTLP's JSON is not quite protobuf's (ids are hex, not base64; enums
are numbers: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding), so it has shapes of its own here, with the
same field names. ``has``, ``plain``, ``whole`` and ``hex_id`` even out the rest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from smartscale.records.events_json import MalformedBody

Whole = Annotated[str, msgspec.Meta(pattern=r"^-?[0-9]{1,20}$")] | int
"""A 64-bit integer, which JSON's numbers do not hold."""
Real = (
    float
    | Annotated[
        str, msgspec.Meta(pattern=r"^(-?[0-9]{1,400}(\.[0-9]{1,400})?([eE][-+]?[0-9]{1,4})?|NaN|-?Infinity)$")
    ]
)


class Shape(msgspec.Struct, rename="camel", gc=False, frozen=True):
    """A message as JSON: every field may be missing, unknown ones are ignored."""


class AnyValue(Shape, frozen=True):
    string_value: str | None = None
    bool_value: bool | None = None
    int_value: Whole | None = None
    double_value: Real | None = None
    array_value: ArrayValue | None = None
    kvlist_value: KeyValueList | None = None
    bytes_value: str | None = None


class ArrayValue(Shape, frozen=True):
    values: Sequence[AnyValue] = ()


class KeyValue(Shape, frozen=True):
    key: str = ""
    value: AnyValue = AnyValue()


class KeyValueList(Shape, frozen=True):
    values: Sequence[KeyValue] = ()


class Resource(Shape, frozen=True):
    attributes: Sequence[KeyValue] = ()


class Scope(Shape, frozen=True):
    name: str = ""


class Status(Shape, frozen=True):
    code: int = 0


class Span(Shape, frozen=True):
    trace_id: str = ""
    span_id: str = ""
    name: str = ""
    kind: int = 0
    start_time_unix_nano: Whole = 0
    end_time_unix_nano: Whole = 0
    attributes: Sequence[KeyValue] = ()
    status: Status = Status()


class ScopeSpans(Shape, frozen=True):
    spans: Sequence[Span] = ()


class ResourceSpans(Shape, frozen=True):
    resource: Resource = Resource()
    scope_spans: Sequence[ScopeSpans] = ()


class Traces(Shape, frozen=True):
    """``ExportTraceServiceRequest``."""

    resource_spans: Sequence[ResourceSpans] = ()


class LogRecord(Shape, frozen=True):
    time_unix_nano: Whole = 0
    observed_time_unix_nano: Whole = 0
    severity_number: int = 0
    severity_text: str = ""
    attributes: Sequence[KeyValue] = ()
    trace_id: str = ""
    span_id: str = ""
    event_name: str = ""


class ScopeLogs(Shape, frozen=True):
    scope: Scope = Scope()
    log_records: Sequence[LogRecord] = ()


class ResourceLogs(Shape, frozen=True):
    resource: Resource = Resource()
    scope_logs: Sequence[ScopeLogs] = ()


class Logs(Shape, frozen=True):
    """``ExportLogsServiceRequest``."""

    resource_logs: Sequence[ResourceLogs] = ()


class NumberPoint(Shape, frozen=True):
    attributes: Sequence[KeyValue] = ()
    time_unix_nano: Whole = 0
    as_double: Real | None = None
    as_int: Whole | None = None
    flags: int = 0


class DistributionPoint(Shape, frozen=True):
    """A data point of a histogram, an exponential histogram or a summary: what they share."""

    attributes: Sequence[KeyValue] = ()
    time_unix_nano: Whole = 0
    count: Whole = 0
    sum: Real | None = None
    flags: int = 0


class Gauge(Shape, frozen=True):
    data_points: Sequence[NumberPoint] = ()


class Sum(Shape, frozen=True):
    data_points: Sequence[NumberPoint] = ()
    aggregation_temporality: int = 0


class Distribution(Shape, frozen=True):
    data_points: Sequence[DistributionPoint] = ()
    aggregation_temporality: int = 0


class Metric(Shape, frozen=True):
    name: str = ""
    gauge: Gauge | None = None
    sum: Sum | None = None
    histogram: Distribution | None = None
    exponential_histogram: Distribution | None = None
    summary: Distribution | None = None


class ScopeMetrics(Shape, frozen=True):
    metrics: Sequence[Metric] = ()


class ResourceMetrics(Shape, frozen=True):
    resource: Resource = Resource()
    scope_metrics: Sequence[ScopeMetrics] = ()


class Metrics(Shape, frozen=True):
    """``ExportMetricsServiceRequest``."""

    resource_metrics: Sequence[ResourceMetrics] = ()


Request = Traces | Logs | Metrics | Message
_PROTOBUF: Final = {
    Traces: ExportTraceServiceRequest,
    Logs: ExportLogsServiceRequest,
    Metrics: ExportMetricsServiceRequest,
}
_DECODERS: Final = {shape: msgspec.json.Decoder(shape) for shape in _PROTOBUF}


def read(shape: type[Traces | Logs | Metrics], body: bytes, as_json: bool) -> Any:
    """The request in a body: an object of ``shape`` or the protobuf message with the same fields.

    Raises ``MalformedBody``."""
    if as_json:
        return _read_json(shape, body)
    message = _PROTOBUF[shape]()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise MalformedBody(f"the body is not valid protobuf: {error}") from None
    return message


def _read_json(shape: type[Traces | Logs | Metrics], body: bytes) -> Any:
    try:
        try:
            return _DECODERS[shape].decode(body)
        except msgspec.ValidationError:
            return msgspec.convert(_without_nulls(msgspec.json.decode(body)), shape)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise MalformedBody(f"the body is not valid OTLP in JSON: {error}") from None


def _without_nulls(value: Any) -> Any:
    """A field that is null is one that is missing (https://protobuf.dev/programming-guides/json/); few senders write it."""
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value


def has(message: Any, field: str) -> bool:
    """Whether a field that may be absent is there."""
    if isinstance(message, Shape):
        return getattr(message, field) is not None
    there: bool = message.HasField(field)
    return there


def whole(value: int | str) -> int:
    """A 64-bit integer of either encoding."""
    return int(value)


def hex_id(value: bytes | str, size: int) -> str | None:
    """A trace or span id of ``size`` bytes as hex; None if it is not one (of another length, or only zeros)."""
    text = value.hex() if isinstance(value, bytes) else value.lower()
    good = len(text) == 2 * size and _HEX.fullmatch(text) and text.strip("0")
    return text if good else None


_HEX: Final = re.compile("[0-9a-f]+")


def plain(value: Any) -> Any:
    """An attribute's value as JSON has it: bytes in base64, what JSON has no number for as null."""
    if has(value, "string_value"):
        return value.string_value
    if has(value, "int_value"):
        return whole(value.int_value)
    if has(value, "bool_value"):
        return value.bool_value
    if has(value, "double_value"):
        return float(value.double_value)
    if has(value, "array_value"):
        return [plain(inner) for inner in value.array_value.values]
    if has(value, "kvlist_value"):
        return {pair.key: plain(pair.value) for pair in value.kvlist_value.values}
    return value.bytes_value if has(value, "bytes_value") else None
