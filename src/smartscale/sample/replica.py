"""One replica of the sample service: a real process with a limited capacity and a start-up time.

It serves once its socket exists, ``--startup`` seconds of world time after its start. On SIGTERM (or when the
supervisor is gone) it takes its socket away, tells its balancers, finishes what it has and ends.
"""

from __future__ import annotations

import argparse
import heapq
import random
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from smartscale.clock import MICROS, Anchor, Clock, ScaledClock, WallClock
from smartscale.config import Sample
from smartscale.sample.protocol import Answers, Connection, Draining, Frame, Hello, Serve, listen
from smartscale.sample.serving import Server, serve, service_time_us
from smartscale.telemetry import lifeline

_TICK_S: Final = 0.01
"""Real. Answers leave at most this late, and a stop is noticed within it."""


class _Replica:
    """The shell: one thread, sockets in, answers out when the clock has passed their end."""

    def __init__(self, path: Path, clock: Clock, capacity_per_s: float, timeout_s: float, seed: int) -> None:
        self._clock = clock
        self._capacity_per_s = capacity_per_s
        self._chance = random.Random(seed)
        self._server = Server(round(timeout_s * MICROS), clock.now_us())
        self._due: list[tuple[int, int, int, Connection]] = []
        self._reading: dict[int, Connection] = {}
        """By file descriptor."""
        self._outstanding: dict[Connection, int] = {}
        """Requests not yet answered, of every connection that is still written to."""
        self._selector = selectors.DefaultSelector()
        self._path = path
        self._listener: socket.socket | None = listen(path)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def run(self, stop: threading.Event) -> None:
        """Serve until ``stop`` is set and everything accepted has been answered."""
        while not stop.is_set() or self._due or self._outstanding:
            for key, _ in self._selector.select(self._wait_s()):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._receive(self._reading[key.fd])
            if stop.is_set() and self._listener is not None:
                self._drain()
            self._answer()
        self._drain()

    def _wait_s(self) -> float:
        if not self._due:
            return _TICK_S
        left_s = self._clock.to_real_s((self._due[0][0] - self._clock.now_us()) / MICROS)
        return min(max(left_s, 0.001), _TICK_S)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return  # the caller has gone again
        connection = Connection(peer)
        self._reading[peer.fileno()] = connection
        self._outstanding[connection] = 0
        self._selector.register(peer, selectors.EVENT_READ)
        connection.send(Hello(self._capacity_per_s))

    def _receive(self, connection: Connection) -> None:
        frames, is_open = connection.receive()
        for frame in frames:
            self._take(frame, connection)
        if not is_open:
            self._selector.unregister(connection.socket)
            del self._reading[connection.socket.fileno()]

    def _take(self, frame: Frame, connection: Connection) -> None:
        if not isinstance(frame, Serve):
            raise ValueError(f"a balancer sends requests, not {frame!r}")
        times = [
            service_time_us(self._capacity_per_s, frame.slowdown, self._chance.expovariate(1.0))
            for _ in frame.requests
        ]
        self._server, finished = serve(self._server, frame.requests, times)
        for request, status, end_us in finished:
            heapq.heappush(self._due, (end_us, request, status, connection))
        self._outstanding[connection] += len(finished)

    def _answer(self) -> None:
        """Send every answer whose end the clock has passed; let go of balancers that are done or gone."""
        now_us = self._clock.now_us()
        ready: dict[Connection, list[tuple[int, int, int]]] = {}
        while self._due and self._due[0][0] <= now_us:
            end_us, request, status, connection = heapq.heappop(self._due)
            ready.setdefault(connection, []).append((request, status, end_us))
        reading = set(self._reading.values())
        for connection in list(self._outstanding):
            finished = ready.get(connection)
            is_there = connection.send(Answers(finished)) if finished else connection.flush()
            self._outstanding[connection] -= len(finished or ())
            is_done = not self._outstanding[connection] and connection.is_flushed
            if connection not in reading and (is_done or not is_there):
                del self._outstanding[connection]
                self._due = [due for due in self._due if due[3] is not connection]
                heapq.heapify(self._due)
                connection.close()

    def _drain(self) -> None:
        """Take no more balancers and no more requests."""
        if self._listener is None:
            return
        self._path.unlink(missing_ok=True)
        self._selector.unregister(self._listener)
        self._listener.close()
        self._listener = None
        for connection in self._reading.values():
            connection.send(Draining())


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="smartscale.sample.replica", description=__doc__)
    parser.add_argument("--ready", type=Path, required=True, help="path of the socket")
    parser.add_argument("--id", required=True, help="seeds the service times")
    parser.add_argument("--capacity", type=float, required=True, help="requests a second (world time)")
    parser.add_argument(
        "--startup", type=float, required=True, help="seconds from start to ready (world time)"
    )
    parser.add_argument(
        "--timeout", type=float, required=True, help="seconds a request may wait (world time)"
    )
    parser.add_argument("--started-us", type=int, help="world time of the start; now if left out")
    parser.add_argument("--anchor", help="JSON of the scaled clock's anchor; the wall clock if left out")
    given = parser.parse_args(arguments)

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    lifeline.watch(stop)
    clock: Clock = WallClock()
    if given.anchor:
        clock = ScaledClock(msgspec.json.decode(given.anchor, type=Anchor))
    started_us = clock.now_us() if given.started_us is None else given.started_us
    ready_us = started_us + round(given.startup * MICROS)
    while (left_us := ready_us - clock.now_us()) > 0:
        if stop.wait(max(0.001, clock.to_real_s(left_us / MICROS))):
            return 0
    _Replica(given.ready, clock, given.capacity, given.timeout, seed=_seed(given.id)).run(stop)
    return 0


def _seed(text: str) -> int:
    """A seed that is the same in every process (``hash`` is not)."""
    return int.from_bytes(text.encode()[:8], "little")


def command(settings: Sample, clock: Clock) -> list[str]:
    """The command template of a replica for ``actuators.processes``; it shares this process's clock."""
    words = [
        sys.executable, "-m", "smartscale.sample.replica", "--ready", "{ready}", "--id", "{id}",
        "--capacity", f"{settings.capacity_per_s:g}", "--startup", f"{settings.startup_s:g}",
        "--timeout", f"{settings.timeout_s:g}", "--started-us", "{started_us}",
    ]  # fmt: skip
    if isinstance(clock, ScaledClock):
        words += ["--anchor", msgspec.json.encode(clock.anchor).decode()]
    return words


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
