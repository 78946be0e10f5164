"""One process's share of a load, sent open loop: each request leaves at its planned time, whatever became of others.

A thread plans ahead; the event loop does nothing but send and receive. What the generator itself is late by is measured
beside the latencies, for then they are its own and not the server's.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from smartscale.client.address import Address, Token
from smartscale.client.answers import Fate
from smartscale.clock import MICROS, Clock, monotonic_s, thread_cpu_s
from smartscale.producer.alarm import Alarm
from smartscale.producer.chunk import Chunk
from smartscale.producer.http import Pool, Request
from smartscale.producer.rates import Micros
from smartscale.producer.recorder import Recorder

_COALESCE_S: Final = 0.0002
"""Requests due within it leave together: a wake-up costs a tenth of it."""
_LOOK_S: Final = 0.01
"""The loop wakes at least this often, to see whether it can and whether to stop."""
_BURST: Final = 64
"""Requests sent before the loop turns to answers again; about a millisecond."""
_AHEAD, _AHEAD_S = 64, 2.0
"""Chunks, and real seconds, that are planned ahead at most: no longer than needed, for planning takes from sending; at the
highest rates 64 chunks are a second of events, and a hundred megabytes."""
_REASONS: Final = 10
"""Different reasons for refusals that are kept."""
_PROGRESS_S: Final = 1.0
HELD_BYTES: Final = 256 << 20
"""Requests without an answer, at most. Beyond it they wait to be sent; chosen as what a small machine has to spare."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a load is sent. ``batch`` events at most go into a request; they are due within ``linger_s`` (real)."""

    url: str
    batch: int = 500
    connections: int = 64
    linger_s: float = 0.02
    give_up_s: float = 60.0
    """Real. A request is not tried again later than this after it was first due and given to a connection."""
    timeout_s: float = 30.0
    """Real. How long an attempt waits for its answer."""


class Counts(msgspec.Struct, frozen=True):
    """What became of the events sent: ``sent = accepted + duplicate + refused + unanswered``.

    ``duplicate`` are events the edge already had: an earlier attempt got through, but its answer did not come back.
    ``unanswered`` may or may not be in the log; of these ``waiting`` may still be answered."""

    sent: int = 0
    accepted: int = 0
    duplicate: int = 0
    refused: int = 0
    unanswered: int = 0
    waiting: int = 0
    requests: int = 0
    """Attempts made, retries included."""
    retries: int = 0
    trouble: dict[str, int] = {}
    """Attempts without a final answer, by status, ``no answer`` or ``no connection``."""
    refusals: list[str] = []
    """Reasons for refusals, at most ten different ones."""
    last_trouble: str = ""


class Progress(msgspec.Struct, frozen=True):
    """How far it is. ``behind_s``: real seconds by which the latest request was sent after its planned time."""

    at_us: int
    """World time of the latest request that was due."""
    behind_s: float
    counts: Counts


@dataclass(frozen=True, slots=True)
class Reference:
    """Ties world time to this machine's monotonic clock, for the length of a run."""

    world_us: int
    real_s: float
    real_per_world: float = 1.0

    @classmethod
    def now(cls, clock: Clock, in_s: float) -> Reference:
        """The reference of a start ``in_s`` real seconds from now."""
        real_per_world = clock.to_real_s(1.0)
        return cls(
            clock.now_us() + round(in_s / real_per_world * MICROS), monotonic_s() + in_s, real_per_world
        )

    def world(self, instant_s: float) -> int:
        """World time at an instant."""
        return self.world_us + round((instant_s - self.real_s) / self.real_per_world * MICROS)

    def due_s(self, due_us: Micros) -> npt.NDArray[np.float64]:
        """When events are due, in monotonic seconds."""
        return self.real_s + (due_us - self.world_us) / MICROS * self.real_per_world


def cut(due_us: Micros, batch: int, linger_us: int) -> Micros:
    """Where requests end: each holds at most ``batch`` events that are due within ``linger_us`` of its first.

    A request is planned for when its last event is due, so batching is part of the plan and no answer changes it.

    >>> cut(np.array([0, 1, 2, 50, 51]), 2, 10)
    array([2, 3, 5])
    """
    places = np.arange(len(due_us))
    if batch == 1:
        return places + 1
    ends = np.minimum(np.searchsorted(due_us, due_us + linger_us, side="right"), places + batch).tolist()
    cuts, at = [], 0
    while at < len(ends):
        at = ends[at]
        cuts.append(at)
    return np.array(cuts, dtype=np.int64)


@dataclass(slots=True)
class _Stretch:
    """A chunk cut into requests, and when each is due."""

    chunk: Chunk
    stops: list[int]
    due_s: list[float]


