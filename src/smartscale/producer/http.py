"""Requests over a fixed number of connections, each until it has its final answer: one event loop, nothing waits.

A request that finds no free connection waits here, and its latency runs on. One that got no answer, or one of 429 and 5xx,
is sent again with the same ids after a pause, until it has been tried for too long.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import deque
from typing import Final, Protocol, cast

import httptools

from smartscale.client.address import Address, Token
from smartscale.client.answers import AGAIN, Fate, fate, pause_s, retry_after_s
from smartscale.clock import monotonic_s
from smartscale.producer.chunk import Chunk

_SWEEP_S: Final = 0.1
"""How often time-outs are looked for; a hundredth of the shortest that makes sense."""
_CONNECT_S: Final = 5.0
"""How long a connection may take to be made, TLS included."""


REQUEST_BYTES: Final = 400
"""What a request takes in memory beside its events."""


class Request:
    """The events ``[start, stop)`` of a chunk, and when they were due, given over, first and last sent (monotonic
    seconds; 0: not yet)."""

    __slots__ = ("attempts", "chunk", "due_s", "first_s", "given_s", "last_s", "size_bytes", "start", "stop")

    def __init__(self, chunk: Chunk, start: int, stop: int, due_s: float, given_s: float) -> None:
        self.chunk, self.start, self.stop = chunk, start, stop
        self.due_s, self.given_s, self.first_s, self.last_s = due_s, given_s, 0.0, 0.0
        self.attempts = 0
        self.size_bytes = 0

    def body(self) -> bytes:
        """A JSON object if it is one event, else an array."""
        if self.stop - self.start == 1:
            return self.chunk.event(self.start)
        return self.chunk.body(self.start, self.stop)


class Owner(Protocol):
    """Told of what happens to requests."""

    def settled(self, request: Request, became: Fate | None, now_s: float) -> None:
        """The request has its end: what became of its events, or None if it was given up."""
        ...

    def troubled(self, kind: str, words: str) -> None:
        """An attempt, or the making of a connection, failed. ``kind`` is a status, ``no answer`` or ``no connection``."""
        ...


class Pool:
    """Connections to one edge, and the requests on their way. To be used on its event loop only."""

    def __init__(
        self,
        address: Address,
        owner: Owner,
        *,
        token: Token | None,
        connections: int,
        give_up_s: float,
        timeout_s: float,
        seed: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._address, self._owner = address, owner
        self._context = ssl.create_default_context() if address.scheme == "https" else None
        self._connections, self._give_up_s, self._timeout_s = connections, give_up_s, timeout_s
        self._head = _head(address, token)
        self._chance = random.Random(seed)
        self._open: set[_Connection] = set()
        self._idle: list[_Connection] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._open_after_s = 0.0
        self._failed_opens = 0
        self._waiting: deque[Request] = deque()
        self._pausing: dict[Request, asyncio.TimerHandle] = {}
        self._closed = False
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)
        self.outstanding = 0
        """Requests without a final answer."""
        self.outstanding_bytes = 0
        self.requests = 0
        """Attempts made."""
        self.retries = 0

    async def warm_up(self, timeout_s: float) -> None:
        """Open all connections, as far as that works within the time: what is measured should not be their making."""
        self._grow(self._connections)
        if self._opening:
            await asyncio.wait(self._opening, timeout=timeout_s)

    def submit(self, request: Request) -> None:
        """Take a request; it is sent at once if a connection is free."""
        self.outstanding += 1
        request.size_bytes = REQUEST_BYTES + request.chunk.size(request.start, request.stop)
        self.outstanding_bytes += request.size_bytes
        self._send(request)

    async def close(self) -> None:
        """Give up what has no answer yet, and close every connection."""
        self._closed = True
        self._sweeper.cancel()
        for task in self._opening:
            task.cancel()
        now_s = monotonic_s()
        left = [connection.request for connection in self._open if connection.request is not None]
        for handle in self._pausing.values():
            handle.cancel()
        for request in [*left, *self._waiting, *self._pausing]:
            self._end(request, None, now_s)
        for connection in self._open:
            connection.request = None
            connection.abort()
        await asyncio.sleep(0)  # lets the transports go

    def _send(self, request: Request) -> None:
        if self._idle:
            self._idle.pop().send(request)
        else:
            self._waiting.append(request)
            if len(self._open) < self._connections:
                self._grow(len(self._waiting))

    def _grow(self, wanted: int) -> None:
        """Open as many connections as are wanted and allowed."""
        room = self._connections - len(self._open) - len(self._opening)
        if room <= 0 or self._closed or monotonic_s() < self._open_after_s:
            return
        for _ in range(min(wanted - len(self._opening), room)):
            task = self._loop.create_task(self._open_one())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open_one(self) -> None:
        try:
            async with asyncio.timeout(_CONNECT_S):
                await self._loop.create_connection(
                    lambda: _Connection(self), self._address.host, self._address.port, ssl=self._context
                )
            self._failed_opens = 0
        except (OSError, TimeoutError) as error:
            self._owner.troubled(
                "no connection", f"no connection to {self._address.netloc}: {error or 'time-out'}"
            )
            wait_s = pause_s(self._failed_opens // self._connections, 0.0, self._chance)
            self._failed_opens += 1
            self._open_after_s = monotonic_s() + wait_s

    def opened(self, connection: _Connection) -> None:
        """A connection has been made."""
        self._open.add(connection)
        self.free(connection)

    def free(self, connection: _Connection) -> None:
        """A connection can take the next request."""
        if self._waiting:
            connection.send(self._waiting.popleft())
        else:
            self._idle.append(connection)

    def lost(self, connection: _Connection, request: Request | None, why: str) -> None:
        """A connection is gone, and with it the answer to ``request``."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if request is not None:
            self._again(request, "no answer", f"no answer from {self._address.netloc}: {why}", 0.0)
        if self._waiting:
            self._grow(len(self._waiting))

    def answered(self, request: Request, status: int, asked: str | None, body: bytes) -> None:
        """A request has an answer, final or not."""
        if status in AGAIN:
            self._again(request, str(status), f"answer {status}: {body[:200]!r}", retry_after_s(asked))
        else:
            self._end(request, fate(status, body, request.stop - request.start), monotonic_s())

    def written(self, request: Request, head: bytes) -> bytes:
        """The bytes of a request's next attempt, which begins now."""
        now_s = request.last_s = monotonic_s()
        if not request.attempts:
            request.first_s = now_s
        request.attempts += 1
        self.requests += 1
        body = request.body()
        return b"%b%d\r\n\r\n%b" % (head, len(body), body)

    def _again(self, request: Request, kind: str, words: str, asked_s: float) -> None:
        self._owner.troubled(kind, words)
        now_s = monotonic_s()
        wait_s = pause_s(request.attempts - 1, asked_s, self._chance)
        if self._closed or now_s + wait_s > request.given_s + self._give_up_s:
            self._end(request, None, now_s)
            return
        self.retries += 1
        self._pausing[request] = self._loop.call_later(wait_s, self._resume, request)

    def _resume(self, request: Request) -> None:
        del self._pausing[request]
        self._send(request)

    def _end(self, request: Request, became: Fate | None, now_s: float) -> None:
        self.outstanding -= 1
        self.outstanding_bytes -= request.size_bytes
        self._owner.settled(request, became, now_s)

    def _sweep(self) -> None:
        """End what has taken too long, and open what is missing."""
        now_s = monotonic_s()
        for connection in list(self._open):
            if connection.request is not None and now_s - connection.request.last_s > self._timeout_s:
                connection.why = f"no answer within {self._timeout_s:g} s"
                connection.abort()
        while self._waiting and now_s > self._waiting[0].given_s + self._give_up_s:
            self._end(self._waiting.popleft(), None, now_s)
        if self._waiting:
            self._grow(len(self._waiting))
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)

    @property
    def head(self) -> bytes:
        """The beginning of every request, up to its length."""
        return self._head


