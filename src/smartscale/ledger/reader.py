"""Keeps the books by reading the log, and stores them in it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from smartscale.config import Settings
from smartscale.errors import OffsetOutOfRange
from smartscale.ledger.books import Balance, Books, bases_of
from smartscale.log.port import Log, Message, Reader, Record, TopicPartition, TopicSpec, append_all, read_all
from smartscale.records import schema, topics
from smartscale.stream.windows import Families

FORMAT = 3
"""Of ``Books``: raise it with every change, and books kept in an older format are kept anew from the log."""

_KEY = b"books"


class LedgerReader:
    """The balance of a log, brought up to date by each ``update``.

    Starts from the books stored in the topic ``ledger``, else from the beginning of every topic. Raises
    ``OffsetOutOfRange`` if retention has removed what has not been booked: the books can then not be closed, and nobody
    should believe they were."""

    def __init__(self, log: Log, settings: Settings) -> None:
        self._log = log
        self._accept_loss = settings.topics.accept_loss
        self._inputs = [topics.EVENTS, *settings.combine.json_topics]
        fresh = Books(log.topics()[topics.PARTIALS].partitions, bases_of(Families(settings.windows)))
        self._books = _stored(log, fresh) or fresh
        self._reader: Reader = log.reader()

    def update(self) -> Balance:
        """Read every topic to its present end, downstream first, and balance."""
        take = {
            topics.METRICS: self._books.take_metric,
            topics.DEAD_LETTERS: self._books.take_dead_letter,
            topics.PARTIALS: self._books.take_partials,
            **dict.fromkeys(self._inputs, self._books.take_input),
        }
        known = self._log.topics()
        if self._accept_loss:
            self._pass_over(known)
        for topic, book in take.items():
            if topic not in known:
                continue
            waiting = {TopicPartition(topic, p) for p in range(known[topic].partitions)}
            self._reader.assign({at: self._next(at) for at in waiting})
            while waiting:
                polled = self._reader.poll(1.0)
                for record in polled.records:
                    book(record)
                    self._books.next[str(record.at)] = record.offset + 1
                waiting -= polled.ends
        return self._books.balance()

    def _pass_over(self, known: Mapping[str, TopicSpec]) -> None:
        """Inputs of which retention removed more than was booked: before anything is read that could refer to it."""
        inputs = {
            TopicPartition(topic, p): self._books.next.get(f"{topic}/{p}", 0)
            for topic in self._inputs
            if topic in known
            for p in range(known[topic].partitions)
        }
        for at, bounds in self._log.bounds(inputs).items():
            if inputs[at] < bounds.begin:
                self._books.skip(str(at), bounds.begin)

    def _next(self, at: TopicPartition) -> int:
        if str(at) in self._books.next:
            return self._books.next[str(at)]
        begin = self._log.bounds([at])[at].begin
        if begin > 0:
            raise OffsetOutOfRange(
                f"{at} begins at offset {begin}: retention has removed records that were never booked; start the ledger "
                "with the pipeline, or raise topics.retention_bytes; with --accept-loss it goes on without them"
            )
        return begin

    def store(self) -> None:
        """Write the books to the log, so that the next reader goes on from here."""
        value = msgspec.msgpack.encode(self._books)
        headers = schema.headers(schema.SNAPSHOT, format=FORMAT)
        message = Message(topics.LEDGER, 0, value, key=_KEY, headers=headers)
        append_all(self._log, [message])

    def close(self) -> None:
        self._reader.close()


def _stored(log: Log, fresh: Books) -> Books | None:
    """The newest books in the log; None if there are none of this format, these partitions and these base windows."""
    latest: Record | None = None
    for record in read_all(log, TopicPartition(topics.LEDGER, 0)):
        latest = record
    if latest is None or latest.headers.get("format") != str(FORMAT).encode():
        return None
    books = msgspec.msgpack.decode(latest.value, type=Books)
    return books if (books.copies, books.bases) == (fresh.copies, fresh.bases) else None
