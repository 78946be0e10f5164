"""The schema header that every record carries.

>>> parse(headers(EVENTS))
('events', 1)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from smartscale.errors import SchemaError

SCHEMA: Final = "schema"
"""Header: ``NAME/VERSION``."""

EVENTS: Final = "events/1"
HEARTBEAT: Final = "heartbeat/1"
GROWTH: Final = "growth/1"
PARTIALS: Final = "partials/2"
METRIC: Final = "metric/2"
PROGRESS: Final = "progress/1"
FORECAST: Final = "forecast/1"
INCIDENT: Final = "incident/1"
FEEDBACK: Final = "feedback/1"
MUTE: Final = "mute/1"
UNMUTE: Final = "unmute/1"
NOTICE: Final = "notice/1"
DECISION: Final = "decision/1"
OWNER: Final = "owner/1"
DEAD_LETTER: Final = "dead-letter/1"
LIVE_KEY: Final = "live-key/2"
ANCHOR: Final = "anchor/1"
SNAPSHOT: Final = "snapshot/1"
PAST: Final = "past/1"

BEFORE: Final = {"partials/1": PARTIALS, "metric/1": METRIC, "live-key/1": LIVE_KEY}
"""The version before, where there is one, and what it is read as."""

READABLE: Final = frozenset(
    {
        EVENTS, HEARTBEAT, GROWTH, PARTIALS, METRIC, PROGRESS, FORECAST, INCIDENT, FEEDBACK, MUTE, UNMUTE,
        NOTICE, DECISION, OWNER, DEAD_LETTER, LIVE_KEY, ANCHOR, SNAPSHOT, PAST, *BEFORE,
    }
)  # fmt: skip
"""Every schema this version reads: its own and, where there is one, the version before."""


def headers(schema: str, **more: int | str) -> dict[str, bytes]:
    """Headers of a record of ``schema``; further values are written as text."""
    return {SCHEMA: schema.encode(), **{name: str(value).encode() for name, value in more.items()}}


def schema_of(headers: Mapping[str, bytes]) -> str | None:
    """The record's schema, or None for a record of a third party. Raises ``SchemaError`` if it cannot be read.

    A record of the version before is told as one of this: decoders supply what it lacks.

    >>> schema_of(headers("metric/1"))
    'metric/2'
    """
    found = headers.get(SCHEMA)
    if found is None:
        return None
    schema = found.decode(errors="replace")
    if schema not in READABLE:
        raise SchemaError(
            f"record of schema {schema!r} cannot be read by this version: upgrade this stage first"
        )
    return BEFORE.get(schema, schema)


def known(headers: Mapping[str, bytes]) -> str | None:
    """As ``schema_of``, but None for what cannot be read: for those who only look on."""
    try:
        return schema_of(headers)
    except SchemaError:
        return None


def parse(headers: Mapping[str, bytes]) -> tuple[str, int]:
    """Name and version. Raises ``SchemaError``."""
    name, _, version = headers.get(SCHEMA, b"").decode(errors="replace").partition("/")
    if not version.isdigit():
        raise SchemaError(f"record without a readable schema header: {dict(headers)!r}")
    return name, int(version)


def int_header(headers: Mapping[str, bytes], name: str) -> int:
    """A whole number from a header. Raises ``SchemaError`` if it is missing or no number."""
    try:
        return int(headers[name])
    except (KeyError, ValueError) as error:
        raise SchemaError(f"header {name!r} is missing or no whole number in {dict(headers)!r}") from error
