"""The balancer: which replica serves which request, and what becomes of each. Pure; time is an argument.

- A request goes to the replica with the shortest expected queue (requests outstanding / capacity), late: only
  while that queue is shorter than ``allowance_us``. The rest waits here, first come first served, so that a replica
  that becomes ready takes over backlog at once.
- The queue is bounded by what the ready replicas could serve within the time-out (one replica's worth while none
  is ready): more could not be served in time, so it is rejected at once (503).
- Every request ends exactly once: answered, timed out here (504), rejected (503), or lost with its replica (502).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from smartscale.clock import MICROS
from smartscale.sample.protocol import LOST, REJECTED, TIMED_OUT, Serve

_PATIENCE: Final = 3
"""Time-outs after which an answer is no longer waited for: a replica gives one after its time-out at the latest,
so this one hangs (SIGSTOP) or is gone."""


class Finished(NamedTuple):
    """A request at its end. Times in microseconds of world time."""

    request: int
    arrival_us: int
    end_us: int
    status: int


@dataclass(slots=True)
class _Replica:
    capacity_per_s: float
    outstanding: dict[int, int] = field(default_factory=dict)
    """Arrival by request, oldest sent first."""
    draining: bool = False


class Balancer:
    """Requests and replicas of one service. ``capacity_per_s`` is assumed of a replica while none is ready."""

    def __init__(self, capacity_per_s: float, timeout_s: float, allowance_s: float) -> None:
        self._capacity_per_s = capacity_per_s
        self._timeout_us = round(timeout_s * MICROS)
        self._allowance_s = allowance_s
        self._next = 0
        self._queue: deque[tuple[int, int]] = deque()
        self._replicas: dict[str, _Replica] = {}

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def outstanding(self) -> int:
        """Requests without an end yet."""
        return len(self._queue) + sum(len(r.outstanding) for r in self._replicas.values())

    @property
    def ready(self) -> int:
        return sum(not r.draining for r in self._replicas.values())

    @property
    def ready_capacity_per_s(self) -> float:
        return sum(r.capacity_per_s for r in self._replicas.values() if not r.draining)

    def added(self, replica: str, capacity_per_s: float) -> None:
        self._replicas[replica] = _Replica(capacity_per_s)

    def draining(self, replica: str) -> None:
        self._replicas[replica].draining = True

    def removed(self, replica: str, now_us: int) -> list[Finished]:
        """The replica is gone; what it had outstanding is lost."""
        gone = self._replicas.pop(replica, None)
        if gone is None:
            return []
        return [
            Finished(request, arrival_us, now_us, LOST) for request, arrival_us in gone.outstanding.items()
        ]

    def arrive(self, arrivals_us: Iterable[int]) -> list[Finished]:
        """Take requests in; returns those rejected because the queue is full."""
        limit = max(self.ready_capacity_per_s, self._capacity_per_s) * self._timeout_us / MICROS
        rejected = []
        for arrival_us in arrivals_us:
            self._next += 1
            if len(self._queue) < limit:
                self._queue.append((self._next, arrival_us))
            else:
                rejected.append(Finished(self._next, arrival_us, arrival_us, REJECTED))
        return rejected

    def dispatch(self, slowdown: float) -> dict[str, Serve]:
        """Requests to send now, by replica. ``slowdown`` multiplies service times."""
        batches: dict[str, list[tuple[int, int]]] = {}
        waits = [
            (len(r.outstanding) * slowdown / r.capacity_per_s, name)
            for name, r in self._replicas.items()
            if not r.draining
        ]
        heapq.heapify(waits)
        while self._queue and waits and waits[0][0] < self._allowance_s:
            wait_s, name = waits[0]
            request, arrival_us = self._queue.popleft()
            replica = self._replicas[name]
            replica.outstanding[request] = arrival_us
            batches.setdefault(name, []).append((request, arrival_us))
            heapq.heapreplace(waits, (wait_s + slowdown / replica.capacity_per_s, name))
        return {name: Serve(requests, slowdown) for name, requests in batches.items()}

    def answered(self, replica: str, answers: Sequence[tuple[int, int, int]]) -> list[Finished]:
        """Answers of a replica. One that came after the request was given up is ignored."""
        outstanding = self._replicas[replica].outstanding
        return [
            Finished(request, arrival_us, end_us, status)
            for request, status, end_us in answers
            if (arrival_us := outstanding.pop(request, None)) is not None
        ]

    def expire(self, now_us: int) -> list[Finished]:
        """Requests that have waited here for longer than the time-out, or whose replica hangs."""
        finished = []
        while self._queue and now_us - self._queue[0][1] > self._timeout_us:
            request, arrival_us = self._queue.popleft()
            finished.append(Finished(request, arrival_us, arrival_us + self._timeout_us, TIMED_OUT))
        for replica in self._replicas.values():
            late = [
                (request, arrival_us)
                for request, arrival_us in replica.outstanding.items()
                if now_us - arrival_us > _PATIENCE * self._timeout_us
            ]
            for request, arrival_us in late:
                del replica.outstanding[request]
                finished.append(Finished(request, arrival_us, now_us, TIMED_OUT))
        return finished

    def abandon(self, now_us: int) -> list[Finished]:
        """Nobody will serve what is still queued: it is lost."""
        lost = [Finished(request, arrival_us, now_us, LOST) for request, arrival_us in self._queue]
        self._queue.clear()
        return lost
