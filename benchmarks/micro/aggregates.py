"""What each aggregation and grouping by an attribute costs combine, in CPU nanoseconds an event.

Run ``python benchmarks/micro/aggregates.py``; prints one JSON object. 200,000 events in LZ4 records of 5,000, with
50 keys, as in ``combine.py``; the best of five rounds, decoding included. Beside the time, how long the partials are that go
out. Users: each event another one of a million (the worst case: every sketch is full), or one of a thousand. Groups: four
regions in an attribute of events that are otherwise alike, or each event with a number of its own beside it (every text is
parsed).
"""

from __future__ import annotations

import json
import os
import platform
import time

import numpy as np
import pyarrow as pa

from smartscale.config import Settings, Windows
from smartscale.log.port import Record
from smartscale.records import events, schema, topics
from smartscale.stream.combine.core import Combiner
from smartscale.stream.combine.third_party import decoder

EVENTS, RECORD, KEYS, ROUNDS = 200_000, 5_000, 50, 5
START_US = 1_700_000_000_000_000


def batch(random: np.random.Generator, users: int, attributes: list[str]) -> pa.RecordBatch:
    n = RECORD
    key = random.integers(0, KEYS, n)

    def label(codes: np.ndarray, prefix: str) -> pa.DictionaryArray:
        used, inverse = np.unique(codes, return_inverse=True)
        return pa.DictionaryArray.from_arrays(
            pa.array(inverse.astype(np.int32)), pa.array([f"{prefix}{code}" for code in used])
        )

    columns = {
        "time": pa.array(START_US + np.sort(random.integers(0, 2_000_000, n))),
        "tenant": label(np.zeros(n, np.int64), "default"),
        "service": label(key // 10, "service-"),
        "kind": label(np.zeros(n, np.int64), "interaction"),
        "name": label(key % 10, "/route/"),
        "status": pa.array(np.full(n, 200, np.int16)),
        "error": pa.array(random.random(n) < 0.01),
        "latency": pa.array(random.lognormal(10, 0.7, n).astype(np.int64)),
        "value": pa.array(random.normal(0, 100, n)),
        "user": pa.array(random.integers(0, users, n).astype(np.uint64)),
        "identity": pa.nulls(n, pa.binary(16)),
        "id": pa.nulls(n, pa.string()),
        "attributes": pa.array(attributes),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in events.SCHEMA.names], schema=events.SCHEMA)


def measure(windows: Windows, users: int = 1_000_000, distinct_texts: bool = False) -> dict[str, float]:
    """Nanoseconds an event and bytes of partials."""
    random = np.random.default_rng(1)
    settings = Settings(windows=windows)

    def attributes() -> list[str]:
        region = random.choice(["eu", "us", "ap", "sa"], RECORD).tolist()
        return [
            f'{{"region": "{r}"' + (f', "trace": {i}' if distinct_texts else "") + "}"
            for i, r in zip(random.integers(0, 2**62, RECORD).tolist(), region, strict=True)
        ]

    values = [events.encode(batch(random, users, attributes())) for _ in range(EVENTS // RECORD)]
    headers = schema.headers(schema.EVENTS, n=RECORD, ingest_us=START_US + 2_000_000)
    best, size = float("inf"), 0
    for _ in range(ROUNDS):
        combiner = Combiner(settings, settings.topics.partials, decoder(settings))
        records = [Record(topics.EVENTS, 0, i, value, None, headers, 0) for i, value in enumerate(values)]
        combiner.assign(records[0].at, None)
        start = time.process_time()
        for record in records:
            combiner.take(record, START_US)
        step = combiner.finish(1)
        best = min(best, time.process_time() - start)
        size = sum(len(message.value) for message in step.messages)
    return {"ns_per_event": round(best / EVENTS * 1e9, 1), "partials_bytes": size}


def main() -> None:
    result: dict[str, object] = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "requests": measure(Windows(aggregates=["requests"])),
        "latency": measure(Windows(aggregates=["requests", "latency"])),
        "values": measure(Windows(aggregates=["requests", "values"])),
        "users, of a million": measure(Windows(aggregates=["requests", "users"])),
        "users, of a thousand": measure(Windows(aggregates=["requests", "users"]), users=1000),
        "groups, four texts": measure(Windows(aggregates=["requests"], group_by=["region"])),
        "groups, every text another": measure(
            Windows(aggregates=["requests"], group_by=["region"]), distinct_texts=True
        ),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
