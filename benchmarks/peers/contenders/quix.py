"""The contender Quix Streams, run in its own environment: count, errors and p99 per service over tumbling windows.

Arguments: broker, input topic, output topic, window ms, grace ms, state folder, ``collect`` or ``histogram``.

The windows are Quix's own: ``tumbling_window(…).agg(…).final(closing_strategy="partition")``, with its state store
(RocksDB) and changelog topic as they come, at-least-once. The p99 is exact, from the latencies that its aggregation
``Collect`` keeps (``collect``), or from an exponential histogram held in the state (``histogram``).
"""

from __future__ import annotations

import math
import sys
from datetime import datetime
from typing import Any

from quixstreams import Application
from quixstreams.dataframe.windows import Aggregator, Collector, Count, Sum


def with_error(event: dict[str, Any]) -> dict[str, Any]:
    event["error"] = 1 if event["status"] >= 500 else 0
    return event


def named(window: dict[str, Any], key: str, _timestamp: int, _headers: object) -> dict[str, Any]:
    return {"service": key, "start_ms": window.pop("start"), **window}


def time_ms(value: Any, *_: object) -> int:
    return int(datetime.fromisoformat(value["time"]).timestamp() * 1000)


class ExactP99(Collector):
    """The latency of rank ceil(0.99 n)."""

    column = "latency_ms"

    def result(self, items: Any) -> float:
        ordered = sorted(items)
        if not ordered:  # Quix asks at every update, too, before it has fetched what was collected
            return math.nan
        return float(ordered[math.ceil(0.99 * len(ordered)) - 1])


class HistogramP99(Aggregator):
    """An exponential histogram of base 2**(1/16), as a map from slot to count."""

    def initialize(self) -> dict[str, int]:
        return {}

    def agg(self, old: dict[str, int], new: Any, timestamp: int) -> dict[str, int]:  # noqa: ARG002
        slot = str(math.ceil(math.log2(max(new["latency_ms"] * 1000, 1)) * 16 - 1e-11))
        old[slot] = old.get(slot, 0) + 1
        return old

    def result(self, value: dict[str, int]) -> float:
        rank, seen = math.ceil(0.99 * sum(value.values())), 0
        for slot in sorted(map(int, value)):
            seen += value[str(slot)]
            if seen >= rank:
                return float(2 ** ((slot - 0.5) / 16) / 1000)
        return math.nan


def main() -> None:
    broker, input_topic, output_topic, size_ms, grace_ms, state, method = sys.argv[1:]
    app = Application(
        broker,
        consumer_group=f"peer-{input_topic}-{method}",
        auto_offset_reset="earliest",
        state_dir=state,
        loglevel="WARNING",
    )
    source = app.topic(
        input_topic, key_deserializer="str", value_deserializer="json", timestamp_extractor=time_ms
    )
    sink = app.topic(output_topic, value_serializer="json")
    stream = app.dataframe(source)
    stream = stream.apply(with_error)
    stream = (
        stream.tumbling_window(int(size_ms), int(grace_ms))
        .agg(count=Count(), errors=Sum("error"), p99_ms=ExactP99() if method == "collect" else HistogramP99())
        .final(closing_strategy="partition")
    )
    stream = stream.apply(named, metadata=True)
    stream.to_topic(sink)
    app.run()


if __name__ == "__main__":
    main()
