"""Single JSON events that others write to a topic of their own, read by the same rules as the edge's."""

from __future__ import annotations

from smartscale.clock import MICROS
from smartscale.config import Settings
from smartscale.log.partitioner import event_hash
from smartscale.records import dead_letters, events_json
from smartscale.records.topics import DEFAULT_TENANT
from smartscale.stream.combine.core import Decoded, JsonDecoder


def decoder(settings: Settings) -> JsonDecoder:
    """Decodes the value of one record: exactly one JSON object."""
    hash_user = events_json.user_hasher(settings.ingest.user_key.encode())

    def decode(value: bytes, now_us: int) -> Decoded:
        limits = events_json.Limits(
            now_us, now_us + round(settings.time.max_future_s * MICROS), settings.ingest.max_event_bytes
        )
        try:
            found = events_json.decode(value, limits)
        except events_json.MalformedBody as error:
            return Decoded(None, dead_letters.MALFORMED, str(error))
        if found.refused:
            return Decoded(None, found.refused[0].code, found.refused[0].reason)
        if found.count != 1:
            return Decoded(None, dead_letters.MALFORMED, f"a record must hold one event, not {found.count}")
        event = found.events[0]
        identity = event_hash(DEFAULT_TENANT, event.service, event.id) if event.id is not None else None
        return Decoded(
            events_json.to_batch(found.events, found.times_us, [identity], hash_user, DEFAULT_TENANT)
        )

    return decode
