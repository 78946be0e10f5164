"""How a replica serves: one server, first come first served, with a limited capacity and a time-out.

A request begins when it has arrived and everything before it is done, and then takes its service time. One that
would have to wait longer than the time-out fails when the time-out ends and uses no capacity. World time in
microseconds throughout.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from smartscale.clock import MICROS
from smartscale.sample.protocol import OK, TIMED_OUT


class Server(msgspec.Struct, frozen=True):
    """A replica's settings and when it will have done what it has accepted."""

    timeout_us: int
    busy_until_us: int


def serve(
    server: Server, requests: Sequence[tuple[int, int]], service_us: Sequence[int]
) -> tuple[Server, list[tuple[int, int, int]]]:
    """The server after ``requests`` (id, arrival) with their service times, and (id, status, end) of each.

    >>> serve(Server(timeout_us=100, busy_until_us=0), [(1, 0), (2, 5), (3, 20)], [90, 90, 90])[1]
    [(1, 200, 90), (2, 200, 180), (3, 504, 120)]
    """
    free_us = server.busy_until_us
    finished = []
    for (request, arrival_us), takes_us in zip(requests, service_us, strict=True):
        start_us = max(arrival_us, free_us)
        if start_us - arrival_us > server.timeout_us:
            finished.append((request, TIMED_OUT, arrival_us + server.timeout_us))
        else:
            free_us = start_us + takes_us
            finished.append((request, OK, free_us))
    return Server(server.timeout_us, free_us), finished


def service_time_us(capacity_per_s: float, slowdown: float, chance: float) -> int:
    """An exponential service time with mean ``slowdown / capacity_per_s``. ``chance``: a standard exponential draw.

    Exponential chosen because the M/M/1 queue is the plainest model whose latency rises before it saturates."""
    return max(1, round(MICROS * slowdown / capacity_per_s * chance))
