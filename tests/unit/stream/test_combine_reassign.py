"""What combine does when its share of the partitions changes."""

from __future__ import annotations

import threading

import pytest

from smartscale.clock import ManualClock
from smartscale.config import Settings
from smartscale.log.port import Poll, Position, Record, TopicPartition, Transaction
from smartscale.log.topics import specs
from smartscale.records import schema, topics
from smartscale.stage import Context
from smartscale.stream.combine.core import Combiner
from smartscale.stream.combine.service import reassign
from smartscale.stream.combine.third_party import decoder
from smartscale.telemetry.health import Health
from smartscale.testing.memory_log import MemoryLog
from smartscale.testing.pipeline import Sent, events_value

OWNED, WON = TopicPartition(topics.EVENTS, 0), TopicPartition(topics.EVENTS, 1)


class Rewound:
    """A worker that only notes whether it was rewound."""

    rewound = False

    def rewind(self) -> None:
        self.rewound = True

    def seek(self, at: TopicPartition, offset: int) -> None:
        """Reading goes on from there."""

    def poll(self, timeout_s: float, max_bytes: int = 0) -> Poll:
        raise NotImplementedError

    def pause(self, partitions: object) -> None:
        raise NotImplementedError

    def resume(self, partitions: object) -> None:
        raise NotImplementedError

    def transaction(self) -> Transaction:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


@pytest.fixture
def context() -> Context:
    log = MemoryLog()
    log.create(specs(Settings()))
    return Context(log, ManualClock(), Settings(), threading.Event(), Health("combine"))


def record_of(at: TopicPartition) -> Record:
    headers = schema.headers(schema.EVENTS, n=1, ingest_us=0)
    return Record(at.topic, at.partition, 7, events_value([Sent("a", 0)]), None, headers, 0)


@pytest.mark.parametrize("kind", ["assigned", "revoked"])
def test_records_that_come_together_with_a_new_assignment_are_read_again(context: Context, kind: str) -> None:
    """Kafka may tell both in one poll. The client's position is past these records, so without a rewind their events
    would be in no partial, though the next transaction's offsets cover them."""
    combiner, worker = Combiner(context.settings, 4, decoder(context.settings)), Rewound()
    combiner.assign(OWNED, Position(7))
    combiner.assign(TopicPartition(topics.EVENTS, 2), None)
    if kind == "assigned":
        polled = Poll(records=[record_of(OWNED)], assigned={WON: None})
    else:
        polled = Poll(records=[record_of(OWNED)], revoked=frozenset({TopicPartition(topics.EVENTS, 2)}))
    reassign(context, worker, combiner, polled)
    assert worker.rewound
    assert not combiner.owned


def test_an_assignment_alone_changes_nothing_for_the_others(context: Context) -> None:
    """Nothing was read, so nothing must be read again."""
    combiner, worker = Combiner(context.settings, 4, decoder(context.settings)), Rewound()
    combiner.assign(OWNED, Position(7))
    reassign(context, worker, combiner, Poll(assigned={WON: None}))
    assert not worker.rewound
    assert combiner.owned == {OWNED, WON}
