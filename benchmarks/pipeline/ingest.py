"""Ingest: JSON events a second that one process on one core takes in and answers durably.

    python benchmarks/pipeline/ingest.py [--logs sqlite kafka] [--loads ids plain single] [--seconds 6]
    python benchmarks/pipeline/ingest.py --minutes 10        # memory at the highest rate
    python benchmarks/pipeline/ingest.py --pause 60          # memory while the broker stands still (SIGSTOP), and after

A real ``smartscale ingest`` process is pinned to the first core; the client (``benchmarks/load.py``) and the broker run on
the others. The highest rate is found in a closed loop; then latencies from the planned time at half of it and at 0.9.
Beside them, from the same run, the limits: what the compiled pass alone costs an event, what typed decoding with msgspec
alone would, and how many requests a second the server answers that it need not write. Prints JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.load import Result, run

from smartscale import config
from smartscale.log import open_log
from smartscale.log.topics import specs
from smartscale.records.events_json import EventIn
from smartscale.records.events_scan import Bodies, scan
from smartscale.testing.kafka_broker import KafkaBroker

MARK = b"RUN-XXXXXXXXXXXX"
"""Stands for a part of every id that is different in every request, so that no event repeats another."""
LOADS = {"ids": (500, True), "plain": (500, False), "single": (1, False)}
"""Events a request, and whether each has an id."""
CONNECTIONS = {"ids": 64, "plain": 64, "single": 512}
LATENCY_CONNECTIONS = {"ids": 128, "plain": 128, "single": 512}
"""So many that a request hardly ever waits for a free one, and few enough for ``ingest.queue_bytes``."""


def body(batch: int, ids: bool) -> bytes:
    """A typical batch: a dozen services, two hundred routes; about 200 bytes an event."""
    chance = np.random.default_rng(1)
    now_us = time.time_ns() // 1000
    events = []
    for i in range(batch):
        event = {
            "service": f"service-{chance.integers(12)}",
            "time": str(np.datetime64(now_us - 1_000_000 + i * 1000, "us")) + "Z",
            "name": f"GET /api/v1/resource-{chance.integers(200)}",
            "status": int(chance.choice([200, 200, 200, 201, 404, 500])),
            "latency_ms": round(float(chance.lognormal(3, 0.7)), 3),
        }
        if ids:
            event["id"] = f"{MARK.decode()}-{i}"
        events.append(event)
    return json.dumps(events if batch > 1 else events[0]).encode()


def requests(text: bytes) -> Callable[[], bytearray]:
    """A function that gives the next request: the same body, with the marks of its ids counted on."""
    head = (
        "POST /v1/events HTTP/1.1\r\nHost: edge\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(text)}\r\n\r\n"
    ).encode()
    whole = bytearray(head + text)
    found = itertools.accumulate(
        itertools.repeat(0), lambda at, _: whole.find(MARK, at + 1), initial=whole.find(MARK)
    )
    places = np.array(list(itertools.takewhile(lambda at: at >= 0, found)), np.int64)
    digits = places[:, None] + np.arange(len(MARK))
    view = np.frombuffer(whole, np.uint8)
    numbers = itertools.count(time.time_ns() // 1000)

    def following() -> bytearray:
        if len(places):
            view[digits] = np.frombuffer(b"%016d" % next(numbers), np.uint8)
        return whole

    return following


def costs_ns(text: bytes, batch: int) -> dict[str, int]:
    """Processor time an event of decoding alone, twenty bodies at a time."""
    bodies = [text] * 20
    one = np.full(20, time.time_ns() // 1000)

    def compiled() -> None:
        scan(Bodies.of(bodies), np.zeros(20, np.bool_), one, one + 60_000_000, 1 << 16, 20_000)

    decode = msgspec.json.Decoder(list[EventIn] if batch > 1 else EventIn).decode

    def typed() -> None:
        for each in bodies:
            decode(each)

    took = {}
    for name, work in (("compiled pass", compiled), ("msgspec", typed)):
        work()
        start, rounds = time.process_time(), 0
        while time.process_time() - start < 0.5:
            work()
            rounds += 1
        took[name] = round((time.process_time() - start) / rounds / 20 / batch * 1e9)
    return took


class Edge:
    """An ingest process on the first core, this one on the others."""

    def __init__(self, log: str) -> None:
        opened = open_log(log)
        opened.create(specs(config.load(environment={})))
        opened.close()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "smartscale", "ingest", "--log", log, "--port", str(self.port)],
            preexec_fn=lambda: os.sched_setaffinity(0, CORES[:1]),
        )
        self.about = psutil.Process(self.process.pid)
        for _ in range(600):
            if self.process.poll() is not None:
                raise RuntimeError(f"ingest ended with code {self.process.returncode}")
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=1).close()
                return
            time.sleep(0.1)
        raise RuntimeError("ingest did not get ready within a minute")

    def cpu_s(self) -> float:
        return sum(self.about.cpu_times()[:2])

    def rss_mb(self) -> int:
        return round(self.about.memory_info().rss / 1e6)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


CORES = sorted(os.sched_getaffinity(0))


@contextlib.contextmanager
def log_at(kind: str) -> Iterator[tuple[str, KafkaBroker | None]]:
    if kind == "kafka":
        with KafkaBroker() as broker:
            yield broker.url, broker
        return
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite:{Path(folder) / 'log.db'}", None


def percentiles_ms(result: Result) -> dict[str, float]:
    if not result.seconds:
        return {}
    p50, p99, p999 = np.quantile(result.seconds, [0.5, 0.99, 0.999]).tolist()
    return {"p50": round(p50 * 1e3, 1), "p99": round(p99 * 1e3, 1), "p99.9": round(p999 * 1e3, 1)}


def checked(result: Result) -> Result:
    if set(result.statuses) - {200}:
        raise RuntimeError(f"not all requests were answered with 200: {result.statuses}")
    return result


def measured(edge: Edge, load: str, seconds: float) -> dict[str, object]:
    """The highest rate of one load and the latencies below it."""
    batch, ids = LOADS[load]
    request = requests(body(batch, ids))
    checked(run(edge.port, request, CONNECTIONS[load], 1.5))
    spent_s = edge.cpu_s()
    top = checked(run(edge.port, request, CONNECTIONS[load], seconds))
    spent_s = edge.cpu_s() - spent_s
    count = len(top.seconds) * batch
    rate = len(top.seconds) / top.took_s
    report: dict[str, object] = {
        "events_per_s": round(count / top.took_s),
        "requests_per_s": round(rate),
        "process_ns_per_event": round(spent_s / count * 1e9),
        "core_busy": round(spent_s / top.took_s, 2),
        "client_busy": round(top.busy_s / top.took_s, 2),
        "answer_ms": percentiles_ms(top),
        "rss_mb": edge.rss_mb(),
    }
    for name, share in (("half", 0.5), ("nine_tenths", 0.9)):
        paced = checked(run(edge.port, request, LATENCY_CONNECTIONS[load], seconds, share * rate))
        report[f"at_{name}_ms"] = percentiles_ms(paced) | {"unanswered": paced.unanswered}
    return report


def plain_answers_per_s(edge: Edge) -> int:
    """Requests a second that are answered from memory: what the server and the kernel take for themselves."""
    result = checked(run(edge.port, lambda: b"GET /healthz HTTP/1.1\r\nHost: edge\r\n\r\n", 256, 3.0))
    return round(len(result.seconds) / result.took_s)


def long_run(edge: Edge, load: str, seconds: float) -> dict[str, object]:
    """Memory, sampled every second, at the highest rate."""
    samples: list[int] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(1.0):
            samples.append(edge.rss_mb())

    thread = threading.Thread(target=sample)
    thread.start()
    result = checked(run(edge.port, requests(body(*LOADS[load])), CONNECTIONS[load], seconds))
    over.set()
    thread.join()
    tenth = max(1, len(samples) // 10)
    return {
        "minutes": round(seconds / 60, 1),
        "events_per_s": round(len(result.seconds) * LOADS[load][0] / result.took_s),
        "rss_mb": {
            "first_tenth": max(samples[:tenth]),
            "last_tenth": max(samples[-tenth:]),
            "most": max(samples),
        },
    }


def paused(edge: Edge, broker: KafkaBroker, load: str, seconds: float) -> dict[str, object]:
    """Memory while the broker stands still and clients go on sending, and that all goes on afterwards."""
    request = requests(body(*LOADS[load]))
    before = edge.rss_mb()
    broker.pause()
    still = run(edge.port, request, 512, seconds)
    during = edge.rss_mb()
    broker.resume()
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        after = run(edge.port, request, CONNECTIONS[load], 2.0)
        if set(after.statuses) == {200}:
            break
    return {
        "seconds": seconds,
        "rss_mb": {"before": before, "during": during, "after": edge.rss_mb()},
        "answers_during": still.statuses,
        "answers_after": after.statuses,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", nargs="+", default=["sqlite", "kafka"])
    parser.add_argument("--loads", nargs="+", default=list(LOADS))
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--pause", type=float, default=0.0)
    options = parser.parse_args()
    os.sched_setaffinity(0, CORES[1:] or CORES)
    report: dict[str, object] = {}
    for kind in options.logs:
        with log_at(kind) as (log, broker):
            edge = Edge(log)
            try:
                for load in options.loads:
                    name = f"{kind}, {load}"
                    if options.minutes:
                        report[name] = long_run(edge, load, options.minutes * 60)
                    elif options.pause and broker is not None:
                        report[name] = paused(edge, broker, load, options.pause)
                    elif not options.pause:
                        report[name] = measured(edge, load, options.seconds)
                if not options.minutes and not options.pause:
                    report[f"{kind}, answers that need no log, a second"] = plain_answers_per_s(edge)
            finally:
                edge.stop()
    if not options.minutes and not options.pause:
        report["decoding alone, ns an event"] = {
            load: costs_ns(body(*LOADS[load]), LOADS[load][0]) for load in options.loads
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
