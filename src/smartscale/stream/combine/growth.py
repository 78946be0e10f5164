"""The ids that came to a partition of ``events`` before it grew, read from the log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import msgspec
import numpy as np
import numpy.typing as npt

from smartscale.clock import monotonic_s
from smartscale.errors import LogUnavailable, SchemaError
from smartscale.log.port import Log, Record, TopicPartition
from smartscale.records import events, schema
from smartscale.stream.combine.core import words_of

Ids = tuple[npt.NDArray[np.uint64], int]
"""Identities as words, shape (n, 2), and the wall-clock time in ms at which they were written."""

_PATIENCE_S = 20.0
"""Real. All marks are written in one transaction; Kafka shows them partition by partition, within milliseconds unless a
broker is away."""


def ids_before(log: Log, at: TopicPartition, growth: events.Growth, since_ms: int) -> Iterator[Ids]:
    """What was written to ``at`` from ``since_ms`` (wall-clock) up to the growth's mark and belonged there at that time.

    An event that did not (an edge wrote it in ignorance of an earlier growth) was moved on, and counts where it came to.
    Raises ``LogUnavailable`` if the mark does not come. Costs a read of the identities of that span."""
    kept: list[Ids] = []
    for record in _up_to_mark(log, at, growth, since_ms):
        if (mark := _mark(record)) is not None:
            for words, written_ms in kept:
                yield words[words[:, 0] % np.uint64(mark.before) == at.partition], written_ms
            kept = []
            continue
        try:
            if schema.schema_of(record.headers) == schema.EVENTS:
                kept.append(
                    (
                        words_of(events.decode(record.value, ("identity",)).column("identity"))[1],
                        record.timestamp_ms,
                    )
                )
        except SchemaError:
            continue  # it was set aside where it was counted


def _mark(record: Record) -> events.Growth | None:
    if record.headers.get(schema.SCHEMA) != schema.GROWTH.encode():
        return None
    return msgspec.json.decode(record.value, type=events.Growth)


def _up_to_mark(log: Log, at: TopicPartition, growth: events.Growth, since_ms: int) -> Iterator[Record]:
    deadline_s = monotonic_s() + _PATIENCE_S
    with closing(log.reader()) as reader:
        reader.assign({at: log.offset_at(at, since_ms)})
        while True:
            records = reader.poll(0.5).records
            for record in records:
                yield record
                if _mark(record) == growth:
                    return
            if records:
                deadline_s = monotonic_s() + _PATIENCE_S
            elif monotonic_s() > deadline_s:
                raise LogUnavailable(f"{at} has no mark yet of its growth to {growth.partitions} partitions")
