"""Recorded traffic, played again: a CSV of rates, a CSV of single requests, or an access log. ``.gz`` too.

What a file is, its first line tells:

- a CSV with columns ``timestamp`` and ``requests``: a curve of rates, scaled to a stated peak (``rates.from_csv``);
- a CSV with a column ``timestamp`` but no ``requests``: one request a line. Further columns are used as they are
  found: ``status`` (an HTTP status, or a word such as SUCCEED), a duration (``LATENCIES``), ``name``, ``path`` with
  ``method``, or ``type`` for the name, ``service``, ``id``;
- lines of an access log: Apache's or nginx's common or combined format, Envoy's, or JSON (``client.access_log``);
- lines of an OpenStack service's log: a line that tells of an API request is a request, any other a log event.
"""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from msgspec import structs

from smartscale.client.access_log import LATENCIES, line_event, route
from smartscale.clock import MICROS, iso, parse_iso_us
from smartscale.errors import ConfigError
from smartscale.producer import rates
from smartscale.producer.chunk import Chunk, of_events
from smartscale.producer.load import Load, of_curve
from smartscale.producer.services import Service
from smartscale.records.events_json import MAX_LABEL, EventIn
from smartscale.text_file import open_text

_SUCCESS: Final = frozenset({"ok", "success", "succeed", "succeeded", "true"})
_CHUNK: Final = 1000
"""Requests read ahead; chosen as a fraction of a second of busy traffic."""

Request = tuple[int, EventIn]
"""When it was (us) and the event, still without a time."""


@dataclass(slots=True)
class Skipped:
    """Lines that could not be read: how many, and the first few with the reason."""

    lines: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, line: int, reason: object) -> None:
        self.lines += 1
        if len(self.examples) < 5:
            self.examples.append(f"line {line}: {reason}")


_Read = Callable[[Iterable[str], str, Skipped], Iterator[Request]]


@dataclass(frozen=True, slots=True)
class Recording:
    """A file of single requests. ``skipped`` fills while it is read."""

    path: Path
    start_us: int
    """When the first request was."""
    read: _Read
    service: str
    speed: float = 1.0
    """Its time passes so many times as fast."""
    scale: float = 1.0
    """So many requests for each of the file; a fraction is a probability."""
    seed: int = 1
    for_s: float = math.inf
    """It ends so many seconds (as they are sent) after its start, if the file does not before."""
    skipped: Skipped = field(default_factory=Skipped)

    def chunks(self, start_us: int, run: str, worker: int = 0, workers: int = 1) -> Iterator[Chunk]:
        """The requests in the order of the file, moved so that the first is at ``start_us``; the file is read as they are
        taken. A line that is older than one before it keeps its time and is due at once. An event without an id gets one
        that starts with ``run``, and so do all copies but the first. Worker k of n (k < n) gets each n-th line from
        number k on."""
        latest_us = start_us
        moments: list[int] = []
        events: list[EventIn] = []
        copies = self._copies()
        with open_text(self.path) as lines:
            for number, (moment_us, event) in enumerate(self.read(lines, self.service, self.skipped)):
                count = next(copies)
                due_us = start_us + round((moment_us - self.start_us) / self.speed)
                if due_us - start_us > self.for_s * MICROS:
                    break
                if number % workers != worker or not count:
                    continue
                event.time, event.id = iso(due_us), event.id or f"{run}-{number}"
                moments += [due_us] * count
                events.append(event)
                events += (structs.replace(event, id=f"{run}-{number}-{copy}") for copy in range(1, count))
                if len(events) >= _CHUNK:
                    yield _chunk(moments, events, latest_us)
                    latest_us = max(latest_us, *moments)
                    moments, events = [], []
        if events:
            yield _chunk(moments, events, latest_us)

    def _copies(self) -> Iterator[int]:
        """How often each request is sent: the same in every process."""
        whole, part = divmod(self.scale, 1)
        if not part:
            yield from itertools.repeat(int(whole))
        chance = np.random.default_rng(self.seed)
        while True:
            yield from (int(whole) + (chance.random(_CHUNK) < part)).tolist()


def _chunk(moments: list[int], events: list[EventIn], latest_us: int) -> Chunk:
    moments_us = np.array(moments, dtype=np.int64)
    return of_events(np.maximum.accumulate(np.maximum(moments_us, latest_us)), events)


