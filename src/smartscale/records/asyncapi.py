"""The contracts of the topics as an AsyncAPI 3.0 document, made from the records themselves.

``python -m smartscale.records.asyncapi > docs/asyncapi.yaml`` writes it; a test keeps the file true.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import msgspec

import smartscale
from smartscale.clock import Anchor
from smartscale.records import (
    dead_letters,
    decisions,
    events,
    forecasts,
    metrics,
    partials,
    past,
    people,
    schema,
    topics,
)

_ARROW = "application/vnd.apache.arrow.stream"


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of record: its schema header, and its payload as JSON (``payload``) or Arrow (``columns``)."""

    schema: str
    payload: type[msgspec.Struct] | None = None
    columns: object = None
    also: str = ""


_EVENTS = _Kind(schema.EVENTS, columns=events.SCHEMA, also="Headers: n (events in it), ingest_us, process.")
_PARTIALS = _Kind(
    schema.PARTIALS,
    columns=partials.SCHEMA,
    also="The Arrow schema's metadata holds the envelope under `smartscale`.",
)
_GROWTH = _Kind(schema.GROWTH, events.Growth)
_DEAD_LETTER = _Kind(schema.DEAD_LETTER, dead_letters.DeadLetter)
_SAID = [
    _Kind(schema.FEEDBACK, people.Feedback),
    _Kind(schema.MUTE, people.Mute),
    _Kind(schema.UNMUTE, people.Unmute),
]

_TOPICS: dict[str, tuple[str, list[_Kind]]] = {
    topics.EVENTS: (
        "Events in columns, the edge's heartbeats, and a mark where the topic has grown.",
        [_EVENTS, _Kind(schema.HEARTBEAT, events.Heartbeat), _GROWTH],
    ),
    topics.PARTIALS: (
        "Aggregates by key and pane; one record to every partition from each combine transaction.",
        [_PARTIALS],
    ),
    topics.METRICS: (
        "Results of windows, a record a row; each transaction ends with its progress. And what people say of incidents and "
        "know of the past, so that ml reads it in order with the rest; other readers pass over it.",
        [
            _Kind(schema.METRIC, metrics.MetricRow),
            _Kind(schema.PROGRESS, metrics.Progress),
            _Kind(schema.PAST, past.PastPart),
            *_SAID,
        ],
    ),
    topics.FORECASTS: (
        "Quantile forecasts, one record a series and step.",
        [_Kind(schema.FORECAST, forecasts.Forecast)],
    ),
    topics.INCIDENTS: (
        "Incidents and notices; the latest record of an id is its state. And what people said, once ml has taken it in.",
        [_Kind(schema.INCIDENT, forecasts.Incident), _Kind(schema.NOTICE, people.Notice), *_SAID],
    ),
    topics.DECISIONS: (
        "Scaling decisions, stored before they are carried out, and the controllers' claims.",
        [_Kind(schema.DECISION, decisions.Decision), _Kind(schema.OWNER, decisions.Owner)],
    ),
    topics.DEAD_LETTERS: ("What could not be counted where it belonged, with the reason.", [_DEAD_LETTER]),
    topics.LIVE_KEYS: (
        "Compacted: keys that get windows of count zero.",
        [_Kind(schema.LIVE_KEY, metrics.LiveKey)],
    ),
    topics.LAYOUT: (
        "Compacted: over how many partitions of `events` the edges spread ids; the record of key `events` counts.",
        [_GROWTH],
    ),
    topics.CLOCK: ("The anchor of a scaled clock: the first record counts.", [_Kind(schema.ANCHOR, Anchor)]),
}


def document() -> dict[str, Any]:
    """The document as plain values. Topics that only one stage reads back (``ml-state``, ``ledger``) are private to it."""
    kinds = [kind for _, held in _TOPICS.values() for kind in held]
    payloads = [kind.payload for kind in kinds if kind.payload is not None] + [partials.Envelope]
    _, components = msgspec.json.schema_components(payloads, ref_template="#/components/schemas/{name}")
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "SmartScale's topics",
            "version": smartscale.__version__,
            "description": "Every record carries the header `schema` = NAME/VERSION; a stage reads its own version and the "
            "one before. Times ending in _us are microseconds since the Unix epoch, UTC.",
        },
        "defaultContentType": "application/json",
        "channels": {
            topic: {
                "address": topic,
                "description": text,
                "messages": {_name(kind): {"$ref": f"#/components/messages/{_name(kind)}"} for kind in held},
            }
            for topic, (text, held) in _TOPICS.items()
        },
        "components": {
            "messages": {_name(kind): _message(kind) for kind in kinds},
            "schemas": dict(sorted(components.items())),
        },
    }


def _name(kind: _Kind) -> str:
    return kind.schema.partition("/")[0]


def _message(kind: _Kind) -> dict[str, Any]:
    headers = {
        "type": "object",
        "required": [schema.SCHEMA],
        "properties": {schema.SCHEMA: {"type": "string", "const": kind.schema}},
    }
    message: dict[str, Any] = {"name": kind.schema, "headers": headers}
    if kind.payload is not None:
        return message | {"payload": {"$ref": f"#/components/schemas/{kind.payload.__name__}"}}
    columns = "\n".join(f"- {line}" for line in str(kind.columns).splitlines())
    description = f"One Arrow IPC stream with one record batch.\n\n{columns}\n\n{kind.also}"
    return message | {
        "contentType": _ARROW,
        "description": description,
        "payload": {"type": "string", "format": "binary"},
    }


def text() -> str:
    """The document as YAML."""
    return msgspec.yaml.encode(document()).decode()


if __name__ == "__main__":
    sys.stdout.write(text())
