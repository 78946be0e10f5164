"""Plays a load against the edge: what ``smartscale produce`` does.

Open loop: every event has a planned time and is sent when the clock reaches it, whether or not earlier ones have been
answered. If that cannot be kept, the delay is told, never hidden.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
import numpy as np

from smartscale.client.sender import Sender, SenderFull, Totals
from smartscale.clock import MICROS, Clock, monotonic_s
from smartscale.producer.chunk import Chunk
from smartscale.producer.load import Load
from smartscale.producer.plan import planned
from smartscale.producer.replay import Recording
from smartscale.records.events_json import EventIn

_TICK_S: Final = 0.01
"""Real. Events due within it are offered together; a tenth of what the narrowest window could tell apart."""
_OFFER: Final = 5000
"""Events offered at once at most, so that a stop is noticed soon."""
_PROGRESS_S: Final = 1.0
_CLOSE_S: Final = 90.0
"""Real. How long the last events may take to be answered: a little more than they are tried again for."""


class Progress(msgspec.Struct, frozen=True):
    """How far it is. ``behind_s``: world seconds by which the latest event was sent after its planned time."""

    now_us: int
    behind_s: float
    totals: Totals


class Summary(msgspec.Struct, frozen=True):
    """What was done. ``complete`` is False if it was stopped before the end of the load."""

    start_us: int
    end_us: int
    complete: bool
    totals: Totals
    greatest_behind_s: float
    """World seconds by which the latest event, at worst, was sent after its planned time."""
    skipped_lines: int = 0
    skipped_examples: Sequence[str] = ()


def run(
    load: Load | Recording,
    url: str,
    clock: Clock,
    stop: threading.Event,
    on_progress: Callable[[Progress], None],
    keep_times: bool = False,
) -> Summary:
    """Play ``load`` from now (world time) to its end or until ``stop``, events going to ``url``.

    ``keep_times``: events keep the times of the recording or scenario instead of being moved to now; those that lie in
    the past are sent at once.

    ``on_progress`` is called about once a second (real). Raises ``UserError`` for a wrong ``url``."""
    start_us = load.start_us if keep_times else clock.now_us()
    run_id = _run_id(load, start_us)
    sender = Sender(url, clock, run_id=run_id)
    chunks = (
        load.chunks(start_us, run_id)
        if isinstance(load, Recording)
        else planned(load.starting_at(start_us), run_id)
    )
    player = _Player(sender, clock, stop, on_progress)
    try:
        complete = player.play(chunks)
    finally:
        totals = sender.close(_CLOSE_S)
    skipped = load.skipped if isinstance(load, Recording) else None
    return Summary(
        start_us,
        clock.now_us(),
        complete,
        totals,
        player.greatest_behind_s,
        skipped.lines if skipped else 0,
        skipped.examples if skipped else (),
    )


def _run_id(load: Load | Recording, start_us: int) -> str:
    """Starts every id: another one for each start, so that a second run is not taken for a repeat of the first."""
    seed = load.seed if isinstance(load, Load) else load.path.name.partition(".")[0]
    return f"{seed}-{start_us:x}"


class _Player:
    def __init__(
        self, sender: Sender, clock: Clock, stop: threading.Event, on_progress: Callable[[Progress], None]
    ) -> None:
        self.greatest_behind_s = 0.0
        self._sender, self._clock, self._stop, self._on_progress = sender, clock, stop, on_progress
        self._behind_s = 0.0
        self._next_progress_s = monotonic_s() + _PROGRESS_S

    def play(self, chunks: Iterator[Chunk]) -> bool:
        """Send all; False if stopped before the end."""
        return all(self._send(chunk) for chunk in chunks)

    def _send(self, chunk: Chunk) -> bool:
        """Send a chunk as it falls due; False if stopped."""
        sent, events = 0, chunk.events()
        while sent < len(events) and not self._stop.is_set():
            due = int(np.searchsorted(chunk.due_us, self._clock.now_us(), side="right"))
            if due == sent:
                wait_s = self._clock.to_real_s((int(chunk.due_us[sent]) - self._clock.now_us()) / MICROS)
                self._stop.wait(min(max(wait_s, _TICK_S), _PROGRESS_S))
            elif self._offered(events[sent : min(due, sent + _OFFER)]):
                self._behind_s = max(0, self._clock.now_us() - int(chunk.due_us[sent])) / MICROS
                self.greatest_behind_s = max(self.greatest_behind_s, self._behind_s)
                sent = min(due, sent + _OFFER)
            self._progress()
        return not self._stop.is_set()

    def _offered(self, events: Sequence[EventIn]) -> bool:
        """Hand events to the sender; False if it has had no room for some time."""
        try:
            self._sender.offer(events, timeout_s=_PROGRESS_S)
        except SenderFull:
            return False
        return True

    def _progress(self) -> None:
        if monotonic_s() >= self._next_progress_s:
            self._next_progress_s = monotonic_s() + _PROGRESS_S
            self._on_progress(Progress(self._clock.now_us(), self._behind_s, self._sender.totals()))
