"""Follows files and sends their lines: what ``smartscale ingest tail`` does.

A file's position is written only after the edge has answered for every line before it. So a crash leaves lines that were
sent and are sent again; their events have the same ids and count once, as long as ids are remembered
(``dedup.window_s``).
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from smartscale.client.access_log import line_event, templated
from smartscale.client.answers import pause_s
from smartscale.client.poster import Poster
from smartscale.clock import iso, monotonic_s
from smartscale.errors import RetryableError
from smartscale.ingest.tail.follower import Follower, Line
from smartscale.ingest.tail.state import State
from smartscale.records.events_json import EventIn

_LINES: Final = 1000
"""Lines of one request; chosen as what an edge takes in a few milliseconds."""
_LOOK_S: Final = 0.25
"""Real. Between two looks at files that have nothing new."""
_TELL_S: Final = 1.0


class Counts(msgspec.Struct):
    """What became of the lines so far. ``lines = accepted + duplicate + refused + bad``, blank ones left out."""

    lines: int = 0
    accepted: int = 0
    duplicate: int = 0
    """The edge had them already: an earlier attempt got through."""
    refused: int = 0
    bad: int = 0
    """Lines that are none of an access log."""
    examples: list[str] = []
    """The latest reasons for bad and refused lines, at most five."""
    retries: int = 0
    trouble: str = ""
    """Why the edge is being waited for; empty once it has answered."""

    def example(self, text: str) -> None:
        self.examples = [*self.examples[-4:], text]


@dataclass(frozen=True, slots=True)
class Options:
    """``service`` names what names none itself (None: the file's name); ``fields`` are those of JSON lines
    (``client.access_log``)."""

    service: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    from_beginning: bool = False
    follow: bool = True


def run(
    paths: Sequence[Path],
    state: State,
    poster: Poster,
    options: Options,
    stop: threading.Event,
    tell: Callable[[Counts], None],
) -> Counts:
    """Send the lines of the files until ``stop`` is set, or without ``follow`` until all has been read.

    ``tell`` gets the counts about once a second (real) while something changes. Raises ``UserError`` if the edge does not
    take events from us at all."""
    counts = Counts()
    files = [(path, Follower(path, state.get(path), options.from_beginning)) for path in paths]
    sending = _Sending(poster, stop, counts, tell)
    told_s = monotonic_s()
    try:
        for path, follower in files:
            if follower.position is not None:
                state.put(
                    path, follower.position
                )  # where it starts, so that a restart does not leave out what came after
        while not stop.is_set():
            read = 0
            for path, follower in files:
                lines = follower.read(_LINES)
                read += len(lines)
                if lines and sending.sent(path, lines, options):
                    state.put(path, lines[-1].end)
            if monotonic_s() - told_s >= _TELL_S:
                tell(counts)
                told_s = monotonic_s()
            if not read:
                if not options.follow and not any(follower.is_rotated for _, follower in files):
                    break
                stop.wait(_LOOK_S)
    finally:
        for _, follower in files:
            follower.close()
    return counts


class _Sending:
    def __init__(
        self, poster: Poster, stop: threading.Event, counts: Counts, tell: Callable[[Counts], None]
    ) -> None:
        self._poster, self._stop, self._counts, self._tell = poster, stop, counts, tell
        self._chance = random.Random()

    def sent(self, path: Path, lines: Sequence[Line], options: Options) -> bool:
        """Send the lines until they are answered; False if stopped before."""
        counts = self._counts
        events: list[EventIn] = []
        wrong: list[str] = []
        for line in lines:
            if not line.text.strip():
                continue
            try:
                events.append(_event(line, options.service or path.stem, options.fields))
            except ValueError as error:
                wrong.append(f"{path.name}, byte {line.start}: {error}")
        for attempt in itertools.count():
            try:
                fate = self._poster.post(events) if events else None
                break
            except RetryableError as error:
                counts.retries, counts.trouble = counts.retries + 1, str(error)
                self._tell(counts)
                if self._stop.wait(pause_s(attempt, error.retry_after_s, self._chance)):
                    return False
        counts.trouble = ""
        counts.lines += len(events) + len(wrong)
        counts.bad += len(wrong)
        for reason in wrong[-5:]:
            counts.example(reason)
        if fate is not None:
            counts.accepted += fate.accepted
            counts.duplicate += fate.duplicate
            counts.refused += fate.refused
            refusals = [verdict.reason for verdict in fate.verdicts if verdict.verdict == "refused"]
            for reason in refusals[-5:]:
                counts.example(f"{path.name}: {reason}")
        return True


def _event(line: Line, service: str, fields: Mapping[str, str]) -> EventIn:
    """Raises ValueError for a line that is none of an access log."""
    time_us, event = line_event(line.text, service, fields)
    event.time, event.id, event.name = iso(time_us), line.event_id, templated(event.name)
    return event
