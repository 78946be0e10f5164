"""Recovery: seconds from kill -9 of a stage to its successor's first committed transaction, and what it had to read again.

    python benchmarks/pipeline/recovery.py [--rate 20000] [--only NAME]

One combine and one window process on a live load with ids; before it, a whole deduplication window of events was written
and read. Both are killed at the same moment and started again at once in the same slot, as their supervisor does. What was
read again is told by the successor's metrics: by combine the identities of the deduplication window, by window the partials
of open panes. The limit beside it is what any process needs, from its start to its first answer on ``/healthz``.
``terminated``: stopped by SIGTERM instead, when the group is told. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from smartscale.clock import MICROS, WallClock, monotonic_s
from smartscale.log.port import Log, Message, Position, TopicPartition, lag
from smartscale.records import events, schema, topics
from smartscale.testing.kafka_broker import KafkaBroker
from smartscale.testing.processes import Pipeline, get, wait_until

RECORD_EVENTS = 5000
LIVE_S = 15.0
"""Of live load before the kill: stages are warm, and panes are open."""
STAGES = ("combine", "window")
INPUT = {"combine": topics.EVENTS, "window": topics.PARTIALS}
AS_IT_COMES = {
    "group.consumer.session.timeout.ms": "45000",
    "group.consumer.min.session.timeout.ms": "45000",
    "group.consumer.heartbeat.interval.ms": "5000",
    "group.consumer.min.heartbeat.interval.ms": "5000",
}
"""Kafka's defaults; the other runs lower the session's time-out to 6 s, as docs/operations.md recommends."""
RUNS: Mapping[str, tuple[Mapping[str, str], Mapping[str, object], str]] = {
    "sqlite": ({}, {}, "killed"),
    "kafka": ({}, {}, "killed"),
    "kafka, default session time-out": (AS_IT_COMES, {}, "killed"),
    "kafka, default session time-out, classic": (
        AS_IT_COMES,
        {'kafka."group.protocol"': "classic"},
        "killed",
    ),
    "kafka, default session time-out, SIGTERM": (AS_IT_COMES, {}, "terminated"),
}


class Feed(threading.Thread):
    """Writes a deduplication window of events at once, then a record of events to a partition in its turn at the rate, and
    heartbeats, until it is stopped."""

    def __init__(self, log: Log, partitions: int, rate: int, before_s: float) -> None:
        super().__init__(daemon=True)
        self._log, self._partitions, self._rate, self._before_s = log, partitions, rate, before_s
        self._random = np.random.default_rng(1)
        self.stop, self.filled = threading.Event(), threading.Event()

    def run(self) -> None:
        publisher, clock = self._log.publisher(), WallClock()
        step_s = RECORD_EVENTS / self._rate
        turn, start_us = 0, clock.now_us()
        for age_s in np.arange(self._before_s, 0, -step_s):
            publisher.append([self._record(turn, start_us - round(age_s * MICROS), start_us)])
            turn += 1
        self.filled.set()
        while not self.stop.wait(step_s):
            now_us = clock.now_us()
            beat = msgspec.json.encode(events.Heartbeat("feed", now_us, now_us))
            headers = schema.headers(schema.HEARTBEAT)
            beats = [Message(topics.EVENTS, p, beat, headers=headers) for p in range(self._partitions)]
            publisher.append([self._record(turn, now_us, now_us), *beats])
            turn += 1
        publisher.close()

    def _record(self, turn: int, time_us: int, now_us: int) -> Message:
        n = RECORD_EVENTS
        identity = self._random.integers(0, 2**63, (n, 2), np.uint64)
        same = pa.array(np.zeros(n, np.int32))

        def label(*values: str) -> pa.DictionaryArray:
            codes = pa.array((np.arange(n) % len(values)).astype(np.int32)) if len(values) > 1 else same
            return pa.DictionaryArray.from_arrays(codes, pa.array(values))

        columns = {
            "time": pa.array(time_us - np.sort(self._random.integers(0, MICROS, n))),
            "tenant": label("default"),
            "service": label(*(f"service-{i}" for i in range(20))),
            "kind": label("interaction"),
            "name": label(*(f"/route/{i}" for i in range(50))),
            "error": pa.array(self._random.random(n) < 0.01),
            "latency": pa.array(self._random.lognormal(10, 0.7, n).astype(np.int64)),
            "identity": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(16), n, [None, pa.py_buffer(identity.tobytes())]
            ),
        }
        batch = pa.RecordBatch.from_arrays(
            [columns.get(field.name, pa.nulls(n, field.type)) for field in events.SCHEMA],
            schema=events.SCHEMA,
        )
        headers = schema.headers(schema.EVENTS, n=n, ingest_us=now_us)
        return Message(topics.EVENTS, turn % self._partitions, events.encode(batch), headers=headers)


def measure(url: str, folder: Path, settings: Mapping[str, object], how: str, rate: int) -> dict[str, object]:
    """One kill (or stop) of both stages."""
    with ExitStack() as stack:
        pipeline = Pipeline(url, folder, settings, STAGES)
        stack.callback(pipeline.close)
        pipeline.prepare()
        pipeline.start()
        pipeline.wait_ready()
        log = stack.enter_context(pipeline.log())
        feed = Feed(log, pipeline.settings.topics.events, rate, pipeline.settings.dedup.window_s)
        feed.start()
        stack.callback(feed.stop.set)
        feed.filled.wait()
        wait_until(
            lambda: all(behind(log, stage) < 100 for stage in STAGES), 120, pipeline.complaints.__repr__
        )
        threading.Event().wait(LIVE_S)
        threads = [
            threading.Thread(target=pipeline.kill if how == "killed" else pipeline.terminate, args=(stage,))
            for stage in STAGES
        ]
        ended_s = monotonic_s()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        before = {stage: log.committed(stage) for stage in STAGES}
        started_s = monotonic_s()
        pipeline.start()
        answering = dict.fromkeys(STAGES, 0.0)
        first = dict.fromkeys(STAGES, 0.0)
        while not all(first.values()) and monotonic_s() < started_s + 120:
            for stage in STAGES:
                now_s = monotonic_s()
                if not answering[stage] and get(pipeline.port(stage), "/healthz")[0] == 200:
                    answering[stage] = now_s - started_s
                if not first[stage] and moved(before[stage], log.committed(stage)):
                    first[stage] = monotonic_s() - ended_s
        wait_until(
            lambda: all(behind(log, stage) < 100 for stage in STAGES), 120, pipeline.complaints.__repr__
        )
        caught_up_s = monotonic_s() - ended_s
        result: dict[str, object] = {
            stage: {
                "first_commit_s": round(first[stage], 2),
                "limit_process_start_s": round(answering[stage], 2),
                **read_again(pipeline, stage),
            }
            for stage in STAGES
        }
        feed.stop.set()
        feed.join()
        return {**result, "both_caught_up_s": round(caught_up_s, 2)}


def behind(log: Log, stage: str) -> int:
    """Records not yet read by the stage."""
    return sum(lag(log, stage, [INPUT[stage]]).values())


def moved(before: Mapping[TopicPartition, Position], now: Mapping[TopicPartition, Position]) -> bool:
    return any(now[at] != before.get(at) for at in now)


def read_again(pipeline: Pipeline, stage: str) -> dict[str, int]:
    """What the successor says in its metrics."""
    _, text = get(pipeline.port(stage), "/metrics")
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {
        what: round(float(values[f"smartscale_{stage}_{what}_total"]))
        for what in ("reread_records", "reread_bytes")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=20_000)
    parser.add_argument("--only", choices=sorted(RUNS))
    options = parser.parse_args()
    found: dict[str, object] = {}
    for name in [options.only] if options.only else RUNS:
        broker, settings, how = RUNS[name]
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            kafka = stack.enter_context(KafkaBroker(settings=broker)) if name != "sqlite" else None
            url = kafka.url if kafka else f"sqlite:{folder}/log.db"
            found[name] = measure(url, folder, settings, how, options.rate)
    print(
        json.dumps({"benchmark": "pipeline/recovery", "events_per_s": options.rate, "runs": found}, indent=2)
    )


if __name__ == "__main__":
    main()
