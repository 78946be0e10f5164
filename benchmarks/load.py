"""A lean HTTP client for benchmarks: one thread, many connections, little work a request, so that it is not the limit.

Closed loop: each connection sends its next request once it has its answer; that finds the highest rate. Open loop: requests
are due at planned times and wait for a free connection; a latency counts from when its request was due, so a server that
stalls cannot hide it (as wrk2 does).
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Result:
    """What a run saw. ``seconds`` holds the latency of each request that was answered with 200."""

    took_s: float = 0.0
    busy_s: float = 0.0
    """Processor time of the client: near ``took_s`` it was the limit itself."""
    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    unanswered: int = 0


class _Connection:
    __slots__ = ("buffer", "due_s", "left", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.due_s = 0.0
        self.left = memoryview(b"")
        """Of the request, not sent yet."""
        self.buffer = b""


def run(
    port: int,
    request: Callable[[], bytes | bytearray],
    connections: int,
    seconds: float,
    rate_per_s: float | None = None,
) -> Result:
    """Post for ``seconds``; ``request`` gives each request's bytes. ``rate_per_s`` None: closed loop."""
    result = Result()
    made = [_Connection(port) for _ in range(connections)]
    by_number = {each.socket.fileno(): each for each in made}
    poll = select.epoll()
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    free = deque(made)
    busy_s, start_s = time.process_time(), time.monotonic()
    end_s = start_s + seconds
    planned = 0
    while True:
        now_s = time.monotonic()
        ending = now_s >= end_s
        while free and not ending:
            if rate_per_s is None:
                due_s = now_s
            else:
                due_s = start_s + planned / rate_per_s
                if due_s > now_s:
                    break
            planned += 1
            _send(free.popleft(), request(), due_s, poll)
        if ending and (len(free) == connections or now_s > end_s + _GRACE_S):
            break
        wait_s = _WAIT_S
        if rate_per_s is not None and free and not ending:
            wait_s = max(0.0, min(_WAIT_S, start_s + planned / rate_per_s - now_s))
        for number, events in poll.poll(wait_s):
            connection = by_number[number]
            if events & select.EPOLLOUT:
                _push(connection, poll)
            if events & ~select.EPOLLOUT and _received(connection, result):
                free.append(connection)
    result.took_s = min(time.monotonic(), end_s) - start_s
    result.busy_s = time.process_time() - busy_s
    result.unanswered = connections - len(free)
    if rate_per_s is not None:  # what was due and found no free connection
        result.unanswered += max(0, int(seconds * rate_per_s) - planned)
    poll.close()
    for each in made:
        each.socket.close()
    return result


_WAIT_S = 0.05
_GRACE_S = 10.0


def _send(connection: _Connection, request: bytes | bytearray, due_s: float, poll: select.epoll) -> None:
    connection.due_s = due_s
    connection.left = memoryview(bytes(request))
    try:
        sent = connection.socket.send(connection.left)
    except BlockingIOError:
        sent = 0
    connection.left = connection.left[sent:]
    if connection.left:
        poll.modify(connection.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)


def _push(connection: _Connection, poll: select.epoll) -> None:
    """Send more of a request that did not fit into the socket."""
    if connection.left:
        try:
            connection.left = connection.left[connection.socket.send(connection.left) :]
        except BlockingIOError:
            return
    if not connection.left:
        poll.modify(connection.socket.fileno(), select.EPOLLIN)


def _received(connection: _Connection, result: Result) -> bool:
    """Whether the answer is there."""
    data = connection.socket.recv(65536)
    if not data:
        raise RuntimeError("the server closed a connection")
    text = connection.buffer + data if connection.buffer else data
    end = text.find(b"\r\n\r\n")
    at = text.find(b"content-length: ")
    if end < 0 or len(text) < end + 4 + int(text[at + 16 : text.index(b"\r", at)]):
        connection.buffer = text
        return False
    connection.buffer = b""
    status = int(text[9:12])
    result.statuses[status] = result.statuses.get(status, 0) + 1
    if status == 200:
        result.seconds.append(time.monotonic() - connection.due_s)
    return True
