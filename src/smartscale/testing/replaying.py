"""A file of timestamped events sent through real processes at a chosen speed of the clock."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from smartscale.app import write_anchor
from smartscale.clock import MICROS, Anchor, ScaledClock, iso, monotonic_s, wall_ms
from smartscale.config import Topics
from smartscale.ledger.books import Balance
from smartscale.log.partitioner import event_hash, event_partition
from smartscale.log.port import TopicPartition, read_all
from smartscale.records import topics
from smartscale.records.events import event_count
from smartscale.records.metrics import MetricRow
from smartscale.records.topics import DEFAULT_TENANT
from smartscale.testing import oracle
from smartscale.testing.kafka_broker import KafkaBroker
from smartscale.testing.oracle import Event
from smartscale.testing.posting import Batch, Poster, random_event
from smartscale.testing.processes import Pipeline, balance, metric_rows

ORIGIN_US: Final = 1_767_600_000 * MICROS
"""2026-01-05T08:00:00Z: a whole hour, so that the windows of a file of whole minutes are all closed at its end."""
SETTINGS: Final[Mapping[str, object]] = {
    "topics.retention_bytes": 0,
    # Heartbeats tell the time of an idle partition, so an event counts as late by as much as its sender, the edge and the
    # log together delay it. Their real delay is below 5 s on a busy machine: 300 s of world time at speed 60.
    "time.allowed_lateness_s": 300.0,
    "windows.histogram_from_s": 10.0,
}
STAGES: Final = ("ingest", "combine", "window")
FILE_S: Final = 600.0
RATE_PER_S: Final = 40
SILENT: Final = 2
"""The partition of ``events`` that nothing goes to."""
_START_S: Final = 15.0
"""Real. From writing the anchor to the file's first event: the stages read the clock when they start, so all must be
ready by then, three times as long as they usually need on Kafka."""
_MINUTE_US: Final = 60 * MICROS
_REQUEST_S: Final = 0.1
"""Real. Events of this span travel in one request, as a collector beside a service would send them."""


def write_file(
    path: Path,
    seed: int,
    duration_s: float,
    rate_per_s: int,
    out_of_orderness_s: float,
) -> None:
    """Events as NDJSON in the order of their arrival, each up to the bound before it; their ids are chosen so that none
    goes to the partition ``SILENT`` of ``events``."""
    chance = random.Random(seed)
    arrivals = sorted(chance.uniform(0, duration_s) for _ in range(round(duration_s * rate_per_s)))
    number = 0
    with path.open("wb") as file:
        for arrival_s in arrivals:
            late_us = chance.randrange(round(out_of_orderness_s * MICROS))
            time_us = max(ORIGIN_US, ORIGIN_US + round(arrival_s * MICROS) - late_us)
            event = random_event(chance, "", time_us)
            while True:
                number += 1
                event = event._replace(id=f"{seed}-{number}")
                identity = event_hash(DEFAULT_TENANT, event.service, event.id)
                if event_partition(identity, Topics().events) != SILENT:
                    break
            file.write(msgspec.json.encode({"arrival_s": arrival_s, **event._asdict()}) + b"\n")


class _Line(msgspec.Struct):
    arrival_s: float
    id: str
    time_us: int
    service: str
    kind: str
    name: str
    status: int | None
    severity: str | None
    latency_us: int | None
    value: float | None

    def event(self) -> Event:
        return Event(
            self.id, self.time_us, self.service, self.kind, self.name,
            self.status, self.severity, self.latency_us, self.value,
        )  # fmt: skip


def read_file(path: Path) -> list[tuple[float, Event]]:
    """(arrival in seconds after the origin, event) in the order of the file."""
    lines = msgspec.json.Decoder(_Line).decode_lines(path.read_bytes())
    return [(line.arrival_s, line.event()) for line in lines]


def _batches(lines: Iterable[tuple[float, Event]], speed: float, start_s: float) -> list[Batch]:
    """Requests, each due once its last event has arrived by the scaled clock."""
    batches: dict[int, list[Event]] = {}
    for arrival_s, event in lines:
        batches.setdefault(int(arrival_s / speed / _REQUEST_S), []).append(event)
    return [Batch(start_s + (turn + 1) * _REQUEST_S, events) for turn, events in sorted(batches.items())]


def _replay(
    pipeline: Pipeline, path: Path, speed: float, timeout_s: float
) -> tuple[list[tuple[Event, str]], int]:
    """Send the file through a pipeline that has not been started, its clock at ``speed``; wait until every window is
    final. Each event with its answer, and the end of the last window."""
    lines = read_file(path)
    pipeline.prepare()
    anchor = Anchor(ORIGIN_US, speed, wall_ms() * 1000 + round(_START_S * MICROS))
    with pipeline.log() as log:
        write_anchor(log, anchor)
    pipeline.start()
    pipeline.wait_ready(timeout_s=_START_S)
    start_s = monotonic_s() + (ORIGIN_US - ScaledClock(anchor).now_us()) / MICROS / speed
    end_us = (max(event.time_us for _, event in lines) // _MINUTE_US + 1) * _MINUTE_US
    poster = Poster(pipeline.url, connections=1)
    poster.start(_batches(lines, speed, start_s))
    try:
        duration_s = lines[-1][0] / speed
        if not poster.join(duration_s + timeout_s):
            raise AssertionError(f"the file is not sent: {pipeline.complaints()}")
    finally:
        poster.stop()
    pipeline.wait_final(end_us, timeout_s)
    return poster.answers, end_us


@dataclass(frozen=True, slots=True)
class Replayed:
    """What one replay left: the sender's list, the final rows of every window, the books, what is in the silent
    partition, and what is wrong by the oracle."""

    answers: list[tuple[Event, str]]
    rows: dict[tuple[str, ...], MetricRow]
    books: Balance
    silent_events: int
    wrong: list[str]


def replayed(address: str, folder: Path, file: Path, speed: float) -> Replayed:
    """Send the file through processes of its own at this speed."""
    pipeline = Pipeline(address, folder, SETTINGS, STAGES)
    try:
        answers, end_us = _replay(pipeline, file, speed, timeout_s=120 + 400 / speed)
        with pipeline.log() as log:
            rows = [row for row in metric_rows(log) if row.end_us <= end_us]
            wanted = oracle.expected([event for event, _ in answers], pipeline.settings.windows.tumbling_s)
            return Replayed(
                answers,
                {(r.service, r.kind, r.name, r.window, iso(r.end_us)): r for r in rows if r.final},
                balance(log, pipeline.settings),
                sum(event_count(r.headers) for r in read_all(log, TopicPartition(topics.EVENTS, SILENT))),
                oracle.differences(wanted, oracle.finals(rows)),
            )
    finally:
        pipeline.close()


_HISTORY: Final = ("revision", "watermark_us", "complete")
"""How a row came about, which depends on what was there when; all else follows from the events."""


def unequal(
    one: Mapping[tuple[str, ...], MetricRow], other: Mapping[tuple[str, ...], MetricRow]
) -> list[str]:
    """Rows that only one run has, and fields in which they differ; sums of floats may by 1e-9 (design, section 4)."""
    wrong = [f"only in one run: {key}" for key in one.keys() ^ other.keys()]
    for key in one.keys() & other.keys():
        ours, theirs = msgspec.to_builtins(one[key]), msgspec.to_builtins(other[key])
        for name in (ours.keys() | theirs.keys()) - set(_HISTORY):
            a, b = ours.get(name), theirs.get(name)
            close = isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=1e-9)
            if a != b and not close:
                wrong.append(f"{key}: {name} is {a} and {b}")
    return wrong


def at_speeds(adapter: str, folder: Path, speeds: Sequence[float]) -> dict[float, Replayed]:
    """One file at each speed in turn, each time on a fresh log."""
    file = folder / "events.ndjson"
    write_file(file, seed=7, duration_s=FILE_S, rate_per_s=RATE_PER_S, out_of_orderness_s=2.0)
    found = {}
    for speed in speeds:
        with ExitStack() as stack:
            run = folder / f"speed-{speed:g}"
            url = stack.enter_context(KafkaBroker()).url if adapter == "kafka" else f"sqlite:{run}/log.db"
            found[speed] = replayed(url, run, file, speed)
    return found
