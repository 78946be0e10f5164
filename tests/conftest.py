"""What the tests share: a real Apache Kafka, started once per session and only if a test asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from smartscale.testing.kafka_broker import KafkaBroker, KafkaCluster


@pytest.fixture(scope="session")
def kafka_url() -> Iterator[str]:
    """The address of a Kafka broker that all tests share: each test uses topics and groups of its own.

    ``SMARTSCALE_TEST_KAFKA=HOST:PORT`` uses a broker that runs already."""
    running = os.environ.get("SMARTSCALE_TEST_KAFKA")
    if running:
        yield f"kafka://{running.removeprefix('kafka://')}"
        return
    with KafkaBroker() as broker:
        yield broker.url


@pytest.fixture
def kafka_broker() -> Iterator[KafkaBroker]:
    """A Kafka broker of the test's own, to stop, kill, pause and restart."""
    with KafkaBroker() as broker:
        yield broker


@pytest.fixture
def kafka_cluster() -> Iterator[KafkaCluster]:
    """Three Kafka brokers of the test's own."""
    with KafkaCluster() as cluster:
        yield cluster
