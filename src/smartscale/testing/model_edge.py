"""An edge of known behaviour, as a process of its own: so many events a second, stalls at known times, lost answers.

A load generator is an instrument, and is calibrated against this one:

    python -m smartscale.testing.model_edge --capacity 5000 --stall-every 10 --stall 1

It serves requests one after the other, each for as long as its events take at the capacity (an M/D/1 queue under Poisson
arrivals), and prints its port as its first line.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import httptools
import uvloop

from smartscale.clock import monotonic_s
from smartscale.producer.alarm import Alarm


class _Server:
    def __init__(self, options: argparse.Namespace) -> None:
        self._capacity: float = options.capacity
        self._every_s: float = options.stall_every
        self._stall_s: float = options.stall
        self._busy, self._lose = options.busy_every, options.lose_every
        self._began_s = monotonic_s()
        self._free_s = 0.0
        self._requests = 0
        self._answers: list[tuple[float, _Connection, bytes]] = []
        self._alarm = Alarm(asyncio.get_running_loop(), self._ring)

    def take(self, connection: _Connection, body: bytes) -> None:
        """Answer a request when it has been served."""
        self._requests += 1
        if self._lose and self._requests % self._lose == 0:
            connection.close()
            return
        events = body.count(b'"service":')
        answer = _answer(b"200 OK", b'{"accepted":%d,"duplicate":0,"refused":0,"verdicts":[]}' % events)
        if self._busy and self._requests % self._busy == 0:
            answer = _answer(b"503 Busy\r\nRetry-After: 1", b"{}")
        if not self._capacity and not self._every_s:
            connection.write(answer)
            return
        now_s = monotonic_s()
        self._free_s = self._over_stalls(max(now_s, self._free_s))
        if self._capacity:
            self._free_s = self._over_stalls(self._free_s + events / self._capacity)
        self._answers.append((self._free_s, connection, answer))
        if len(self._answers) == 1:
            self._alarm.at(self._free_s)

    def _over_stalls(self, instant_s: float) -> float:
        """The instant, or the end of the stall it lies in. The n-th stall begins n periods after the start."""
        if self._every_s:
            since_s = (instant_s - self._began_s) % self._every_s
            if since_s < self._stall_s and instant_s - self._began_s >= self._every_s:
                return instant_s - since_s + self._stall_s
        return instant_s

    def _ring(self) -> None:
        now_s = monotonic_s()
        served = 0
        for ready_s, connection, answer in self._answers:
            if ready_s > now_s:
                self._alarm.at(ready_s)
                break
            connection.write(answer)
            served += 1
        del self._answers[:served]


def _answer(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


class _Connection(asyncio.Protocol):
    def __init__(self, server: _Server) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._parts: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Called by the parser, as the method below."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        body, self._parts = b"".join(self._parts), []
        self._server.take(self, body)

    def write(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)

    def close(self) -> None:
        self._transport.abort()


async def serve(options: argparse.Namespace) -> None:
    """Serve until the process ends."""
    server = _Server(options)
    listening = await asyncio.get_running_loop().create_server(
        lambda: _Connection(server), "127.0.0.1", options.port, backlog=1024
    )
    sys.stdout.write(f"{listening.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await listening.serve_forever()


@contextmanager
def model_edge(*words: str) -> Iterator[str]:
    """A model edge for a ``with`` block; gives its URL. ``words`` are its arguments."""
    process = subprocess.Popen(
        [sys.executable, "-m", "smartscale.testing.model_edge", *words], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--capacity", type=float, default=0.0, help="events a second; 0: as many as come")
    parser.add_argument("--stall-every", type=float, default=0.0, help="seconds from stall to stall")
    parser.add_argument("--stall", type=float, default=1.0, help="seconds that a stall lasts")
    parser.add_argument("--busy-every", type=int, default=0, help="answer every n-th request with 503")
    parser.add_argument(
        "--lose-every", type=int, default=0, help="close on every n-th request without an answer"
    )
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
