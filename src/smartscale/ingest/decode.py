"""From a request's headers and body to events with their identities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from smartscale.ingest.identities import Identities
from smartscale.log.partitioner import event_hashes
from smartscale.records import events_json
from smartscale.records.events_json import Decoded, Limits, MalformedBody

_FORMS: Final[Mapping[str, bool | None]] = {
    "": None,
    "application/json": None,
    "text/json": None,
    "application/x-ndjson": True,
    "application/ndjson": True,
    "application/jsonl": True,
    "application/x-jsonlines": True,
}
"""Media types that are taken, and whether each means one object a line (None: found out from the body)."""

MAX_KEY: Final = 200
"""Characters in an ``Idempotency-Key``; chosen because a UUID has 36."""


class Unsupported(ValueError):
    """The body's media type or encoding is not one the edge reads; the message says which are."""


def decode(
    headers: Mapping[str, str], body: bytes, limits: Limits, tenant: str = "default"
) -> tuple[Decoded, Identities]:
    """The events of a request and the identities of the good ones. Raises ``Unsupported``, ``MalformedBody``."""
    decoded = events_json.decode(body, limits, _lines(headers))
    key = headers.get("idempotency-key")
    if key is not None:
        if not 0 < len(key) <= MAX_KEY or not key.isprintable():
            raise MalformedBody(f"the Idempotency-Key must be 1 to {MAX_KEY} printable characters")
        for index, event in zip(decoded.indexes, decoded.events, strict=True):
            if event.id is None:
                event.id = f"{key}:{index}"
    services = [event.service for event in decoded.events]
    hashes = event_hashes(tenant, services, [event.id for event in decoded.events])
    return decoded, Identities.of(hashes)


def _lines(headers: Mapping[str, str]) -> bool | None:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise Unsupported(f"content-encoding {encoding!r} is not read here; send the body as it is")
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in _FORMS:
        known = ", ".join(name for name in _FORMS if name)
        raise Unsupported(f"content-type {media_type!r} is not read here; send one of: {known}")
    return _FORMS[media_type]