def open_load(
    path: Path,
    peak_per_s: float | None,
    service: str = "replay",
    seed: int = 1,
    *,
    scale: float | None = None,
    speed: float = 1.0,
) -> Load | Recording:
    """What the file holds, its time passing ``speed`` times as fast.

    A curve of rates is scaled to a peak of ``peak_per_s`` (requests/s as they are sent); without it, to ``scale`` times what
    was counted. Of single requests there are ``scale`` for each, and no peak is taken. ``service`` names what has no
    service of its own. Raises ``ConfigError`` if the file cannot be read or is neither."""
    with open_text(path) as lines:
        first = next((line for line in lines if line.strip()), "")
    columns = next(csv.reader([first]), [])
    if {"timestamp", "requests"} <= set(columns):
        curve = rates.from_csv(path, peak_per_s)
        factor = 1.0 if peak_per_s is not None else (1.0 if scale is None else scale) * speed
        return of_curve(curve.warped(speed, factor), Service(name=service, rate=1.0), seed)
    if "timestamp" in columns:
        read: _Read = _requests
    elif _is_access_log(first):
        read = _access_log
    elif _OPENSTACK.match(first):
        read = _openstack_log
    else:
        raise ConfigError(
            f"file {path}: not understood from its first line {first[:80]!r}: a replay is a CSV with the columns timestamp "
            "and requests, a CSV of single requests with a column timestamp, an access log (common, combined, Envoy or "
            "JSON), or an OpenStack log"
        )
    with open_text(path) as lines:
        skipped = Skipped()
        start = next(iter(read(lines, service, skipped)), None)
    if start is None:
        raise ConfigError(
            f"file {path}: no line could be read: {'; '.join(skipped.examples) or 'there is none'}"
        )
    return Recording(path, start[0], read, service, speed, 1.0 if scale is None else scale, seed)


def _requests(lines: Iterable[str], service: str, skipped: Skipped) -> Iterator[Request]:
    """One request a line of CSV."""
    rows = csv.DictReader(lines)
    latency = next((name for name in LATENCIES if name in (rows.fieldnames or ())), None)
    while True:
        try:
            row = next(rows)
            yield parse_iso_us(row["timestamp"]), _request(row, service, latency)
        except StopIteration:
            return
        except (ValueError, TypeError, csv.Error) as error:
            skipped.add(rows.line_num, error)


def _request(row: Mapping[str, str | None], service: str, latency: str | None) -> EventIn:
    """Raises ValueError for a number that is none."""
    status, error = _status(row.get("status") or "")
    duration = row.get(latency) if latency else None
    latency_ms = round(float(duration) * LATENCIES[latency], 3) if latency and duration else None
    if latency_ms is not None and not 0 <= latency_ms < 2**31:
        raise ValueError(f"{latency} {duration!r} is out of range")
    return EventIn(
        service=row.get("service") or service,
        name=_name(row),
        status=status,
        error=error,
        latency_ms=latency_ms,
        id=row.get("id") or None,
    )


def _status(text: str) -> tuple[int | None, bool | None]:
    """An HTTP status, or a word that says whether it went well."""
    if text.isdigit():
        code = int(text)
        if not 100 <= code <= 599:
            raise ValueError(f"status {code} is no HTTP status")
        return code, None
    return None, (text.lower() not in _SUCCESS) if text else None


def _name(row: Mapping[str, str | None]) -> str:
    path = row.get("path")
    if path:
        return route(row.get("method") or "", path)
    return (row.get("name") or row.get("type") or "")[:MAX_LABEL]


def _is_access_log(line: str) -> bool:
    try:
        line_event(line, "any")
    except ValueError:
        return False
    return True


def _access_log(lines: Iterable[str], service: str, skipped: Skipped) -> Iterator[Request]:
    """One request a line."""
    for number, line in enumerate(lines, 1):
        try:
            yield line_event(line.rstrip("\n"), service)
        except ValueError as error:
            if line.strip():
                skipped.add(number, error)


_OPENSTACK: Final = re.compile(
    r"(?:\S+ )?(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) \d+ (?P<level>[A-Z]+) (?P<logger>\S+) (?P<text>.*)"
)
"""oslo.log's default line, "%(asctime)s.%(msecs)03d %(process)d %(levelname)s %(name)s [...] %(message)s", as it is or after
the name of its file."""
_API: Final = re.compile(
    r'"(?P<method>[A-Z]+) (?P<path>\S+)[^"]*" status: (?P<status>\d{3}) .*?time: (?P<seconds>[\d.]+)'
)
_IDENTIFIER: Final = re.compile(r"(?<=/)[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}(?=/|$)")


def _openstack_log(lines: Iterable[str], service: str, skipped: Skipped) -> Iterator[Request]:
    """One API request or log event a line; times are taken as UTC."""
    for number, line in enumerate(lines, 1):
        found = _OPENSTACK.match(line)
        if not found:
            if line.strip():
                skipped.add(number, f"not an OpenStack log line: {line[:60]!r}")
            continue
        try:
            moment_us = parse_iso_us(found["time"])
            yield (
                moment_us,
                _api_request(found["text"], service)
                or EventIn(
                    service=service,
                    kind="log",
                    name=found["logger"][:MAX_LABEL],
                    severity=_SEVERITY[found["level"]],
                ),
            )
        except (ValueError, KeyError) as error:
            skipped.add(number, repr(error))


_SEVERITY: Final = {
    "TRACE": "trace", "DEBUG": "debug", "INFO": "info", "AUDIT": "notice", "WARNING": "warn", "ERROR": "error",
    "CRITICAL": "fatal",
}  # fmt: skip


def _api_request(text: str, service: str) -> EventIn | None:
    """The request a line tells of, ids in its path left out; None if it tells of none."""
    found = _API.search(text)
    if not found:
        return None
    status, _ = _status(found["status"])
    name = route(found["method"], _IDENTIFIER.sub("{id}", found["path"]))
    return EventIn(
        service=service, name=name, status=status, latency_ms=round(float(found["seconds"]) * 1000, 3)
    )
