"""End to end: seconds from the end of a window in event time to its first row in ``metrics``.

    python benchmarks/pipeline/latency.py [--rate 5000] [--seconds 60] [--log sqlite:PATH]

Every stage runs as a process of its own, and the sender is on the same machine (open loop: what it sends is fixed
beforehand, out of order up to the bound). A window can be complete no sooner than the bound after its end, so that is the
limit beside which the figures stand; the aim is p99 under the limit plus 1.5 s. A sample is the timestamp of the first
record of a key and window less the window's end. Windows that end after the last event has come are told apart: they wait
for heartbeats, once a second, to say that nothing more is to come. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from smartscale.clock import MICROS, WallClock, monotonic_s
from smartscale.log.port import Log, TopicPartition, read_all
from smartscale.records import metrics, schema, topics
from smartscale.testing.posting import Poster, steady_load
from smartscale.testing.processes import Pipeline, balance

AIM_S = 1.5
"""Beyond the out-of-orderness bound (p99)."""
LEAD_S = 20.0
"""To work the load out before it begins."""
SETTINGS = {
    "topics.retention_bytes": 0,
    "time.allowed_lateness_s": 5.0,
    # Beside the windows as they come, one of a second: sixty instants a minute to measure, and panes five times as fine.
    "windows.tumbling_s": [1.0, 10.0, 60.0],
}


def first_rows(log: Log, from_us: int, until_us: int) -> list[tuple[float, bool]]:
    """(seconds from the window's end to its first row, whether that row was complete) of each key and window."""
    found: dict[tuple[str, ...], tuple[float, bool]] = {}
    for p in range(log.topics()[topics.METRICS].partitions):
        for record in read_all(log, TopicPartition(topics.METRICS, p)):
            if schema.schema_of(record.headers) != schema.METRIC:
                continue
            row = metrics.decode_row(record.value)
            key = (row.service, row.kind, row.name, row.window, str(row.end_us))
            if from_us < row.end_us <= until_us and key not in found:
                found[key] = (record.timestamp_ms / 1000 - row.end_us / MICROS, row.complete)
    return list(found.values())


def summary(rows: list[tuple[float, bool]]) -> dict[str, float]:
    """Quantiles of the delays, in seconds."""
    seconds = [delay for delay, _ in rows]
    p50, p90, p99, most = np.quantile(seconds, [0.5, 0.9, 0.99, 1.0]).round(3).tolist()
    return {"samples": len(rows), "p50": p50, "p90": p90, "p99": p99, "max": most}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--log", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Pipeline(options.log or f"sqlite:{folder}/log.db", folder / "run", SETTINGS) as pipeline:
            bound_s = pipeline.settings.time.out_of_orderness_s
            start_us, start_s = WallClock().now_us() + round(LEAD_S * MICROS), monotonic_s() + LEAD_S
            load = steady_load(1, start_us, start_s, options.seconds, options.rate, bound_s)
            spare_s = start_s - monotonic_s()
            if spare_s < 0:
                sys.exit(
                    f"working out the load took {LEAD_S - spare_s:.0f} s; use a lower --rate or --seconds"
                )
            poster = Poster(pipeline.url, connections=4)
            poster.start(load)
            if not poster.join(options.seconds + LEAD_S + 60):
                sys.exit(f"the load could not be sent: {pipeline.complaints()}")
            end_us = start_us + round(options.seconds * MICROS)
            pipeline.wait_final(end_us // MICROS * MICROS, 60)
            with pipeline.log() as log:
                # The first seconds are left out: sources settle, and compiled code is loaded.
                stop_us = end_us - round((bound_s + 1) * MICROS)
                rows = first_rows(log, start_us + 10 * MICROS, stop_us)
                silent = first_rows(log, stop_us, end_us + 3 * MICROS)
                books = balance(log, pipeline.settings)
    print(
        json.dumps(
            {
                "benchmark": "pipeline/latency",
                "log": (options.log or "sqlite").partition(":")[0],
                "events_per_s": options.rate,
                "seconds": options.seconds,
                "while_events_flow_s": summary(rows),
                "after_the_last_event_s": summary(silent),
                "limit_s": bound_s,
                "aim_p99_s": bound_s + AIM_S,
                "aim_met": summary(rows)["p99"] < bound_s + AIM_S,
                "incomplete": sum(not complete for _, complete in rows),
                "retries": poster.retries,
                "ledger_difference": books.difference,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
