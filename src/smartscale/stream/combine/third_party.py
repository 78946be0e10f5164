"""Single JSON events that others write to a topic of their own, read by the same rules as the edge's.

Most are plainly good, and one compiled pass takes them all (``records.events_scan``). What it leaves is looked at singly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from smartscale.clock import MICROS
from smartscale.config import Settings
from smartscale.log.partitioner import event_hashes
from smartscale.log.xxh3 import Texts, event_words
from smartscale.records import dead_letters, events_json
from smartscale.records.events_scan import Bodies, Scanned, scan
from smartscale.records.topics import DEFAULT_TENANT
from smartscale.stream.combine.core import Decoded, JsonDecoder

Places = npt.NDArray[np.int64]


def decoder(settings: Settings) -> JsonDecoder:
    """Decodes the values of records: exactly one JSON object each."""
    hash_user = events_json.user_hasher(settings.ingest.user_key.encode())
    future_us, max_bytes = round(settings.time.max_future_s * MICROS), settings.ingest.max_event_bytes

    def decode(values: Sequence[bytes], now_us: int) -> Decoded:
        n = len(values)
        limits = events_json.Limits(now_us, now_us + future_us, max_bytes)
        found = scan(
            Bodies.of(values),
            np.zeros(n, np.bool_),
            np.full(n, limits.now_us),
            np.full(n, limits.latest_us),
            max_bytes,
            max_events=1,
        )
        batch = found.columns(hash_user, _tenants(len(found)), _identities(found))
        places = np.flatnonzero(found.counts == 1)
        left = np.flatnonzero(found.counts != 1)
        if not len(left):
            return Decoded(batch, places, [])
        verdicts = [(place, _one(values[place], limits)) for place in left.tolist()]
        good = [(place, one) for place, one in verdicts if isinstance(one, events_json.Decoded)]
        refused = [(place, *one) for place, one in verdicts if not isinstance(one, events_json.Decoded)]
        if good:
            events = [one.events[0] for _, one in good]
            ids = event_hashes(
                DEFAULT_TENANT, [each.service for each in events], [each.id for each in events]
            )
            times_us = np.concatenate([one.times_us for _, one in good])
            careful = events_json.to_batch(events, times_us, ids, hash_user, DEFAULT_TENANT)
            batch, places = _in_order(batch, places, careful, np.array([place for place, _ in good]))
        return Decoded(batch, places, refused)

    return decode


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


def _tenants(n: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([DEFAULT_TENANT]))


def _identities(found: Scanned) -> pa.FixedSizeBinaryArray:
    """``log.partitioner.event_hash`` of each event that has an id."""
    service, services = found.services()
    at, sizes = found.ids()
    if not (sizes >= 0).any():
        return pa.nulls(len(found), pa.binary(16))
    tenant = np.zeros(len(found), np.int64)
    texts = Texts.of([DEFAULT_TENANT]), tenant, Texts.of(services.to_pylist()), service
    words = pa.py_buffer(np.ascontiguousarray(event_words(*texts, found.data, at, sizes)))
    valid = pa.py_buffer(np.packbits(sizes >= 0, bitorder="little"))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(found), [valid, words])


def _in_order(
    one: pa.RecordBatch, places: Places, other: pa.RecordBatch, others: Places
) -> tuple[pa.RecordBatch, Places]:
    """Both batches as one, by their events' places."""
    both = np.concatenate((places, others))
    order = np.argsort(both)
    table = pa.Table.from_batches([one, other]).unify_dictionaries().combine_chunks()
    return table.to_batches()[0].take(pa.array(order)), both[order]
