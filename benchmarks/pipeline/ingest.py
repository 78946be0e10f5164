"""Ingest: JSON events a second that one process on one core takes in and answers durably.

    python benchmarks/pipeline/ingest.py [--seconds 8] [--batch 500] [--connections 16] [--log sqlite:PATH]

A real ``smartscale ingest`` process is pinned to the first core; a lean client on the other cores keeps the connections
busy (closed loop, so latency here is that of a full edge). Beside it, from the same run: what decoding alone costs on
that core (the limit), and the processor time that the process spent on an event: on a machine that does other work, compare
these two, for events a second suffer first. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import msgspec
import numpy as np
import psutil

from smartscale import config
from smartscale.log import open_log
from smartscale.log.topics import specs
from smartscale.records.events_json import EventIn

MARK = b"RUN-XXXXXXXX"
"""Stands for a part of every id that is different in every request, so that no event repeats another."""


def body(batch: int, now_s: float) -> bytes:
    """A typical batch: a dozen services, two hundred routes, ids; about 200 bytes an event."""
    chance = np.random.default_rng(1)
    events = [
        {
            "service": f"service-{chance.integers(12)}",
            "time": str(np.datetime64(int((now_s - 1 + i / batch) * 1e6), "us")) + "Z",
            "name": f"GET /api/v1/resource-{chance.integers(200)}",
            "status": int(chance.choice([200, 200, 200, 201, 404, 500])),
            "latency_ms": round(float(chance.lognormal(3, 0.7)), 3),
            "id": f"{MARK.decode()}-{i}",
        }
        for i in range(batch)
    ]
    return json.dumps(events).encode()


def decoding_ns(text: bytes, batch: int) -> float:
    """Processor time an event, in nanoseconds, of typed decoding alone: the limit for anything that reads JSON."""
    decode = msgspec.json.Decoder(list[EventIn]).decode
    start = time.process_time()
    rounds = 300
    for _ in range(rounds):
        decode(text)
    return (time.process_time() - start) / rounds / batch * 1e9


class Client:
    """Posts the batch over and over on some connections, each waiting for its answer."""

    def __init__(self, port: int, text: bytes, connections: int) -> None:
        self._port, self._text, self._connections = port, text, connections
        self.seconds: list[float] = []

    def run(self, seconds: float, run: str) -> int:
        """Requests answered with 200."""
        self.seconds = []
        end = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self._work, args=(end, f"{run}{i:x}")) for i in range(self._connections)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(self.seconds)

    def _work(self, end: float, who: str) -> None:
        head = (
            "POST /v1/events HTTP/1.1\r\nHost: edge\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(self._text)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", self._port)) as connection:
            number = 0
            while time.monotonic() < end:
                mark = f"{who}{number:x}".encode().rjust(len(MARK), b"-")
                request = head.encode() + self._text.replace(MARK, mark)
                start = time.monotonic()
                connection.sendall(request)
                answer = connection.recv(65536)
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise RuntimeError(f"unexpected answer: {answer[:300]!r}")
                self.seconds.append(time.monotonic() - start)
                number += 1


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        if process.poll() is not None:
            raise RuntimeError(f"ingest ended with code {process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("ingest did not get ready within 10 s")


def measured(options: argparse.Namespace, record_events: int) -> dict[str, object]:
    """One run of an edge that puts at most ``record_events`` events into a record."""
    cores = sorted(os.sched_getaffinity(0))
    text = body(options.batch, time.time())
    with tempfile.TemporaryDirectory() as folder:
        log = options.log or f"sqlite:{Path(folder) / 'log.db'}"
        opened = open_log(log)
        opened.create(specs(config.load(environment={})))
        opened.close()
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", "smartscale", "ingest", "--log", log, "--port", str(port)],
            env=os.environ | {"SMARTSCALE_INGEST__RECORD_EVENTS": str(record_events)},
        )
        try:
            os.sched_setaffinity(process.pid, cores[:1])
            for thread in psutil.Process(process.pid).threads():
                os.sched_setaffinity(thread.id, cores[:1])
            os.sched_setaffinity(0, cores[1:] or cores)
            wait_ready(port, process)
            client = Client(port, text, options.connections)
            client.run(1.0, "w")
            before = sum(psutil.Process(process.pid).cpu_times()[:2])
            start = time.monotonic()
            requests = client.run(options.seconds, "m")
            took = time.monotonic() - start
            spent = sum(psutil.Process(process.pid).cpu_times()[:2]) - before
        finally:
            process.terminate()
            process.wait(20)
            os.sched_setaffinity(0, cores)
    events = requests * options.batch
    p50, p99 = np.quantile(client.seconds, [0.5, 0.99]).tolist()
    return {
        "log": log.partition(":")[0],
        "batch_events": options.batch,
        "bytes_per_event": round(len(text) / options.batch),
        "connections": options.connections,
        "events_per_s": round(events / took),
        "process_ns_per_event": round(spent / events * 1e9),
        "decoding_alone_ns_per_event": round(decoding_ns(text, options.batch)),
        "cores_busy": round(spent / took, 2),
        "answer_ms": {"p50": round(p50 * 1e3, 1), "p99": round(p99 * 1e3, 1)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--log", default="")
    options = parser.parse_args()
    print(json.dumps({f"records of {n} events": measured(options, n) for n in (5000, 500)}, indent=2))


if __name__ == "__main__":
    main()
