"""The HTTP server of the edge: connections on asyncio, with no task, future or timer for a request.

An application is asked twice for each request, when its head is there and when its body is, and answers at once or later.
Answers leave in the order of their requests (pipelining). Every wait has an end: a coarse clock, moved on by one timer for
all connections, cuts off those that are too slow.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from dataclasses import dataclass, replace
from functools import lru_cache
from http import HTTPStatus
from typing import Final, Protocol, cast

from smartscale.clock import http_date, monotonic_s
from smartscale.ingest import answers
from smartscale.ingest.answers import Answer
from smartscale.ingest.http1 import MAX_HEAD, BadRequest, Head, Parser

TICK_S: Final = 0.5
"""How often the coarse clock moves; so much later than stated may a connection be cut off."""
PIPELINED: Final = 64
"""Requests of one connection that may wait for their answers; then it is not read from until some have left."""
_DISCARD: Final = 64 << 20
"""Bytes of a body that is thrown away which are still read: a client that is cut off while it sends never sees the answer.
Beyond it, it is cut off."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a client may take up. Times are real seconds."""

    head_s: float = 15.0
    """How long a head may take to arrive."""
    body_s: float = 30.0
    """How long a body may take to arrive, and answers to be taken."""
    idle_s: float = 75.0
    """How long a connection may stay open between two requests."""
    connections: int = 4096
    """At a time; a further one is closed at once."""
    head_bytes: int = MAX_HEAD


class Request:
    """One request. ``body`` is what has arrived of it; ``context`` belongs to the application."""

    __slots__ = ("_connection", "_parts", "answered", "arrived", "context", "head")

    def __init__(self, head: Head, connection: Connection) -> None:
        self.head = head
        self.context: object = None
        self.answered: bytes | None = None
        self.arrived = 0
        self._parts: list[bytes] = []
        self._connection = connection

    @property
    def body(self) -> bytes:
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    @property
    def peer(self) -> str:
        """The client's address."""
        return self._connection.peer

    def answer(self, answer: Answer) -> None:
        """Answer it; to be called once, on the loop. Does nothing more if the client has gone away."""
        self.answered = encoded(
            answer, self._connection.date(), self.head.method == "HEAD", self.head.keep_alive
        )
        self._parts.clear()
        self._connection.flush()

    def add(self, part: bytes) -> None:
        self._parts.append(part)


class App(Protocol):
    """What a server serves. All calls come on the loop, one at a time."""

    def begin(self, request: Request) -> Answer | None:
        """The head is there. An answer ends the request: its body is thrown away and ``complete`` is not called."""
        ...

    def more(self, request: Request) -> Answer | None:
        """``request.arrived`` bytes of a body of unknown length are there. An answer ends the request."""
        ...

    def complete(self, request: Request) -> Answer | None:
        """All of it is there. None: ``request.answer`` will be called later."""
        ...

    def lost(self, request: Request) -> None:
        """Between ``begin`` and ``complete`` the client went away, or was too slow, or sent what cannot be read."""
        ...


@lru_cache(maxsize=512)
def _start(status: int, content_type: str, headers: tuple[tuple[str, str], ...], close: bool) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"content-type: {content_type}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if close:
        lines.append("connection: close")
    return "\r\n".join([*lines, "content-length: "]).encode("latin-1")


def encoded(answer: Answer, date: bytes, bodiless: bool = False, keep_alive: bool = True) -> bytes:
    """An answer as it goes over the wire; ``date`` is the line of that header."""
    headers = tuple(answer.headers.items()) if answer.headers else ()
    start = _start(answer.status, answer.content_type, headers, not keep_alive)
    return b"%b%d\r\n%b\r\n%b" % (start, len(answer.body), date, b"" if bodiless else answer.body)


