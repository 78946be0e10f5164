"""How many events a second combine takes on one core, beside the limit: only decoding the columns of the same records.

Run ``python benchmarks/micro/combine.py``; prints one JSON object. LZ4 records as the edge writes them, of one partition,
taken and aggregated by the stage's core in transactions of 200,000 events, and of 1,000,000, which is what the settings'
32 MiB and quarter of a second come to at these speeds, without the log. Times are CPU seconds of this process (all its
threads), the best of five rounds, so another process on the machine does not count. Latencies are log-normal, keys are
equally likely (the worst case for caches), event times spread over the two seconds of a transaction. With ids, the
deduplication window holds about 2 million identities, and one event in a hundred is a repeat.
"""

from __future__ import annotations

import json
import os
import platform
import time

import numpy as np
import pyarrow as pa

from smartscale.config import Dedup, Settings
from smartscale.log.port import Record
from smartscale.records import events, schema, topics
from smartscale.stream.combine.core import Combiner
from smartscale.stream.combine.third_party import decoder

TRANSACTIONS = 2
CASES = (
    (200_000, 500, 50),
    (200_000, 500, 10_000),
    (200_000, 5_000, 50),
    (200_000, 5_000, 10_000),
    (200_000, 5_000, 50_000),
    (1_000_000, 5_000, 10_000),
    (1_000_000, 5_000, 50_000),
)
"""Events of a transaction, events of a record, keys."""
ROUNDS = 5
HELD_IDS = 2_000_000
START_US = 1_700_000_000_000_000


def batch(random: np.random.Generator, n: int, keys: int, with_ids: bool) -> pa.RecordBatch:
    """Events of ``keys`` (service, name) pairs, ten names a service."""
    key = random.integers(0, keys, n)
    identity = random.integers(0, 2**63, (n, 2), np.uint64)
    again = random.random(n) < 0.01
    identity[again] = identity[random.integers(0, n, int(again.sum()))]

    def label(codes: np.ndarray, prefix: str) -> pa.DictionaryArray:
        used, inverse = np.unique(codes, return_inverse=True)
        return pa.DictionaryArray.from_arrays(
            pa.array(inverse.astype(np.int32)), pa.array([f"{prefix}{code}" for code in used])
        )

    ids = pa.array([bytes(one) for one in identity.view("V16")[:, 0]], pa.binary(16))
    columns = {
        "time": pa.array(START_US + np.sort(random.integers(0, 2_000_000, n))),
        "tenant": label(np.zeros(n, np.int64), "default"),
        "service": label(key // 10, "service-"),
        "kind": label(np.zeros(n, np.int64), "interaction"),
        "name": label(key % 10, "/route/"),
        "status": pa.array(np.full(n, 200, np.int16)),
        "error": pa.array(random.random(n) < 0.01),
        "latency": pa.array(random.lognormal(10, 0.7, n).astype(np.int64)),
        "value": pa.nulls(n, pa.float64()),
        "user": pa.array(random.integers(0, 2**63, n, np.uint64)),
        "identity": ids if with_ids else pa.nulls(n, pa.binary(16)),
        "id": pa.array([one.hex() for one in ids.to_pylist()]) if with_ids else pa.nulls(n, pa.string()),
        "attributes": pa.nulls(n, pa.string()),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in events.SCHEMA.names], schema=events.SCHEMA)


def measure(transaction_events: int, record_events: int, keys: int, with_ids: bool) -> dict[str, float]:
    """Events a CPU second of combine and of its limit."""
    random = np.random.default_rng(1)
    distinct = transaction_events * TRANSACTIONS // record_events
    values = [events.encode(batch(random, record_events, keys, with_ids)) for _ in range(distinct)]
    headers = schema.headers(schema.EVENTS, n=record_events, ingest_us=START_US + 2_000_000)
    settings = Settings(dedup=Dedup(max_ids=HELD_IDS))
    combine_s, limit_s, held = [], [], 0
    for _ in range(ROUNDS):
        combiner = Combiner(settings, settings.topics.partials, decoder(settings))
        records = [
            Record(topics.EVENTS, 0, offset, value, None, headers, 0) for offset, value in enumerate(values)
        ]
        combiner.assign(records[0].at, None)
        start = time.process_time()
        for first in range(0, distinct, distinct // TRANSACTIONS):
            for record in records[first : first + distinct // TRANSACTIONS]:
                combiner.take(record, START_US)
            combiner.finish(1)
        combine_s.append(time.process_time() - start)
        held = combiner.counters.duplicates
        start = time.process_time()
        for value in values:
            events.decode(
                value, ("time", "tenant", "service", "kind", "name", "error", "latency", "value", "identity")
            )
        limit_s.append(time.process_time() - start)
    n = distinct * record_events
    return {
        "events_per_s": round(n / min(combine_s)),
        "limit_events_per_s": round(n / min(limit_s)),
        "share_of_limit": round(min(limit_s) / min(combine_s), 3),
        "repeats_found": held,
        "bytes_per_event": round(sum(map(len, values)) / n, 1),
    }


def main() -> None:
    result: dict[str, object] = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
    for with_ids in (False, True):
        for transaction_events, record_events, keys in CASES:
            name = f"{'ids' if with_ids else 'no ids'}, records of {record_events}, {keys} keys"
            if transaction_events != CASES[0][0]:
                name += f", transactions of {transaction_events}"
            result[name] = measure(transaction_events, record_events, keys, with_ids)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