class _Connection(asyncio.Protocol):
    """One connection with at most one request under way."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._head = pool.head
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._parts: list[bytes] = []
        self._asked: str | None = None
        self.request: Request | None = None
        self.why = "closed by the other side"

    def send(self, request: Request) -> None:
        self.request = request
        assert self._transport is not None
        self._transport.write(self._pool.written(request, self._head))

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class
        self._pool.opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.why = f"not HTTP: {error}"
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        request, self.request = self.request, None
        self._pool.lost(self, request, str(exc) if exc else self.why)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser, as the methods below."""
        if len(name) == 11 and name.lower() == b"retry-after":
            self._asked = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # an interim answer; the real one follows
            return
        request, self.request = self.request, None
        body, asked = b"".join(self._parts), self._asked
        self._parts, self._asked = [], None
        if request is None or not self._parser.should_keep_alive():
            self.why = "closed after an answer"
            self.abort()
        else:
            self._pool.free(self)
        if request is not None:
            self._pool.answered(request, status, asked, body)


def _head(address: Address, token: Token | None) -> bytes:
    headers = {
        "Host": address.netloc,
        "Content-Type": "application/json",
        **(token.headers() if token else {}),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {address.prefix}/v1/events HTTP/1.1\r\n{lines}Content-Length: ".encode()
