"""From a request's headers and body to events with their identities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from smartscale.ingest.columns import Columns
from smartscale.ingest.formats import Format
from smartscale.ingest.identities import Identities
from smartscale.log.partitioner import event_hashes
from smartscale.records.events_json import Decoded, Limits, MalformedBody

MAX_KEY: Final = 200
"""Characters in an ``Idempotency-Key``; chosen because a UUID has 36."""


def decode(
    form: Format, headers: Mapping[str, str], body: bytes, limits: Limits, tenant: str = "default"
) -> tuple[Decoded, Identities]:
    """The events of a request and the identities of the good ones. Raises ``MalformedBody``."""
    decoded = form.decode(headers, body, limits)
    if isinstance(decoded, Columns):
        raise MalformedBody("columnar bodies are not read yet")
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
