"""The contender Bytewax, run in its own environment: count, errors and p99 per service over tumbling windows.

Arguments: broker, input topic, output topic, window ms, out-of-orderness ms.

The windows are Bytewax's own: ``fold_window`` with an ``EventClock`` and a ``TumblingWindower``, unordered because
the fold commutes, without recovery. The accumulator keeps the latencies in an array, and the p99 is exact: that was faster
than any sketch in Python. Values are parsed by orjson, a batch at a time.
"""

from __future__ import annotations

import math
import sys
from array import array
from datetime import UTC, datetime, timedelta
from typing import Any

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSinkMessage
from bytewax.connectors.kafka import operators as kafka
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, TumblingWindower, fold_window
from bytewax.run import cli_main

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Stats:
    """What a window of a service has seen."""

    __slots__ = ("errors", "latencies")

    def __init__(self) -> None:
        self.errors = 0
        self.latencies = array("d")


def parse(messages: list[Any]) -> list[tuple[str, tuple[datetime, bool, float]]]:
    keyed = []
    for message in messages:
        event = orjson.loads(message.value)
        keyed.append(
            (
                event["service"],
                (datetime.fromisoformat(event["time"]), event["status"] >= 500, event["latency_ms"]),
            )
        )
    return keyed


def add(stats: Stats, event: tuple[datetime, bool, float]) -> Stats:
    stats.errors += event[1]
    stats.latencies.append(event[2])
    return stats


def merge(one: Stats, other: Stats) -> Stats:
    one.errors += other.errors
    one.latencies.extend(other.latencies)
    return one


def result(size_ms: int, keyed: tuple[str, tuple[int, Stats]]) -> KafkaSinkMessage[bytes, bytes]:
    service, (window, stats) = keyed
    ordered = sorted(stats.latencies)
    row = {
        "service": service,
        "start_ms": window * size_ms,
        "count": len(ordered),
        "errors": stats.errors,
        "p99_ms": ordered[math.ceil(0.99 * len(ordered)) - 1],
    }
    return KafkaSinkMessage(service.encode(), orjson.dumps(row))


def flow(
    broker: str, input_topic: str, output_topic: str, size_ms: int, out_of_orderness_ms: int
) -> Dataflow:
    clock = EventClock(
        ts_getter=lambda event: event[0],
        wait_for_system_duration=timedelta(milliseconds=out_of_orderness_ms),
    )
    windower = TumblingWindower(length=timedelta(milliseconds=size_ms), align_to=EPOCH)
    dataflow = Dataflow("peer")
    messages = kafka.input("events", dataflow, brokers=[broker], topics=[input_topic], tail=False)
    keyed = op.flat_map_batch("parse", messages.oks, parse)
    windows = fold_window("windows", keyed, clock, windower, Stats, add, merge, ordered=False)
    rows = op.map("result", windows.down, lambda one: result(size_ms, one))
    kafka.output("results", rows, brokers=[broker], topic=output_topic)
    return dataflow


if __name__ == "__main__":
    broker, input_topic, output_topic, size_ms, bound_ms = sys.argv[1:]
    cli_main(flow(broker, input_topic, output_topic, int(size_ms), int(bound_ms)))