class _Plan:
    """Takes chunks from an iterator in a thread of its own, cuts them, and keeps some ahead."""

    def __init__(self, chunks: Iterator[Chunk], options: Options, reference: Reference) -> None:
        self._chunks, self._options, self._reference = chunks, options, reference
        self._ready: queue.Queue[_Stretch | Exception | None] = queue.Queue(_AHEAD)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="plan", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Until something is ready, for so long at most."""
        end_s = monotonic_s() + timeout_s
        while self._ready.empty() and self._thread.is_alive() and monotonic_s() < end_s:
            self._ended.wait(0.001)

    def take(self) -> _Stretch | None:
        """The next stretch; None after the last. Raises ``queue.Empty`` if it is not ready, and what planning raised."""
        item = self._ready.get_nowait()
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        """Plan nothing more."""
        self._ended.set()
        while self._thread.is_alive():
            try:
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def _work(self) -> None:
        try:
            for chunk in self._chunks:
                if self._ended.is_set():
                    return
                if len(chunk):
                    stretch = self._stretch(chunk)
                    self._ready.put(stretch)
                    self._ended.wait(max(0.0, stretch.due_s[0] - _AHEAD_S - monotonic_s()))
            self._ready.put(None)
        except Exception as error:  # noqa: BLE001  # told where the plan is taken
            self._ready.put(error)

    def _stretch(self, chunk: Chunk) -> _Stretch:
        linger_us = round(self._options.linger_s * MICROS / self._reference.real_per_world)
        stops = cut(chunk.due_us, self._options.batch, linger_us)
        return _Stretch(chunk, stops.tolist(), self._reference.due_s(chunk.due_us[stops - 1]).tolist())


@dataclass(frozen=True, slots=True)
class Played:
    """What one process did and saw."""

    complete: bool
    """False if it was stopped before the end of the plan."""
    counts: Counts
    recorder: Recorder
    planned_s: float
    """Real seconds from the start to when the last request was planned."""
    elapsed_s: float
    """Real seconds from the start to the last answer."""
    cpu_mean: float
    """Processor time of the sending thread, as a share of the run."""
    cpu_peak: float
    """The same in its busiest second."""
    held_s: float
    """Real seconds in which requests waited because too much had no answer."""


async def play(
    chunks: Iterator[Chunk],
    options: Options,
    reference: Reference,
    stop: threading.Event,
    on_progress: Callable[[Progress], None],
    *,
    token: Token | None = None,
    past_at_once: bool = False,
    seed: int = 0,
) -> Played:
    """Send all chunks, each request when it is due, and wait until each has its end.

    ``stop`` ends the sending; what was sent is still waited for. ``past_at_once``: what was due before the start counts as
    due when it is sent. ``on_progress`` is called about once a second. Raises what ``chunks`` raises."""
    player = _Player(options, reference, stop, on_progress, token, past_at_once, seed)
    plan = _Plan(chunks, options, reference)
    try:
        return await player.run(plan)
    finally:
        plan.close()


class _CpuMeter:
    """Processor time of this thread: on the whole, and in the busiest second."""

    def __init__(self) -> None:
        self._first = self._last = (monotonic_s(), thread_cpu_s())
        self.peak = 0.0

    def look(self) -> None:
        now = (monotonic_s(), thread_cpu_s())
        if now[0] - self._last[0] >= _PROGRESS_S / 2:
            self.peak = max(self.peak, self._share(self._last, now))
            self._last = now

    @property
    def mean(self) -> float:
        return self._share(self._first, (monotonic_s(), thread_cpu_s()))

    @staticmethod
    def _share(before: tuple[float, float], after: tuple[float, float]) -> float:
        return (after[1] - before[1]) / max(after[0] - before[0], 1e-6)


class _Player:
    def __init__(
        self,
        options: Options,
        reference: Reference,
        stop: threading.Event,
        on_progress: Callable[[Progress], None],
        token: Token | None,
        past_at_once: bool,
        seed: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._reference, self._stop, self._on_progress = reference, stop, on_progress
        self._past_at_once, self._patience_s = past_at_once, options.give_up_s + options.timeout_s
        self._pool = Pool(
            Address.of(options.url),
            self,
            token=token,
            connections=options.connections,
            give_up_s=options.give_up_s,
            timeout_s=options.timeout_s,
            seed=seed,
        )
        self._recorder = Recorder(reference.real_s)
        self._stretch: _Stretch | None = None
        self._next = 0
        """Place of the next request in the stretch."""
        self._over: asyncio.Future[bool] = self._loop.create_future()
        self._fates = [0, 0, 0, 0]
        """Events accepted, duplicate, refused, unanswered."""
        self._given = 0
        self._refusals: dict[str, None] = {}
        self._trouble: Counter[str] = Counter()
        self._last_trouble = ""
        self._due_s = reference.real_s
        self._behind_s = self._held_s = 0.0
        self._held_since_s: float | None = None
        self._released_s = 0.0
        """When requests were last let go after having been held."""

    async def run(self, plan: _Plan) -> Played:
        self._plan = plan
        await self._pool.warm_up(max(0.0, self._reference.real_s - monotonic_s()))
        plan.wait(self._reference.real_s - monotonic_s())
        meter = _CpuMeter()
        self._alarm = Alarm(self._loop, self._tick)
        progress = self._loop.create_task(self._tell(meter))
        try:
            self._wake(max(self._reference.real_s, monotonic_s()))
            complete = await self._over
            until_s = monotonic_s() + self._patience_s
            while self._pool.outstanding and monotonic_s() < until_s:
                await asyncio.sleep(_LOOK_S)
            ended_s = monotonic_s()
        finally:
            progress.cancel()
            self._alarm.close()
            await self._pool.close()
        meter.look()
        self._recorder.flush()
        return Played(
            complete=complete,
            counts=self._counts(),
            recorder=self._recorder,
            planned_s=self._due_s - self._reference.real_s,
            elapsed_s=ended_s - self._reference.real_s,
            cpu_mean=meter.mean,
            cpu_peak=max(meter.mean, meter.peak),
            held_s=self._held_s,
        )

    def _wake(self, instant_s: float) -> None:
        self._asked_s = instant_s
        self._alarm.at(instant_s)

    def _tick(self) -> None:
        """Send what is due, and say when to be woken again."""
        self._recorder.woke(monotonic_s() - self._asked_s)
        if self._stop.is_set():
            self._over.set_result(False)
            return
        try:
            next_s = self._send_due()
        except Exception as error:  # noqa: BLE001  # raised again where the end is awaited
            self._over.set_exception(error)
            return
        if next_s is None:
            self._over.set_result(True)
        else:
            self._wake(next_s)

    def _send_due(self) -> float | None:
        """Send what is due; when there is more to do, None after the last request."""
        for _ in range(_BURST):
            now_s = monotonic_s()
            if self._hold(now_s):
                return now_s + _LOOK_S
            if self._stretch is None or self._next == len(self._stretch.stops):
                try:
                    self._stretch, self._next = self._plan.take(), 0
                except queue.Empty:
                    return now_s + _COALESCE_S
                if self._stretch is None:
                    return None
            due_s = self._stretch.due_s[self._next]
            if due_s > now_s:
                return min(max(due_s, now_s + _COALESCE_S), now_s + _LOOK_S)
            self._give(self._stretch, due_s, now_s)
        return monotonic_s()  # what is still due waits until answers have been read

    def _give(self, stretch: _Stretch, due_s: float, now_s: float) -> None:
        start = stretch.stops[self._next - 1] if self._next else 0
        stop = stretch.stops[self._next]
        self._next += 1
        if self._past_at_once and due_s < self._reference.real_s:
            due_s = now_s
        self._due_s = due_s
        self._behind_s = now_s - due_s
        self._given += stop - start
        self._recorder.given(due_s, now_s - max(due_s, self._released_s), stop - start)
        self._pool.submit(Request(stretch.chunk, start, stop, due_s, now_s))

    def _hold(self, now_s: float) -> bool:
        """Whether so much has no answer that nothing more can be sent."""
        full = self._pool.outstanding_bytes > HELD_BYTES
        if full and self._held_since_s is None:
            self._held_since_s = now_s
        elif not full and self._held_since_s is not None:
            self._held_s += now_s - self._held_since_s
            self._held_since_s, self._released_s = None, now_s
        return full

    def settled(self, request: Request, became: Fate | None, now_s: float) -> None:
        events = request.stop - request.start
        fates = (0, 0, 0, events) if became is None else (*became[:3], 0)
        self._fates = [total + more for total, more in zip(self._fates, fates, strict=True)]
        if became is not None and became.reasons and len(self._refusals) < _REASONS:
            self._refusals.update(dict.fromkeys(became.reasons[:_REASONS]))
        self._recorder.settled(request.due_s, request.first_s, request.last_s, now_s, fates)

    def troubled(self, kind: str, words: str) -> None:
        self._trouble[kind] += 1
        self._last_trouble = words
        self._recorder.troubled(monotonic_s())

    def _counts(self) -> Counts:
        accepted, duplicate, refused, given_up = self._fates
        waiting = self._given - sum(self._fates)
        return Counts(
            sent=self._given,
            accepted=accepted,
            duplicate=duplicate,
            refused=refused,
            unanswered=given_up + waiting,
            waiting=waiting,
            requests=self._pool.requests,
            retries=self._pool.retries,
            trouble=dict(self._trouble),
            refusals=list(self._refusals)[:_REASONS],
            last_trouble=self._last_trouble,
        )

    async def _tell(self, meter: _CpuMeter) -> None:
        """Once a second: how far it is."""
        while True:
            await asyncio.sleep(_PROGRESS_S)
            meter.look()
            self._recorder.flush()
            self._on_progress(Progress(self._reference.world(self._due_s), self._behind_s, self._counts()))
