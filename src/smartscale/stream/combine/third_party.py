"""Single JSON events that others write to a topic of their own, read by the same rules as the edge's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smartscale.clock import MICROS
from smartscale.config import Settings
from smartscale.log.partitioner import event_hashes
from smartscale.records import dead_letters, events_json
from smartscale.records.topics import DEFAULT_TENANT
from smartscale.stream.combine.core import Decoded, JsonDecoder

_AT_ONCE = 1000
"""Values decoded together. One that is no good event sends these, not all, the slow way of about 5 us each."""


def decoder(settings: Settings) -> JsonDecoder:
    """Decodes the values of records: exactly one JSON object each."""
    hash_user = events_json.user_hasher(settings.ingest.user_key.encode())

    def decode(values: Sequence[bytes], now_us: int) -> Decoded:
        limits = events_json.Limits(
            now_us, now_us + round(settings.time.max_future_s * MICROS), settings.ingest.max_event_bytes
        )
        places: list[int] = []
        refused: list[tuple[int, str, str]] = []
        good: list[events_json.EventIn] = []
        times: list[events_json.Times] = []
        for first in range(0, len(values), _AT_ONCE):
            part = values[first : first + _AT_ONCE]
            found = _all_good(part, limits)
            if found is not None:
                places += range(first, first + len(part))
                good += found.events
                times.append(found.times_us)
                continue
            for place, value in enumerate(part, first):
                verdict = _one(value, limits)
                if isinstance(verdict, events_json.Decoded):
                    places.append(place)
                    good += verdict.events
                    times.append(verdict.times_us)
                else:
                    refused.append((place, *verdict))
        ids = event_hashes(DEFAULT_TENANT, [event.service for event in good], [event.id for event in good])
        batch = events_json.to_batch(
            good, np.concatenate([_NO_TIMES, *times]), ids, hash_user, DEFAULT_TENANT
        )
        return Decoded(batch, places, refused)

    return decode


_NO_TIMES = np.zeros(0, np.int64)


def _all_good(values: Sequence[bytes], limits: events_json.Limits) -> events_json.Decoded | None:
    """All values as lines of one body, or None if they must be looked at one by one. Each is a line of its own, because
    none holds a line break and there are as many events as lines, of which no line gives more than one."""
    body = b"\n".join(values)
    if len(values) == 1 or body.count(b"\n") != len(values) - 1:
        return None
    try:
        found = events_json.decode(body, limits, lines=True)
    except events_json.MalformedBody:
        return None
    return found if len(found.events) == len(values) else None


def _one(value: bytes, limits: events_json.Limits) -> events_json.Decoded | tuple[str, str]:
    """The event of one value, or reason and detail."""
    try:
        found = events_json.decode(value, limits)
    except events_json.MalformedBody as error:
        return dead_letters.MALFORMED, str(error)
    if found.refused:
        return found.refused[0].code, found.refused[0].reason
    if found.count != 1:
        return dead_letters.MALFORMED, f"a record must hold one event, not {found.count}"
    return found
