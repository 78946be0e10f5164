"""How many single JSON events a second combine takes from a third party's topic on Kafka, on one core, beside its limits.

Run ``python benchmarks/micro/third_party.py``; prints one JSON object. A real broker on one core holds events of about
109 bytes, one a message. On the other, combine's own loop reads them (``poll``), decodes, aggregates and finishes
transactions as the service does, without writing them. The limits, from the same topic: the client's ``consume`` alone, the
log's ``poll`` alone, and decoding the values to columns alone. CPU seconds of this process with all its threads (the
client's fetch and decompress in threads of their own), after the first poll.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator

import confluent_kafka as ck
import numpy as np

from smartscale.clock import monotonic_s
from smartscale.config import Settings
from smartscale.log import open_log
from smartscale.log.port import Log, Record, TopicPartition, TopicSpec
from smartscale.stream.combine.core import Combiner
from smartscale.stream.combine.third_party import decoder
from smartscale.testing.kafka_broker import KafkaBroker

EVENTS = 1_000_000
SERVICES = 200
TOPIC = "clicks"
AT = TopicPartition(TOPIC, 0)
START_US = 1_767_225_600_000_000
TRANSACTION_BYTES = 16 << 20
AT_ONCE = 10_000
BROKER_CORE, CORE = 0, 1


def values(with_ids: bool) -> Iterator[bytes]:
    """The events, 2,000 a second of event time."""
    random = np.random.default_rng(1)
    time_us = START_US + np.arange(EVENTS) * 500 + random.integers(0, 1_000_000, EVENTS)
    times = np.datetime_as_string(time_us.astype("datetime64[us]"), unit="us").tolist()
    services = random.integers(0, SERVICES, EVENTS).tolist()
    statuses = np.where(random.random(EVENTS) < 0.02, 503, 200).tolist()
    latencies = (random.lognormal(10, 0.7, EVENTS).astype(np.int64) / 1000).tolist()
    for i, (at, service, status, latency) in enumerate(
        zip(times, services, statuses, latencies, strict=True)
    ):
        identity = f'"id":"click-{i:012}",' if with_ids else ""
        yield (
            f'{{{identity}"time":"{at}Z","service":"service-{service}","name":"GET /","status":{status},'
            f'"latency_ms":{latency}}}'
        ).encode()


def fill(broker: str, with_ids: bool) -> None:
    producer = ck.Producer(
        {
            "bootstrap.servers": broker,
            "compression.type": "lz4",
            "linger.ms": 20,
            "queue.buffering.max.messages": 2 * EVENTS,
        }
    )
    for value in values(with_ids):
        producer.produce(TOPIC, value, partition=0)
    if producer.flush(60):
        raise SystemExit("the broker did not take all events")


def polls(log: Log) -> Iterator[list[Record]]:
    """What each poll gives, until all has been read."""
    reader = log.reader()
    reader.assign({AT: 0})
    read = 0
    while read < EVENTS:
        records = list(reader.poll(1.0, TRANSACTION_BYTES).records)
        read += len(records)
        if records:
            yield records
    reader.close()


def timed(steps: Iterator[int]) -> dict[str, float]:
    """Records a CPU second and a wall second, from the first step's end on."""
    next(steps)
    cpu, wall = time.process_time(), monotonic_s()
    n = sum(steps)
    cpu, wall = time.process_time() - cpu, monotonic_s() - wall
    return {"events_per_cpu_s": round(n / cpu), "events_per_wall_s": round(n / wall)}


def combining(log: Log) -> Iterator[int]:
    settings = Settings()
    combiner = Combiner(settings, settings.topics.partials, decoder(settings))
    combiner.assign(AT, None)
    for records in polls(log):
        for first in range(0, len(records), AT_ONCE):
            combiner.take_json(records[first : first + AT_ONCE], START_US + 10**10)
        step = combiner.finish(1)
        yield step.events


def consuming(broker: str) -> Iterator[int]:
    consumer = ck.Consumer(
        {"bootstrap.servers": broker, "group.id": "limit", "queued.max.messages.kbytes": 65536}
    )
    consumer.assign([ck.TopicPartition(TOPIC, 0, 0)])
    read = 0
    while read < EVENTS:
        n = len(consumer.consume(10_000, 0.05))
        read += n
        if n:
            yield n
    consumer.close()


def decoding(log: Log) -> Iterator[int]:
    """Times only what it does itself: the polls are over before it starts."""
    everything = [record.value for records in polls(log) for record in records]
    decode = decoder(Settings())
    for first in range(0, EVENTS, AT_ONCE):
        yield len(decode(everything[first : first + AT_ONCE], START_US + 10**10).places)


def main() -> None:
    result: dict[str, object] = {}
    os.sched_setaffinity(0, {BROKER_CORE})
    for with_ids in (False, True):
        with KafkaBroker() as broker:
            log = open_log(broker.url)
            log.create([TopicSpec(TOPIC, 1)])
            fill(broker.address, with_ids)
            os.sched_setaffinity(0, {CORE})
            for _ in combining(log):  # compiles
                break
            result["with ids" if with_ids else "no ids"] = {
                "combine": timed(combining(log)),
                "limit: consume alone": timed(consuming(broker.address)),
                "limit: poll alone": timed(len(records) for records in polls(log)),
                "limit: decode alone": timed(decoding(log)),
            }
            os.sched_setaffinity(0, {BROKER_CORE})
            log.close()
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
