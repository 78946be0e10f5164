"""How long window takes to close and emit a pane of 10,000 and of 100,000 services, and its memory.

Run ``python benchmarks/micro/window.py``; prints one JSON object. One name a service, so with the roll-ups each window
has twice as many rows. Default windows: a sliding emission is due every 5 s (60s/5s), every 10 s together with 10s,
every 60 s with 10s and 60s (with histograms). The times are of ``take`` (a record of partials) and ``finish`` (merge,
quantiles, rows, JSON, position) in the transactions that the stage splits it into, without the log, as CPU milliseconds
of this process: the median over the emissions of two minutes of event time, the slowest beside it. The limit encodes
structs of the same rows with msgspec. With an allowed lateness of 0 each window is emitted once; with 30 s, the
default, a slide emits the window that has just ended and the final rows of the one that ended 30 s before. Memory is
the process's greatest resident size, messages of one transaction included, each size in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa

from smartscale.config import Settings, Time
from smartscale.log.port import Record
from smartscale.records import histogram, metrics, partials, schema, topics
from smartscale.records.partials import LIVE, Envelope, SourceWatermark
from smartscale.stream.aggregates import named
from smartscale.stream.columns import to_arrow
from smartscale.stream.window.core import Partition

SIZES = (10_000, 100_000)
LATENESS_S = (0.0, 30.0)
SAMPLE = 20_000
"""Rows from which the limit is measured."""
PANE_US = 5_000_000
START_US = 1_700_000_040_000_000
"""A multiple of 60 s."""
PANES, WARM = 36, 18
"""The first fill the longest window and the allowed lateness, and are not measured."""
AGGREGATIONS = named(Settings().windows)


def pane(random: np.random.Generator, n: int, start_us: int, watermark_us: int) -> bytes:
    """A record of partials: one row for each of n services, about twenty events with ten filled slots in each."""
    envelope = Envelope(
        PANE_US,
        histogram.SCALE,
        1,
        [],
        [SourceWatermark(topics.EVENTS, 0, watermark_us, watermark_us, LIVE)],
    )

    def one_label(text: str) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([text]))

    def column(values: object) -> pa.Array:
        return pa.array(np.full(n, values))

    lists = pa.array(np.arange(n + 1, dtype=np.int32) * 10)
    slots = np.sort(random.integers(200, 240, (n, 1)) + np.arange(10)).astype(np.int16).ravel()
    columns = {
        "tenant": one_label("default"),
        "service": pa.DictionaryArray.from_arrays(
            pa.array(np.arange(n, dtype=np.int32)), pa.array([f"service-{i}" for i in range(n)])
        ),
        "kind": one_label("interaction"),
        "name": one_label("/"),
        "group": one_label(""),
        "pane": column(start_us),
        "pane_us": column(PANE_US),
        **{name: to_arrow(value) for one in AGGREGATIONS for name, value in one.zero(n).items()},
        "count": column(20),
        "errors": pa.array(random.integers(0, 2, n)),
        "latency_count": column(20),
        "latency_sum": pa.array(random.integers(10**5, 10**6, n)),
        "latency_min": column(5_000),
        "latency_max": column(90_000),
        "slots": pa.ListArray.from_arrays(lists, pa.array(slots)),
        "slot_counts": pa.ListArray.from_arrays(lists, pa.array(np.full(10 * n, 2))),
    }
    return partials.encode(pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns)), envelope)


def measure(services: int, lateness_s: float) -> dict[str, object]:
    """The emissions of one size."""
    random = np.random.default_rng(1)
    partition = Partition(Settings(time=Time(allowed_lateness_s=lateness_s)), 0)
    emissions: dict[str, list[tuple[float, float, float, int, int]]] = {}
    for i in range(PANES):
        start_us = START_US + i * PANE_US
        value = pane(random, services, start_us, start_us + PANE_US)
        record = Record(topics.PARTIALS, 0, i, value, None, schema.headers(schema.PARTIALS), 0)
        start = time.process_time()
        partition.take(record, start_us)
        take_s, finish_s, limit_s, rows, size = time.process_time() - start, 0.0, 0.0, 0, 0
        due: set[str] = set()
        more = True
        while more:
            start = time.process_time()
            step = partition.finish(start_us)
            finish_s += time.process_time() - start
            of_rows = [m.value for m in step.messages if m.headers == schema.headers(schema.METRIC)]
            sample = [metrics.decode_row(value) for value in of_rows[:: max(1, len(of_rows) // SAMPLE)]]
            start = time.process_time()
            for row in sample:
                metrics.encode(row)
            limit_s += (time.process_time() - start) * len(of_rows) / max(1, len(sample))
            rows += step.rows
            size += sum(map(len, of_rows))
            due |= {row.window for row in sample}
            more = step.more
            del step, of_rows, sample
        if i >= WARM:
            emissions.setdefault("+".join(sorted(due)), []).append((take_s, finish_s, limit_s, rows, size))
    result: dict[str, object] = {}
    for windows, times in sorted(emissions.items()):
        columns = list(zip(*times, strict=True))
        take, finish, limit, rows_, size = (statistics.median(column) for column in columns)
        result[windows] = {
            "rows": rows_,
            "megabytes": round(size / 1e6, 1),
            "take_ms": round(take * 1000, 1),
            "finish_ms": round(finish * 1000, 1),
            "slowest_finish_ms": round(max(columns[1]) * 1000, 1),
            "limit_encode_ms": round(limit * 1000, 1),
        }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {**result, "memory_mb": round(peak * 1024 / 1e6)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, help="only this size, in this process")
    parser.add_argument("--lateness", type=float, default=0.0, help="allowed lateness in s")
    options = parser.parse_args()
    if options.services:
        print(json.dumps(measure(options.services, options.lateness)))
        return
    result: dict[str, object] = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
    for size in SIZES:
        for lateness_s in LATENESS_S:
            command = [sys.executable, __file__, "--services", str(size), "--lateness", str(lateness_s)]
            run = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            result[f"{size} services, allowed lateness {lateness_s:g} s"] = json.loads(run.stdout)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