class Connection(asyncio.Protocol):
    """One connection, from accept to close."""

    def __init__(self, server: Server) -> None:
        self.peer = ""
        self._server = server
        self._parser = Parser(self, server.bounds.head_bytes)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[Request] = deque()
        """Requests whose heads have come and whose answers have not left, in their order."""
        self._reading: Request | None = None
        """The one whose body is coming."""
        self._closing = False
        """Nothing more is read; the connection closes once what waits has been answered."""
        self._clogged = False
        """The client does not take its answers."""
        self.deadline_s = 0.0

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if len(self._server.connections) >= self._server.bounds.connections or self._server.stopping:
            self._transport.abort()
            return
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]) if isinstance(peer, tuple) else ""
        self.deadline_s = self._server.now_s + self._server.bounds.head_s
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if self._parser.between:
            self.deadline_s = self._server.now_s + self._server.bounds.head_s
        try:
            self._parser.feed(data)
        except BadRequest as error:
            self._refuse(answers.problem(error.status, error.detail))
        if len(self._waiting) > PIPELINED and self._transport is not None:
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._clogged = True
        self.deadline_s = self._server.now_s + self._server.bounds.body_s
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._clogged = False
        if self._transport is not None:
            self._transport.resume_reading()

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._lose()
        self._waiting.clear()
        self._server.connections.discard(self)

    # What the parser calls.

    def head(self, head: Head) -> None:
        if self._closing:
            return
        self.deadline_s = self._server.now_s + self._server.bounds.body_s
        request = Request(head, self)
        self._waiting.append(request)
        self._reading = request
        self._settle(request, self._server.app.begin(request))
        if head.expects and request.answered is None and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def body(self, part: bytes) -> None:
        request = self._reading
        if request is None:
            return
        request.arrived += len(part)
        if request.answered is None:
            request.add(part)
            if request.head.length is None:
                self._settle(request, self._server.app.more(request))
        elif request.arrived > _DISCARD:
            self.cut()

    def end(self) -> None:
        request, self._reading = self._reading, None
        if request is None:
            return
        self.deadline_s = self._server.now_s + self._server.bounds.head_s  # the next one's, if it has begun
        if request.answered is None:
            self._settle(request, self._server.app.complete(request))
        if not request.head.keep_alive:
            self._closing = True
            self.flush()

    def _settle(self, request: Request, answer: Answer | None) -> None:
        if answer is not None:
            request.answer(answer)

    # What the server and requests call.

    def date(self) -> bytes:
        return self._server.date

    def flush(self) -> None:
        """Send the answers whose turn it is."""
        waiting, transport = self._waiting, self._transport
        if transport is None:
            return
        paused = len(waiting) > PIPELINED
        while waiting and waiting[0].answered is not None:
            transport.write(waiting.popleft().answered or b"")
        if waiting:
            if paused and len(waiting) <= PIPELINED and not self._clogged:
                transport.resume_reading()
            return
        if self._closing:
            transport.close()
            return
        if self._parser.between:
            self.deadline_s = self._server.now_s + self._server.bounds.idle_s
        if paused and not self._clogged:
            transport.resume_reading()

    def check(self, now_s: float) -> None:
        """Cut the connection off if it has kept us waiting for too long."""
        if now_s < self.deadline_s:
            return
        if self._clogged:
            self.cut()
        elif self._reading is not None and self._reading.answered is None:
            detail = f"the body did not arrive within {self._server.bounds.body_s:g} s; send less at once"
            self._refuse(answers.problem(408, detail))
        elif not self._waiting or self._reading is not None:
            self.cut()

    def stop(self) -> None:
        """Close as soon as nothing waits for an answer any more."""
        if self._reading is None:
            self._closing = True
            self.flush()

    def _refuse(self, answer: Answer) -> None:
        """Answer what cannot be read on, after everything that came before it, and close."""
        request = self._reading
        self._closing = True
        if request is None or request.answered is not None:
            request = Request(_UNREAD, self)
            self._waiting.append(request)
        self._lose()
        request.answer(replace(answer, headers={**answer.headers, "connection": "close"}))

    def _lose(self) -> None:
        request, self._reading = self._reading, None
        if request is not None and request.answered is None:
            self._server.app.lost(request)

    def cut(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


_UNREAD: Final = Head("", "", "", {}, 0, keep_alive=True, expects=False)
"""Stands for the head of a request that could not be read."""


class Server:
    """Listens, and keeps the connections. Use on one event loop."""

    def __init__(self, app: App, bounds: Bounds | None = None) -> None:
        self.app = app
        self.bounds = bounds or Bounds()
        self.connections: set[Connection] = set()
        self.stopping = False
        self.now_s = monotonic_s()
        """The coarse clock; real."""
        self.date = _date()
        """The ``Date`` header's line."""
        self._listening: asyncio.Server | None = None
        self._tick: asyncio.TimerHandle | None = None

    async def start(
        self, host: str, port: int, backlog: int = 1024, context: ssl.SSLContext | None = None
    ) -> None:
        """Listen, with TLS if ``context`` says how. Raises ``OSError`` if the address cannot be had."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(
            lambda: Connection(self),
            host,
            port,
            family=socket.AF_UNSPEC,
            backlog=backlog,
            ssl=context,
            ssl_handshake_timeout=self.bounds.head_s if context else None,
        )
        self._move()

    @property
    def port(self) -> int:
        """The port it listens on, once started."""
        if self._listening is None:
            raise RuntimeError("the server has not been started")
        return int(self._listening.sockets[0].getsockname()[1])

    async def stop(self, timeout_s: float) -> None:
        """Take no more connections, let those that wait for an answer have it, and close; after ``timeout_s`` cut off."""
        self.stopping = True
        if self._listening is not None:
            self._listening.close()
        end_s = monotonic_s() + timeout_s
        while self.connections and monotonic_s() < end_s:
            for connection in list(self.connections):
                connection.stop()
            await asyncio.sleep(_STOPPING_S)
        for connection in list(self.connections):
            connection.cut()
        if self._tick is not None:
            self._tick.cancel()

    def _move(self) -> None:
        self.now_s, self.date = monotonic_s(), _date()
        for connection in list(self.connections):
            connection.check(self.now_s)
        self._tick = asyncio.get_running_loop().call_later(TICK_S, self._move)


_STOPPING_S: Final = 0.01
"""How often a stopping server looks whether all have left."""


def _date() -> bytes:
    return f"date: {http_date()}\r\n".encode()
