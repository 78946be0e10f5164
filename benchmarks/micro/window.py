"""How long window takes to close and emit a pane of 10,000 services, beside the limit: encoding the same rows alone.

Run ``python benchmarks/micro/window.py``; prints one JSON object. One name a service, so with the roll-ups each window has
20,000 rows. Default windows: a sliding emission is due every 5 s (60s/5s), every 10 s together with 10s, every 60 s with
10s and 60s (with histograms). The times are of ``finish`` (merge, quantiles, rows, JSON, position), without the log and
without the transactions it would be split into, as CPU milliseconds of this process, the median over the emissions of
two minutes of event time. The limit encodes structs of the same rows with msgspec.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time

import numpy as np
import pyarrow as pa

from smartscale.config import Settings, Time
from smartscale.log.port import Record
from smartscale.records import histogram, metrics, partials, schema, topics
from smartscale.records.partials import LIVE, Envelope, SourceWatermark
from smartscale.stream.window.core import Partition

SERVICES = 10_000
PANE_US = 5_000_000
START_US = 1_700_000_040_000_000
"""A multiple of 60 s."""
PANES = 36
"""The first twelve fill the longest window and are not measured."""


def pane(random: np.random.Generator, start_us: int, watermark_us: int) -> bytes:
    """A record of partials: one row for each service, about twenty events with ten filled slots in each."""
    envelope = Envelope(
        PANE_US,
        histogram.SCALE,
        1,
        [],
        [SourceWatermark(topics.EVENTS, 0, watermark_us, watermark_us, LIVE)],
    )
    n = SERVICES

    def one_label(text: str) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([text]))

    def column(values: object) -> pa.Array:
        return pa.array(np.full(n, values))

    lists = pa.array(np.arange(n + 1, dtype=np.int32) * 10)
    slots = np.sort(random.integers(200, 240, (n, 1)) + np.arange(10)).astype(np.int16).ravel()
    columns = [
        one_label("default"),
        pa.DictionaryArray.from_arrays(
            pa.array(np.arange(n, dtype=np.int32)), pa.array([f"service-{i}" for i in range(n)])
        ),
        one_label("interaction"),
        one_label("/"),
        column(start_us),
        column(20),
        pa.array(random.integers(0, 2, n)),
        column(20),
        pa.array(random.integers(10**5, 10**6, n)),
        column(5_000),
        column(90_000),
        column(0),
        column(0.0),
        column(np.nan),
        column(np.nan),
        pa.ListArray.from_arrays(lists, pa.array(slots)),
        pa.ListArray.from_arrays(lists, pa.array(np.full(10 * n, 2))),
    ]
    return partials.encode(pa.RecordBatch.from_arrays(columns, schema=partials.SCHEMA), envelope)


def main() -> None:
    random = np.random.default_rng(1)
    partition = Partition(Settings(time=Time(allowed_lateness_s=3600)), 0)
    emissions: dict[str, list[tuple[float, float, float, int, int]]] = {}
    for i in range(PANES):
        start_us = START_US + i * PANE_US
        value = pane(random, start_us, start_us + PANE_US)
        record = Record(topics.PARTIALS, 0, i, value, None, schema.headers(schema.PARTIALS), 0)
        start = time.process_time()
        partition.take(record, start_us)
        taken = time.process_time()
        step = partition.finish(start_us, rows_limit=10**9)
        finished = time.process_time()
        of_rows = [m.value for m in step.messages if m.headers == schema.headers(schema.METRIC)]
        rows = [metrics.decode_row(value) for value in of_rows]
        encoding = time.process_time()
        for row in rows:
            metrics.encode(row)
        encoded = time.process_time()
        if i >= 12:
            due = "+".join(sorted({row.window for row in rows}))
            emissions.setdefault(due, []).append(
                (taken - start, finished - taken, encoded - encoding, step.rows, sum(map(len, of_rows)))
            )
    result: dict[str, object] = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "services": SERVICES,
    }
    for due, times in sorted(emissions.items()):
        take, finish, limit, rows_, size = (statistics.median(column) for column in zip(*times, strict=True))
        result[due] = {
            "rows": rows_,
            "megabytes": round(size / 1e6, 1),
            "take_ms": round(take * 1000, 1),
            "finish_ms": round(finish * 1000, 1),
            "limit_encode_ms": round(limit * 1000, 1),
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
