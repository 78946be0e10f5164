"""The edge's HTTP interface as an OpenAPI 3.1 document, made from the table of formats and the types of bodies and answers.

``python -m smartscale.ingest.openapi > docs/openapi.json`` writes it; a test keeps the file true, and the edge serves it at
``/openapi.json``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import msgspec

import smartscale
from smartscale.ingest import answers, encodings
from smartscale.ingest.answers import PROBLEMS, Problem, Result
from smartscale.ingest.decode import MAX_KEY
from smartscale.ingest.formats import FORMATS
from smartscale.records.events_json import SEVERITIES, EventIn

PATH: Final = "/openapi.json"
PROTOBUF: Final = "application/x-protobuf"
_BINARY: Final = {"type": "string", "contentEncoding": "binary"}
_REF: Final = "#/components/schemas/{name}"

_CLOUDEVENT: Final = {
    "type": "object",
    "description": "A CloudEvent 1.0 in structured mode; `data` is an event, or the fields of one.",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "minLength": 1},
        "source": {"type": "string", "minLength": 1},
        "type": {"type": "string", "minLength": 1},
        "subject": {"type": "string"},
        "time": {"type": "string", "format": "date-time"},
        "datacontenttype": {"type": "string"},
        "data": {},
    },
}

_OTLP: Final[Mapping[str, tuple[str, str]]] = {
    "/v1/traces": ("ExportTraceServiceRequest", "resourceSpans"),
    "/v1/logs": ("ExportLogsServiceRequest", "resourceLogs"),
    "/v1/metrics": ("ExportMetricsServiceRequest", "resourceMetrics"),
}

_REFUSALS: Final = (400, 401, 403, 408, 413, 415, 422, 429, 431, 503)
"""Statuses of answers to a request with events of which nothing was taken."""


def document() -> dict[str, Any]:
    """The document as plain values."""
    _, components = msgspec.json.schema_components([_event(), Result, Problem], ref_template=_REF)
    event = components["EventIn"]["properties"]
    event["attributes"]["description"] = "Anything else; kept as it is."
    event["time"]["description"] = (
        "RFC 3339 with a zone; when a request ended. Left out: the time of receipt."
    )
    event["severity"]["description"] = f"One of {', '.join(SEVERITIES)}, upper or lower case."
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "SmartScale's edge",
            "version": smartscale.__version__,
            "description": "Takes events and answers once they are durably in the log. Bodies may come with "
            f"`Content-Encoding` {encodings.ACCEPTED}. Problems are told as RFC 9457 says; their types are:\n\n"
            + "\n".join(
                f"- `{answers.TYPE}{name}` ({kind.status}): {kind.remedy}" for name, kind in PROBLEMS.items()
            ),
        },
        "paths": {path: {"post": _post(path)} for path in FORMATS}
        | {path: {"get": _get(path)} for path in _GETS},
        "components": {
            "schemas": {**dict(sorted(components.items())), "CloudEvent": _CLOUDEVENT, "Status": _STATUS},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The tenant's token, where the operator has given some.",
                }
            },
        },
    }


def _event() -> type[msgspec.Struct]:
    """``EventIn`` with attributes of a type that has a schema: its own are kept as raw text."""
    fields = [
        (each.name, each.type) if each.required else (each.name, each.type, each.default)
        for each in msgspec.structs.fields(EventIn)
        if each.name != "attributes"
    ]
    attributes = ("attributes", dict[str, Any] | None, None)
    return msgspec.defstruct("EventIn", [*fields, attributes], kw_only=True, forbid_unknown_fields=True)


_STATUS: Final = {
    "type": "object",
    "description": "google.rpc.Status, as OTLP/HTTP asks for.",
    "properties": {"message": {"type": "string"}},
    "required": ["message"],
}


def _post(path: str) -> dict[str, Any]:
    otlp = _OTLP.get(path)
    return {
        "operationId": "send-" + path.rpartition("/")[2],
        "summary": f"Send OTLP's {otlp[0]}."
        if otlp
        else "Send events: one, an array, or one a line; CloudEvents; columns.",
        "security": [{"token": []}, {}],
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "Names the whole request: sent again with the same key, it is counted once.",
                "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY, "pattern": "^[!-~]+$"},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                media_type: {"schema": _body(path, media_type)} for media_type in FORMATS[path] if media_type
            },
        },
        "responses": _otlp_responses(path) if otlp else _native_responses(),
    }


def _body(path: str, media_type: str) -> dict[str, Any]:
    """What a body of this media type holds."""
    one = {"$ref": _REF.format(name="EventIn")}
    if path in _OTLP:
        message, field = _OTLP[path]
        if media_type == PROTOBUF:
            return _BINARY | {"description": f"opentelemetry.proto.collector: {message}"}
        items = {"type": "array", "items": {"type": "object"}}
        return {"type": "object", "properties": {field: items}, "description": f"{message} as JSON"}
    if media_type in _BODIES:
        return _BODIES[media_type]
    if FORMATS[path][media_type] is FORMATS[path]["application/x-ndjson"]:
        return {"type": "string", "description": "One event a line.", "contentMediaType": "application/json"}
    return {"oneOf": [one, {"type": "array", "items": one}]}


_BODIES: Final[Mapping[str, dict[str, Any]]] = {
    "application/cloudevents+json": {"$ref": _REF.format(name="CloudEvent")},
    "application/cloudevents-batch+json": {
        "type": "array",
        "items": {"$ref": _REF.format(name="CloudEvent")},
    },
    "application/vnd.apache.arrow.stream": _BINARY
    | {"description": "An Arrow IPC stream; its columns are fields of an event."},
}


def _native_responses() -> dict[str, Any]:
    result = {answers.JSON: {"schema": {"$ref": _REF.format(name="Result")}}}
    return {
        "200": {"description": "Every event is in the log, durably, or was there before.", "content": result},
        "207": {
            "description": "Some events were refused; `verdicts` says which, and why.",
            "content": result,
        },
        **{str(status): _refusal(status) for status in _REFUSALS},
    }


def _otlp_responses(path: str) -> dict[str, Any]:
    response = _OTLP[path][0].replace("Request", "Response")
    taken = {
        PROTOBUF: {"schema": _BINARY},
        answers.JSON: {
            "schema": {
                "type": "object",
                "description": response,
                "properties": {"partialSuccess": {"type": "object"}},
            }
        },
    }
    return {
        "200": {"description": "Taken, but for what `partialSuccess` counts as rejected.", "content": taken},
        **{str(status): _refusal(status, otlp=True) for status in _REFUSALS},
    }


def _refusal(status: int, otlp: bool = False) -> dict[str, Any]:
    """The answer of a status, with the headers that come with it."""
    kinds = {name: kind for name, kind in PROBLEMS.items() if kind.status == status}
    content: dict[str, Any] = {answers.PROBLEM: {"schema": {"$ref": _REF.format(name="Problem")}}}
    if otlp:
        content[answers.JSON] = {"schema": {"$ref": _REF.format(name="Status")}}
        content[PROTOBUF] = {"schema": _BINARY}
    found: dict[str, Any] = {
        "description": "; ".join(f"{kind.title}: {kind.remedy}" for kind in kinds.values()),
        "content": content,
    }
    header = _HEADERS.get(status)
    if header is not None:
        name, schema = header
        found["headers"] = {name: {"schema": schema, "required": True}}
    return found


_SECONDS: Final = {"type": "integer", "minimum": 1}
_HEADERS: Final[Mapping[int, tuple[str, dict[str, Any]]]] = {
    401: ("WWW-Authenticate", {"type": "string"}),
    429: ("Retry-After", _SECONDS),
    503: ("Retry-After", _SECONDS),
}

_GETS: Final[Mapping[str, tuple[str, str]]] = {
    "/healthz": ("200 while it is alive and can recover, else 503 with the reason.", "text/plain"),
    "/readyz": ("200 while it does its work, else 503 with the reason.", "text/plain"),
    "/metrics": ("Prometheus metrics.", "text/plain"),
    PATH: ("This document.", answers.JSON),
}


def _get(path: str) -> dict[str, Any]:
    summary, media_type = _GETS[path]
    schema = {"type": "object"} if media_type == answers.JSON else {"type": "string"}
    found = {"description": summary, "content": {media_type: {"schema": schema}}}
    responses = {"200": found} | ({"503": found} if path.endswith("z") else {})
    return {
        "operationId": "get" + path.replace("/", "-").replace(".", "-"),
        "summary": summary,
        "responses": responses,
    }


@cache
def text() -> bytes:
    """The document as JSON."""
    return msgspec.json.format(msgspec.json.encode(document()), indent=2) + b"\n"


if __name__ == "__main__":
    sys.stdout.write(text().decode())
