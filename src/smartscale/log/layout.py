"""Over how many partitions of ``events`` the ids are spread: agreed through the log, so that ``events`` may grow.

An id belongs to the partition hash % count, so more partitions move ids, and an event and its repeat might meet different
filters. Hence the count is not how many partitions there are, but what the last record of the topic ``layout`` says, and one
transaction writes that record together with a mark into every partition (``records.events.Growth``): before the mark the old
count holds, behind it the new one. Who does what about it is in ``docs/decisions/0006-growing-events.md``.
"""

from __future__ import annotations

import msgspec

from smartscale.log.port import Log, Message, Reader, TopicPartition
from smartscale.records import schema, topics
from smartscale.records.events import Growth

_AT = TopicPartition(topics.LAYOUT, 0)
_KEY = topics.EVENTS.encode()
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Growth).decode


class Spread:
    """The agreed count, kept up to date by reading on."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._reader: Reader | None = None
        self._count = 0

    def partitions(self) -> int:
        """The count now; 0 if none has been agreed on yet. Raises ``RetryableError``."""
        if self._reader is None:
            self._reader = self._log.reader()
            self._reader.assign({_AT: self._log.bounds([_AT])[_AT].begin})
            while _AT not in self._read(1.0):
                pass
        self._read(0.0)
        return self._count

    def _read(self, timeout_s: float) -> frozenset[TopicPartition]:
        assert self._reader is not None
        polled = self._reader.poll(timeout_s)
        for record in polled.records:
            self._count = _decode(record.value).partitions
        return polled.ends

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


def agree(log: Log) -> Growth | None:
    """Agree on as many partitions as ``events`` has now, if that is not so yet; what was agreed on just now, if anything.

    May be called again after a crash at any point, and by several processes at once: the transactions of one slot follow
    one another. Raises ``RetryableError``."""
    spread = Spread(log)
    worker = log.worker("layout", [topics.LAYOUT], "0")
    try:
        before, now = spread.partitions(), log.topics()[topics.EVENTS].partitions
        if before == now:
            return None
        growth = Growth(before, now)
        value, headers = _encode(growth), schema.headers(schema.GROWTH, n=0)
        with worker.transaction() as transaction:
            if before:
                transaction.publish(Message(topics.EVENTS, p, value, headers=headers) for p in range(now))
            transaction.publish([Message(topics.LAYOUT, 0, value, key=_KEY, headers=headers)])
        return growth
    finally:
        worker.close()
        spread.close()
