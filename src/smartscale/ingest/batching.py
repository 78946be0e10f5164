"""Events of many requests become records: sorted by partition, cut by number and size, encoded as columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from smartscale.ingest.identities import Identities, Places
from smartscale.log.port import Message
from smartscale.records import events, schema, topics
from smartscale.records.events_json import EventIn, to_batch


@dataclass(frozen=True, slots=True)
class Parcel:
    """The new events of one request."""

    events: Sequence[EventIn]
    times_us: npt.NDArray[np.int64]
    identities: Identities


@dataclass(frozen=True, slots=True)
class Packed:
    """A record to be written, and which parcels (by place) have events in it."""

    message: Message
    parcels: frozenset[int]


@dataclass(frozen=True, slots=True)
class Packing:
    """How records are made; the same for all records of a process."""

    process: str
    hash_user: Callable[[str], int]
    record_events: int
    compression: Literal["lz4", "zstd"] | None
    max_record_bytes: int = events.MAX_RECORD_BYTES


def pack(
    parcels: Sequence[Parcel], packing: Packing, partitions: int, turn: int, now_us: int
) -> tuple[list[Packed], int]:
    """Records that hold every event of the parcels once, and the turn to pass next time.

    An event with an identity goes where its repeats go; the others go in runs of ``record_events`` to one partition
    after the other, ``turn`` first. A record has at most ``record_events`` events and ``max_record_bytes`` bytes (one
    event alone always fits). Runs in time linear in the events.
    """
    flat = _Flat(parcels)
    target, runs = _targets(flat.identities, packing.record_events, partitions, turn)
    order = np.argsort(target, kind="stable")
    ends = np.searchsorted(target[order], np.arange(partitions + 1))
    packed = [
        record
        for partition in range(partitions)
        for record in _records(flat, order[ends[partition] : ends[partition + 1]], partition, packing, now_us)
    ]
    return packed, (turn + runs) % partitions


class _Flat:
    """Parcels one after the other."""

    def __init__(self, parcels: Sequence[Parcel]) -> None:
        self.events = [event for parcel in parcels for event in parcel.events]
        self.identities = Identities.joined([parcel.identities for parcel in parcels])
        self.times_us = np.concatenate([parcel.times_us for parcel in parcels])
        self.owners = np.repeat(np.arange(len(parcels)), [len(parcel.events) for parcel in parcels])


def _targets(identities: Identities, run: int, partitions: int, turn: int) -> tuple[Places, int]:
    """Each event's partition, and how many runs of events without identity there are.

    The same formula as ``log.partitioner.event_partition``, for all at once."""
    target = (identities.words[:, 0] % np.uint64(partitions)).astype(np.int64)
    without = np.flatnonzero(~identities.known)
    target[without] = (turn + np.arange(len(without)) // run) % partitions
    return target, -(-len(without) // run)


def _records(flat: _Flat, chosen: Places, partition: int, packing: Packing, now_us: int) -> Iterator[Packed]:
    for start in range(0, len(chosen), packing.record_events):
        yield from _fitting(flat, chosen[start : start + packing.record_events], partition, packing, now_us)


def _fitting(flat: _Flat, chosen: Places, partition: int, packing: Packing, now_us: int) -> Iterator[Packed]:
    """One record, or several if it would be too long."""
    places = chosen.tolist()
    batch = to_batch(
        [flat.events[i] for i in places],
        flat.times_us[chosen],
        flat.identities.take(chosen).column(),
        packing.hash_user,
    )
    value = events.encode(batch, packing.compression)
    if len(value) > packing.max_record_bytes and len(chosen) > 1:
        for part in np.array_split(chosen, 1 + len(value) // packing.max_record_bytes):
            yield from _fitting(flat, part, partition, packing, now_us)
        return
    headers = schema.headers(schema.EVENTS, n=len(chosen), ingest_us=now_us, process=packing.process)
    message = Message(topics.EVENTS, partition, value, headers=headers)
    yield Packed(message, frozenset(np.unique(flat.owners[chosen]).tolist()))
