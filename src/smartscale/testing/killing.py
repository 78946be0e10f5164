"""The pipeline under load while its stages are killed at random: what went in, what came out."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from smartscale.clock import MICROS, ManualClock, WallClock, monotonic_s
from smartscale.config import Settings
from smartscale.log.port import Log, TopicPartition, lag, read_all
from smartscale.log.topics import specs
from smartscale.records import topics
from smartscale.stage import Context
from smartscale.stream.window import service as window
from smartscale.telemetry.health import Health
from smartscale.testing import oracle
from smartscale.testing.memory_log import MemoryLog
from smartscale.testing.oracle import Event
from smartscale.testing.posting import Poster, steady_load
from smartscale.testing.processes import Pipeline, balance, metric_rows, wait_until

_MARGIN_S = 5.0
"""Real. Nobody is killed this close to the beginning and the end of the load."""
_WAIT_S = 180.0
"""Real. Longest wait for the last answer and for the last final window."""
_MINUTE_US = 60 * MICROS


@dataclass(slots=True)
class Run:
    """A run under kills. ``answers`` is the sender's own list."""

    seed: int
    answers: list[tuple[Event, str]]
    retries: int
    kills: Counter[str] = field(default_factory=Counter)
    ended: list[tuple[str, int]] = field(default_factory=list)
    """Stages that ended by themselves, with their exit codes."""
    complaints: dict[str, int] = field(default_factory=dict)

    @property
    def events(self) -> list[Event]:
        """The distinct events that were answered as taken; repeats are in ``answers`` more than once."""
        taken = {e.id: e for e, answer in self.answers if answer in ("accepted", "duplicate")}
        return list(taken.values())


def kill_times(
    chance: random.Random, stages: Sequence[str], duration_s: float, each: int
) -> list[tuple[float, str]]:
    """When to kill whom: every stage once at a random moment of each of ``each`` equal spans."""
    span_s = (duration_s - 2 * _MARGIN_S) / each
    return sorted(
        (_MARGIN_S + (k + chance.random()) * span_s, stage) for stage in stages for k in range(each)
    )


def run_under_kills(
    pipeline: Pipeline, seed: int, duration_s: float, rate_per_s: int, kills_each: int
) -> Run:
    """Send events for ``duration_s`` or a little longer (the load ends with a minute, so that its windows close soon),
    kill every stage ``kills_each`` times meanwhile and start it again at once; wait until all windows are final."""
    chance = random.Random(seed)
    start_s, start_us = monotonic_s() + 0.5, WallClock().now_us() + MICROS // 2
    end_us = -(-(start_us + round(duration_s * MICROS)) // _MINUTE_US) * _MINUTE_US
    duration_s = (end_us - start_us) / MICROS
    bound_s = pipeline.settings.time.out_of_orderness_s
    poster = Poster(pipeline.url, connections=16)
    poster.start(steady_load(seed, start_us, start_s, duration_s, rate_per_s, bound_s))
    run = Run(seed, poster.answers, 0)
    pause = threading.Event()

    def revive() -> None:
        for name, code in pipeline.ended().items():
            run.ended.append((name, code))
            pipeline.start(name)

    try:
        for after_s, name in kill_times(chance, pipeline.stages, duration_s, kills_each):
            while (left_s := start_s + after_s - monotonic_s()) > 0:
                revive()
                pause.wait(min(left_s, 0.2))
            revive()
            pipeline.kill(name)
            pipeline.start(name)
            run.kills[name] += 1
        while not poster.join(0.5):
            revive()
            if monotonic_s() > start_s + duration_s + _WAIT_S:
                raise AssertionError(
                    f"seed {seed}: batches still wait for their answer; {pipeline.complaints()}"
                )
    finally:
        poster.stop()
    pipeline.wait_ready()
    pipeline.wait_final(end_us, _WAIT_S)
    run.retries, run.complaints = poster.retries, pipeline.complaints()
    return run


def faults(log: Log, settings: Settings, events: Sequence[Event]) -> list[str]:
    """Everything that is wrong with a settled log in which exactly ``events`` were taken; empty if nothing is."""
    books = balance(log, settings)
    found = oracle.finals(metric_rows(log))
    wrong = oracle.differences(oracle.expected(events, settings.windows.tumbling_s), found)
    if books.difference or books.in_flight or books.late or books.dead or books.windowed != len(events):
        wrong.insert(0, f"{len(events)} events were taken, but {books}")
    return wrong


def recount(log: MemoryLog, settings: Settings) -> None:
    """Work windows out anew from a copy of the log that has only events and partials, until nothing is left to read."""
    stop, health = threading.Event(), Health("window")
    context = Context(log, ManualClock(), settings, stop, health)
    thread = threading.Thread(target=window.run, args=(context,), name="recount")
    thread.start()
    try:
        wait_until(lambda: _read_by_window(log), _WAIT_S, lambda: f"window lags: {health.is_ready}")
    finally:
        stop.set()
        thread.join()


def _read_by_window(log: Log) -> bool:
    return not any(lag(log, "window", [topics.PARTIALS]).values()) and bool(log.committed("window"))


def copied(log: Log, settings: Settings, names: Sequence[str]) -> MemoryLog:
    """A copy in memory, every record of these topics at its own offset; the other topics are empty."""
    copy = MemoryLog()
    copy.create(specs(settings))
    for name in names:
        for p in range(log.topics()[name].partitions):
            copy.restore(read_all(log, TopicPartition(name, p)))
    return copy
