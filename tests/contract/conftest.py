"""The adapters of each port under contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from smartscale.log.port import Log, Message, TopicPartition
from smartscale.log.sqlite import SqliteLog
from smartscale.testing.log_harness import LogHarness
from smartscale.testing.memory_log import MemoryLog


@pytest.fixture(params=["memory", "sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LogHarness]:
    """The event log, by each adapter."""
    with ExitStack() as closing:
        log, cut = _ADAPTERS[request.param](request, tmp_path)
        closing.callback(log.close)
        yield LogHarness(log, cut, closing)


Cut = Callable[[TopicPartition], int]


def _memory(request: pytest.FixtureRequest, folder: Path) -> tuple[Log, Cut]:
    log = MemoryLog()
    return log, _fill(log)


def _sqlite(request: pytest.FixtureRequest, folder: Path) -> tuple[Log, Cut]:
    log = SqliteLog(str(folder / "log.db"))
    return log, _fill(log)


def _fill(log: Log) -> Cut:
    def cut(at: TopicPartition) -> int:
        publisher = log.publisher()
        publisher.append([Message(at.topic, at.partition, b"x" * 200) for _ in range(10)])
        publisher.close()
        return log.bounds([at])[at].begin

    return cut


def _kafka(request: pytest.FixtureRequest, folder: Path) -> tuple[Log, Cut]:
    from confluent_kafka import TopicPartition as KafkaPartition
    from confluent_kafka.admin import AdminClient

    from smartscale.log.kafka import KafkaLog

    servers = request.getfixturevalue("kafka_url").removeprefix("kafka://")

    def cut(at: TopicPartition) -> int:
        admin = AdminClient({"bootstrap.servers": servers})
        for answer in admin.delete_records([KafkaPartition(at.topic, at.partition, 5)]).values():
            answer.result(30)
        return 5

    return KafkaLog(servers), cut


_ADAPTERS = {"memory": _memory, "sqlite": _sqlite, "kafka": _kafka}
