"""What the edge reads: one table of paths and media types, each with its decoder and its way to answer.

A decoder is a function of headers (names in lower case), body and limits, without I/O. It gives the events either as
objects (``events_json.Decoded``) or, where a format is columnar itself, as ``Columns``. It runs in the writer's thread, on
the body as it was before any content encoding. It raises ``MalformedBody`` for a body that holds no events it could
judge one by one; anything else it raises is our bug.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from smartscale.ingest import answers, arrow, cloudevents
from smartscale.ingest.answers import Answer, Verdict
from smartscale.ingest.columns import Columns
from smartscale.ingest.otlp import answers as otlp_answers
from smartscale.ingest.otlp import events as otlp_events
from smartscale.ingest.otlp import spans as otlp_spans
from smartscale.records import events_json
from smartscale.records.events_json import Decoded, Limits

Headers = Mapping[str, str]

Decode = Callable[[Headers, bytes, Limits], Decoded | Columns]


@dataclass(frozen=True, slots=True)
class Format:
    """One way to send events. ``name`` is its label in the metrics."""

    name: str
    decode: Decode
    result: Callable[[int, Sequence[Verdict]], Answer] = answers.result
    """The answer once the events have their verdicts: how many were accepted, and the verdicts of the others."""
    problem: Callable[..., Answer] = answers.problem
    """The answer to a request of which nothing was taken: as ``answers.problem``."""


def _json(_headers: Headers, body: bytes, limits: Limits) -> Decoded:
    return events_json.decode(body, limits)


def _lines(_headers: Headers, body: bytes, limits: Limits) -> Decoded:
    return events_json.decode(body, limits, lines=True)


def _structured(_headers: Headers, body: bytes, limits: Limits) -> Decoded:
    return cloudevents.decode_structured(body, limits)


def _batched(_headers: Headers, body: bytes, limits: Limits) -> Decoded:
    return cloudevents.decode_batch(body, limits)


def _otlp(signal: otlp_answers.Signal, protobuf: Decode, json: Decode) -> Mapping[str, Format]:
    """The two encodings of one of OTLP's signals."""
    return {
        media_type: Format(
            "otlp",
            decode,
            partial(signal.result, as_json=as_json),
            partial(otlp_answers.problem, as_json=as_json),
        )
        for media_type, decode, as_json in (
            (otlp_answers.PROTOBUF, protobuf, False),
            (otlp_answers.JSON, json, True),
        )
    }


JSON: Final = Format("json", _json)
NDJSON: Final = Format("json", _lines)
CLOUDEVENT_BINARY: Final = Format("cloudevents", cloudevents.decode_binary)
"""Told by its headers; any media type may be that of its data."""

FORMATS: Final[Mapping[str, Mapping[str, Format]]] = {
    "/v1/events": {
        "": JSON,
        "application/json": JSON,
        "text/json": JSON,
        "application/x-ndjson": NDJSON,
        "application/ndjson": NDJSON,
        "application/jsonl": NDJSON,
        "application/x-jsonlines": NDJSON,
        arrow.MEDIA_TYPE: Format("arrow", arrow.decode),
        cloudevents.STRUCTURED: Format("cloudevents", _structured),
        cloudevents.BATCHED: Format("cloudevents", _batched),
    },
    "/v1/traces": _otlp(otlp_answers.TRACES, otlp_spans.decode_traces, otlp_events.decode_traces),
    "/v1/logs": _otlp(otlp_answers.LOGS, otlp_events.decode_logs, otlp_events.decode_logs),
    "/v1/metrics": _otlp(otlp_answers.METRICS, otlp_events.decode_metrics, otlp_events.decode_metrics),
}
"""By path, then by media type without its parameters ("" stands for a request that names none)."""


class Unsupported(ValueError):
    """The body's media type is not one the edge reads; the message says which are."""


def format_of(path: str, headers: Headers) -> Format:
    """The format of a request to one of the paths of ``FORMATS``. Raises ``Unsupported``."""
    known = FORMATS[path]
    if JSON in known.values() and cloudevents.is_binary(headers):
        return CLOUDEVENT_BINARY
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in known:
        raise Unsupported(
            f"content-type {media_type!r} is not read here; send one of: {', '.join(name for name in known if name)}"
        )
    return known[media_type]
