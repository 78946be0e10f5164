"""Events of many requests become records: sorted by partition, cut by number and size, encoded as columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from smartscale.ingest.decode import Events
from smartscale.ingest.identities import Identities, Places
from smartscale.log.port import Message
from smartscale.records import events, schema, topics


@dataclass(frozen=True, slots=True)
class Packed:
    """A record to be written, and which of the round's events are in it."""

    message: Message
    chosen: Places


@dataclass(frozen=True, slots=True)
class Packing:
    """How records are made; the same for all records of a process."""

    process: str
    record_events: int
    compression: Literal["lz4", "zstd"] | None
    max_record_bytes: int = events.MAX_RECORD_BYTES


def pack(
    found: Events, packing: Packing, partitions: int, turn: int, now_us: int
) -> tuple[list[Packed], int]:
    """Records that hold every event once, and the turn to pass next time.

    An event with an identity goes where its repeats go; the others go in runs of ``record_events`` to one partition
    after the other, ``turn`` first. A record has at most ``record_events`` events and ``max_record_bytes`` bytes (one
    event alone always fits). Runs in time linear in the events.
    """
    target, runs = _targets(found.identities, packing.record_events, partitions, turn)
    order = np.argsort(target, kind="stable")
    ends = np.searchsorted(target[order], np.arange(partitions + 1))
    packed = [
        record
        for partition in range(partitions)
        for record in _records(
            found, order[ends[partition] : ends[partition + 1]], partition, packing, now_us
        )
    ]
    return packed, (turn + runs) % partitions


def _targets(identities: Identities, run: int, partitions: int, turn: int) -> tuple[Places, int]:
    """Each event's partition, and how many runs of events without identity there are.

    The same formula as ``log.partitioner.event_partition``, for all at once."""
    target = (identities.words[:, 0] % np.uint64(partitions)).astype(np.int64)
    without = np.flatnonzero(~identities.known)
    target[without] = (turn + np.arange(len(without)) // run) % partitions
    return target, -(-len(without) // run)


def _records(
    found: Events, chosen: Places, partition: int, packing: Packing, now_us: int
) -> Iterator[Packed]:
    for start in range(0, len(chosen), packing.record_events):
        yield from _fitting(found, chosen[start : start + packing.record_events], partition, packing, now_us)


def _fitting(
    found: Events, chosen: Places, partition: int, packing: Packing, now_us: int
) -> Iterator[Packed]:
    """One record, or several if it would be too long."""
    value = events.encode(_compact(found.batch.take(pa.array(chosen))), packing.compression)
    if len(value) > packing.max_record_bytes and len(chosen) > 1:
        for part in np.array_split(chosen, 1 + len(value) // packing.max_record_bytes):
            yield from _fitting(found, part, partition, packing, now_us)
        return
    headers = schema.headers(schema.EVENTS, n=len(chosen), ingest_us=now_us, process=packing.process)
    yield Packed(Message(topics.EVENTS, partition, value, headers=headers), chosen)


def _compact(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows with dictionaries that hold only what they use."""
    arrays = [
        _used(column) if pa.types.is_dictionary(column.type) and len(column.dictionary) > 1 else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def _used(column: pa.DictionaryArray) -> pa.DictionaryArray:
    codes = column.indices.to_numpy()
    seen = np.zeros(len(column.dictionary), dtype=np.bool_)
    seen[codes] = True
    if seen.all():
        return column
    renumbered = np.cumsum(seen, dtype=np.int32) - 1
    return pa.DictionaryArray.from_arrays(
        pa.array(renumbered[codes], pa.int32()), column.dictionary.filter(pa.array(seen)), safe=False
    )
