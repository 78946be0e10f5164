"""What an exporter is told: ``Export…ServiceResponse``, or ``google.rpc.Status`` for a request of which nothing was taken.

In the encoding of the request (https://opentelemetry.io/docs/specs/otlp/#otlphttp-response). Refused items make a
partial success, which an exporter must not send again. The statuses after which it does, 429 and 503, carry Retry-After.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from smartscale.ingest import answers
from smartscale.ingest.answers import Answer, Verdict

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Signal:
    """One of OTLP's three kinds of telemetry. ``rejected`` is the field that counts refused items."""

    response: type[Message]
    rejected: str

    def result(self, _accepted: int, verdicts: Sequence[Verdict], as_json: bool) -> Answer:
        """200, with a partial success if items were refused. Repeats were taken before: the exporter need not know."""
        refused = {
            verdict.index: verdict.reason for verdict in reversed(verdicts) if verdict.verdict == "refused"
        }
        if not refused:
            return Answer(200, b"{}", JSON) if as_json else Answer(200, b"", PROTOBUF)
        first = min(refused)
        message = f"{len(refused)} refused; the first, item {first} of the request: {refused[first]}"
        if as_json:
            partial = {_camel(self.rejected): str(len(refused)), "errorMessage": message}
            return Answer(200, msgspec.json.encode({"partialSuccess": partial}), JSON)
        partial_success = {self.rejected: len(refused), "error_message": message}
        return Answer(200, self.response(partial_success=partial_success).SerializeToString(), PROTOBUF)


TRACES: Final = Signal(ExportTraceServiceResponse, "rejected_spans")
LOGS: Final = Signal(ExportLogsServiceResponse, "rejected_log_records")
METRICS: Final = Signal(ExportMetricsServiceResponse, "rejected_data_points")


def problem(
    status: int,
    detail: str,
    as_json: bool,
    *,
    kind: str | None = None,
    retry_after_s: float | None = None,
    **headers: str,
) -> Answer:
    """A request of which nothing was taken, as ``answers.problem``, the body a ``google.rpc.Status``."""
    native = answers.problem(status, detail, kind=kind, retry_after_s=retry_after_s, **headers)
    if as_json:
        return Answer(status, msgspec.json.encode({"message": detail}), JSON, native.headers)
    return Answer(status, _status(detail), PROTOBUF, native.headers)


def _status(message: str) -> bytes:
    """``google.rpc.Status`` with a message alone (field 2, text; OTLP does not use its code)."""
    text = message.encode()
    return b"\x12" + _varint(len(text)) + text


def _varint(number: int) -> bytes:
    """
    >>> _varint(300).hex()
    'ac02'
    """
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)
