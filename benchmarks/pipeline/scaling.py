"""What more combiners, more keys, a higher event rate and longer windows cost.

Run ``python benchmarks/pipeline/scaling.py [combiners|keys|rate|window …]``; prints one JSON object, from which
``benchmarks/plots.py`` makes the plots of ``docs/performance.md``.

- ``combiners``: one and two processes of ``smartscale combine`` read ``events`` (four partitions, LZ4 records of 5,000
  events, 1,000 keys) as fast as they can, on SQLite and on a real Kafka broker, all on this machine's two cores. Events a
  wall second from where a quarter of each partition has been read to where one is at its end, by the positions that the
  group has committed, and events a CPU second of the combiners alone.
- ``keys``: combine's core alone, events a CPU second for 50 to 500,000 keys (one partition, transactions of 500,000 events).
- ``rate``: CPU seconds of combine's and window's cores for a second of events, at 1,000 to 2 million events a second: 1,000
  services, the default windows, a transaction every quarter of a second, 20 s of event time, without the log.
- ``window``: CPU milliseconds of window's core for a slide of 5 s, for windows of a minute to half an hour, 2,000 services.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from smartscale.clock import MICROS, monotonic_s
from smartscale.config import Settings, Time, Topics, Windows
from smartscale.log import open_log
from smartscale.log.port import Message, Record, TopicPartition
from smartscale.records import events, schema, topics
from smartscale.stream.combine.core import Combiner
from smartscale.stream.combine.third_party import decoder
from smartscale.stream.window.core import Partition
from smartscale.testing.kafka_broker import KafkaBroker
from smartscale.testing.processes import Pipeline

START_US = 1_700_000_040_000_000
"""A multiple of 60 s."""
RECORD_EVENTS = 5_000
EVENTS = 48_000_000
PARTITIONS = 4
KEYS = (50, 500, 5_000, 50_000, 500_000)
RATES = (1_000, 10_000, 100_000, 500_000, 1_000_000, 2_000_000)
WINDOWS_S = (60, 300, 600, 1_200, 1_800)


def record(random: np.random.Generator, n: int, keys: int, start_us: int, span_us: int) -> bytes:
    """A record of ``events``: ``keys`` services of one route each, equally likely."""
    used, codes = np.unique(random.integers(0, keys, n), return_inverse=True)

    def constant(text: str) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([text]))

    columns = {
        "time": pa.array(start_us + np.sort(random.integers(0, span_us, n))),
        "tenant": constant("default"),
        "service": pa.DictionaryArray.from_arrays(
            pa.array(codes.astype(np.int32)), pa.array([f"service-{i}" for i in used])
        ),
        "kind": constant("interaction"),
        "name": constant("GET /"),
        "status": pa.array(np.full(n, 200, np.int16)),
        "error": pa.array(random.random(n) < 0.01),
        "latency": pa.array(random.lognormal(10, 0.7, n).astype(np.int64)),
    }
    arrays = [columns.get(one.name, pa.nulls(n, one.type)) for one in events.SCHEMA]
    return events.encode(pa.RecordBatch.from_arrays(arrays, schema=events.SCHEMA))


def headers(n: int, ingest_us: int) -> dict[str, bytes]:
    return schema.headers(schema.EVENTS, n=n, ingest_us=ingest_us, process="bench")


def fill(url: str) -> None:
    """Write the events: 200 distinct records, again and again."""
    random = np.random.default_rng(1)
    distinct = [record(random, RECORD_EVENTS, 1_000, START_US, 2_000_000) for _ in range(200)]
    log = open_log(url)
    publisher = log.publisher()
    written = 0
    while written < EVENTS:
        messages = [
            Message(
                topics.EVENTS, i % PARTITIONS, value, headers=headers(RECORD_EVENTS, START_US + 2_000_000)
            )
            for i, value in enumerate(distinct)
        ]
        for answer in publisher.append(messages):
            if isinstance(answer, Exception):
                raise answer
        written += RECORD_EVENTS * len(messages)
    publisher.close()
    log.close()


def combiners() -> dict[str, object]:
    result: dict[str, object] = {}
    for kind, count in itertools.product(("sqlite", "kafka"), (1, 2)):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            url = f"sqlite:{folder}/log.db"
            if kind == "kafka":
                url = stack.enter_context(KafkaBroker()).url
            settings = {"topics.events": PARTITIONS, "topics.retention_bytes": 0}
            stages = [f"combine-{i}" for i in range(count)]
            pipeline = Pipeline(url, folder / "run", settings, stages=stages)
            pipeline.prepare()
            fill(url)
            result[f"{kind}, {count}"] = _read_all(pipeline, url)
    return result


def _read_all(pipeline: Pipeline, url: str) -> dict[str, float]:
    """Start the stages and watch the positions of their group until all has been read."""
    log = open_log(url)
    at = [TopicPartition(topics.EVENTS, p) for p in range(PARTITIONS)]
    ends = {one: bounds.end for one, bounds in log.bounds(at).items()}
    seen: list[tuple[float, float, float]] = []
    for stage in pipeline.stages:
        pipeline.start(stage)
    processes = [psutil.Process(pipeline.pid(stage)) for stage in pipeline.stages]
    shares = [0.0]
    try:
        # While all are at work: a process that joins late has its partitions by then, and none has come to its end.
        while max(shares) < 1:
            time.sleep(0.02)
            committed = log.committed("combine")
            shares = [committed[one].offset / ends[one] if one in committed else 0.0 for one in at]
            times = [process.cpu_times() for process in processes]
            if min(shares) > 0.25:
                cpu_s = sum(one.user + one.system for one in times)
                seen.append((monotonic_s(), sum(shares) / PARTITIONS * EVENTS, cpu_s))
    finally:
        for stage in pipeline.stages:
            pipeline.kill(stage)
        log.close()
    (from_s, before, cpu_before), (until_s, after, cpu_after) = seen[0], seen[-1]
    return {
        "events_per_s": round((after - before) / (until_s - from_s)),
        "events_per_cpu_s": round((after - before) / (cpu_after - cpu_before)),
        "seconds": round(until_s - from_s, 1),
    }


def keys() -> dict[str, object]:
    result: dict[str, object] = {}
    for count in KEYS:
        random = np.random.default_rng(1)
        values = [record(random, RECORD_EVENTS, count, START_US, 2_000_000) for _ in range(100)]
        best = min(_combine_s(values) for _ in range(4))
        result[str(count)] = round(RECORD_EVENTS * len(values) / best)
    return result


def _combine_s(values: list[bytes]) -> float:
    settings = Settings()
    combiner = Combiner(settings, settings.topics.partials, decoder(settings))
    at = TopicPartition(topics.EVENTS, 0)
    combiner.assign(at, None)
    began_s = time.process_time()
    for offset, value in enumerate(values):
        one = Record(at.topic, 0, offset, value, None, headers(RECORD_EVENTS, START_US + 2_000_000), 0)
        combiner.take(one, START_US)
    combiner.finish(1)
    return time.process_time() - began_s


def rate() -> dict[str, object]:
    return {str(rate): _stages_s(rate) for rate in RATES}


def _stages_s(rate: int) -> dict[str, float]:
    """CPU seconds of both stages for a second of events."""
    settings = Settings(topics=Topics(events=1, partials=1), time=Time(allowed_lateness_s=5))
    combiner = Combiner(settings, 1, decoder(settings))
    partition = Partition(settings, 0)
    at = TopicPartition(topics.EVENTS, 0)
    combiner.assign(at, None)
    random = np.random.default_rng(1)
    combine_s = window_s = 0.0
    offset, seconds, warm = 0, 20, 10
    for quarter in range(4 * (warm + seconds)):
        now_us = START_US + quarter * MICROS // 4
        n = rate // 4
        values = [(min(RECORD_EVENTS, n - first), now_us) for first in range(0, n, RECORD_EVENTS)]
        made = [record(random, size, 1_000, start_us, MICROS // 4) for size, start_us in values[:20]]
        began_s = time.process_time()
        for (size, _), value in zip(values, itertools.cycle(made), strict=False):
            one = Record(at.topic, 0, offset, value, None, headers(size, now_us + MICROS), 0)
            combiner.take(one, now_us)
            offset += 1
        step = combiner.finish(1)
        combined_s = time.process_time()
        for message in step.messages:
            if message.topic == topics.PARTIALS:
                taken = Record(topics.PARTIALS, 0, quarter, message.value, None, message.headers, 0)
                partition.take(taken, now_us)
        partition.finish(now_us, rows_limit=10**9)
        if quarter >= 4 * warm:
            combine_s += combined_s - began_s
            window_s += time.process_time() - combined_s
    return {"combine_cpu": round(combine_s / seconds, 4), "window_cpu": round(window_s / seconds, 4)}


def window() -> dict[str, object]:
    return {str(size): round(statistics.median(_slides_ms(size)), 1) for size in WINDOWS_S}


def _slides_ms(size_s: int) -> Iterator[float]:
    """CPU milliseconds of the emissions of a window that slides by 5 s, once it is full."""
    windows = Windows(tumbling_s=[size_s], sliding_s=[[size_s, 5]])
    settings = Settings(
        topics=Topics(events=1, partials=1),
        time=Time(allowed_lateness_s=0, out_of_orderness_s=0),
        windows=windows,
    )
    combiner = Combiner(settings, 1, decoder(settings))
    partition = Partition(settings, 0)
    at = TopicPartition(topics.EVENTS, 0)
    combiner.assign(at, None)
    random = np.random.default_rng(1)
    values = [record(random, 20_000, 2_000, START_US, 5 * MICROS) for _ in range(3)]
    batches = [events.decode(value) for value in values]
    time_at = events.SCHEMA.get_field_index("time")
    slides = size_s // 5
    for i in range(slides + 12):
        batch = batches[i % 3]
        moved = pa.array(batch.column("time").to_numpy() + i * 5 * MICROS)
        now_us = START_US + (i + 1) * 5 * MICROS
        value = events.encode(batch.set_column(time_at, events.SCHEMA.field("time"), moved))
        combiner.take(Record(at.topic, 0, i, value, None, headers(20_000, now_us), 0), now_us)
        for message in combiner.finish(1).messages:
            if message.topic == topics.PARTIALS:
                partition.take(Record(topics.PARTIALS, 0, i, message.value, None, message.headers, 0), now_us)
        began_s = time.process_time()
        partition.finish(now_us, rows_limit=10**9)
        if i >= slides and (i + 1) % slides:  # not where the tumbling window ends as well
            yield 1000 * (time.process_time() - began_s)


PARTS: Mapping[str, Callable[[], dict[str, object]]] = {
    "combiners": combiners,
    "keys": keys,
    "rate": rate,
    "window": window,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    options = parser.parse_args()
    result: dict[str, object] = {"cores": os.cpu_count()}
    for name in options.parts or PARTS:
        result[name] = PARTS[name]()
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
