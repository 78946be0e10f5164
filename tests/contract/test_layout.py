"""Over how many partitions ids are spread is agreed on through the log, together with the marks, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from smartscale.config import Settings, Topics
from smartscale.errors import LogUnavailable
from smartscale.log import layout
from smartscale.log.layout import Spread
from smartscale.log.port import Log, TopicPartition, read_all
from smartscale.log.sqlite import SqliteLog
from smartscale.log.topics import specs
from smartscale.records import schema, topics
from smartscale.records.events import Growth
from smartscale.testing.memory_log import MemoryLog

SETTINGS = Settings(topics=Topics(events=2, partials=1))


@pytest.fixture(params=["memory", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    """A log with its topics. (On Kafka the end-to-end run grows ``events``.)"""
    made: Log = MemoryLog() if request.param == "memory" else SqliteLog(str(tmp_path / "log.db"))
    made.create(specs(SETTINGS))
    with closing(made):
        yield made


def marks(log: Log) -> list[tuple[int, str]]:
    return [
        (p, record.headers[schema.SCHEMA].decode())
        for p in range(log.topics()[topics.EVENTS].partitions)
        for record in read_all(log, TopicPartition(topics.EVENTS, p))
    ]


def test_the_first_agreement_sets_no_marks(log: Log) -> None:
    """Nothing has been spread otherwise before."""
    with closing(Spread(log)) as spread:
        assert spread.partitions() == 0
        assert layout.agree(log) == Growth(0, 2)
        assert layout.agree(log) is None
        assert spread.partitions() == 2
    assert marks(log) == []


def test_more_partitions_are_used_only_once_every_partition_has_its_mark(log: Log) -> None:
    """Those who added them may have died before that; whoever comes next does it."""
    layout.agree(log)
    log.create(specs(SETTINGS, at_least=3))
    with closing(Spread(log)) as spread:
        assert spread.partitions() == 2
        assert layout.agree(log) == Growth(2, 3)
        assert spread.partitions() == 3
    assert marks(log) == [(p, schema.GROWTH) for p in range(3)]
    assert layout.agree(log) is None


def test_an_agreement_that_fails_leaves_neither_marks_nor_a_new_count() -> None:
    """It is one transaction."""
    log = MemoryLog()
    log.create(specs(SETTINGS))
    layout.agree(log)
    log.create(specs(SETTINGS, at_least=3))
    log.fail_next_commit(LogUnavailable("simulated"))
    with pytest.raises(LogUnavailable):
        layout.agree(log)
    with closing(Spread(log)) as spread:
        assert spread.partitions() == 2
    assert marks(log) == []
