"""The pipeline under load while its processes join, leave, are killed and stalled, and brokers too: what went in, what came
out.

What happens when is data that a seed makes (``Fault``), so a run can be repeated as far as real processes can."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from smartscale.clock import MICROS, ManualClock, WallClock, monotonic_s
from smartscale.config import Settings
from smartscale.log.port import Log, TopicPartition, lag, read_all
from smartscale.records import topics
from smartscale.stage import Context
from smartscale.stream.window import service as window
from smartscale.telemetry.health import Health
from smartscale.testing import oracle
from smartscale.testing.kafka_broker import KafkaCluster
from smartscale.testing.memory_log import MemoryLog
from smartscale.testing.oracle import Event
from smartscale.testing.posting import Poster, steady_load
from smartscale.testing.processes import Pipeline, balance, metric_rows, wait_until

_MARGIN_S = 5.0
"""Real. Nothing happens this close to the beginning and the end of the load."""
_WAIT_S = 180.0
"""Real. Longest wait for the last answer and for the last final window."""
STALL_S: Final = 13.0
"""Real. Longer than a member's session or lease (6 s in tests) and than a transaction may take on Kafka (10 s)."""
BROKER_AWAY_S: Final = 10.0
"""Real. How long a killed broker stays away: a new leader is chosen within 3 s."""
MEMBERS: Final = ("", "-1", "-2", "-3")
_MINUTE_US = 60 * MICROS


class Fault(NamedTuple):
    """At ``after_s`` (real, after the load's start), ``what`` befalls ``name``, a process or the number of a broker:
    ``kill`` (-9, started again at once), ``stall`` (SIGSTOP) until ``wake`` (SIGCONT), ``leave`` (SIGTERM, stays away),
    ``join``, ``broker kill`` until ``broker start``; ``widen`` gives ``events`` that many partitions;
    ``upgrade`` (SIGTERM, started again) replaces a process of the version before, if it is one."""

    after_s: float
    what: str
    name: str


def kills(chance: random.Random, names: Sequence[str], duration_s: float, each: int) -> list[Fault]:
    """Each of these is killed once at a random moment of each of ``each`` equal spans."""
    span_s = (duration_s - 2 * _MARGIN_S) / each
    return [
        Fault(_MARGIN_S + (k + chance.random()) * span_s, "kill", name) for name in names for k in range(each)
    ]


def membership(chance: random.Random, stage: str, duration_s: float) -> list[Fault]:
    """The stage has one, two, three and four members, each number for a quarter of the time, in random order: they join
    (the first ones at 0) and leave; in each quarter two are killed and one is stalled until its partitions have moved."""
    quarter_s = (duration_s - 2 * _MARGIN_S) / len(MEMBERS)
    found: list[Fault] = []
    running: list[str] = []
    for k, count in enumerate(chance.sample(range(1, len(MEMBERS) + 1), len(MEMBERS))):
        start_s = 0.0 if k == 0 else _MARGIN_S + (k + chance.uniform(0, 0.05)) * quarter_s
        wanted = [stage + member for member in chance.sample(MEMBERS, count)]
        found += [Fault(start_s, "join", name) for name in wanted if name not in running]
        found += [Fault(start_s, "leave", name) for name in running if name not in wanted]
        running = wanted
        middle_s = _MARGIN_S + (k + chance.uniform(0.4, 0.45)) * quarter_s
        stalled = chance.choice(wanted)
        found += [Fault(middle_s, "stall", stalled), Fault(middle_s + STALL_S, "wake", stalled)]
        for early, late in ((0.1, 0.35), (0.85, 0.95)):
            at_s = _MARGIN_S + (k + chance.uniform(early, late)) * quarter_s
            found.append(Fault(at_s, "kill", chance.choice(wanted)))
    return found


def broker_kills(chance: random.Random, brokers: int, duration_s: float, times: int = 2) -> list[Fault]:
    """One broker after the other is killed and comes back, spread over the time."""
    span_s = (duration_s - 2 * _MARGIN_S) / times
    found = []
    for k in range(times):
        at_s, broker = _MARGIN_S + (k + chance.uniform(0.2, 0.6)) * span_s, str(chance.randrange(brokers))
        found += [Fault(at_s, "broker kill", broker), Fault(at_s + BROKER_AWAY_S, "broker start", broker)]
    return found


@dataclass(slots=True)
class Run:
    """A run under faults. ``answers`` is the sender's own list."""

    seed: int
    answers: list[tuple[Event, str]]
    retries: int
    happened: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often (what, name)."""
    ended: list[tuple[str, int]] = field(default_factory=list)
    """Stages that ended by themselves, with their exit codes; they were started again."""
    complaints: dict[str, int] = field(default_factory=dict)

    @property
    def events(self) -> list[Event]:
        """The distinct events that were answered as taken; repeats are in ``answers`` more than once."""
        taken = {e.id: e for e, answer in self.answers if answer in ("accepted", "duplicate")}
        return list(taken.values())


class _Faults:
    """Carries faults out. ``running`` are the processes that are meant to run; one that has ended is started again."""

    def __init__(self, pipeline: Pipeline, cluster: KafkaCluster | None, run: Run, running: set[str]) -> None:
        self._pipeline, self._cluster, self._run, self._running = pipeline, cluster, run, running
        self._stalled: set[str] = set()

    def revive(self) -> None:
        for name, code in self._pipeline.ended().items():
            self._run.ended.append((name, code))
            self._pipeline.start(name)

    def do(self, fault: Fault) -> None:
        self.revive()
        name = fault.name
        match fault.what:
            case "kill":
                self._pipeline.kill(name)
                self._pipeline.start(name)
                self._stalled.discard(name)
            case "stall":
                self._pipeline.stall(name)
                self._stalled.add(name)
            case "wake" if name in self._stalled:
                self._pipeline.wake(name)
                self._stalled.discard(name)
            case "leave":
                self._pipeline.terminate(name)
                self._running.discard(name)
            case "join":
                self._pipeline.start(name)
                self._running.add(name)
            case "upgrade":
                if name in self._pipeline.old:
                    self._pipeline.old.discard(name)
                    if name in self._running:
                        if name in self._stalled:  # it would not hear of the signal
                            self._pipeline.wake(name)
                            self._stalled.discard(name)
                        self._pipeline.terminate(name)
                        self._pipeline.start(name)
            case "widen":
                self._pipeline.widen(int(name))
            case "broker kill" if self._cluster is not None:
                self._cluster.brokers[int(name)].kill()
            case "broker start" if self._cluster is not None:
                self._cluster.brokers[int(name)].start()
        self._run.happened[fault.what, name] += 1


def run_under_faults(
    pipeline: Pipeline,
    seed: int,
    duration_s: float,
    rate_per_s: int,
    faults: Sequence[Fault],
    cluster: KafkaCluster | None = None,
) -> Run:
    """Send events for ``duration_s`` or a little longer (the load ends with a minute, so that its windows close soon),
    while the faults happen; wait until all windows are final. Processes that join at 0 or never run from the start."""
    later = {f.name for f in faults if f.what == "join"}
    running = {f.name for f in faults if f.what == "join" and f.after_s == 0}
    running |= set(pipeline.stages) - later
    pipeline.prepare()
    pipeline.start(*sorted(running))
    pipeline.wait_ready(*sorted(running))
    start_s, start_us = monotonic_s() + 0.5, WallClock().now_us() + MICROS // 2
    end_us = -(-(start_us + round(duration_s * MICROS)) // _MINUTE_US) * _MINUTE_US
    duration_s = (end_us - start_us) / MICROS
    bound_s = pipeline.settings.time.out_of_orderness_s
    poster = Poster(pipeline.url, connections=16)
    poster.start(steady_load(seed, start_us, start_s, duration_s, rate_per_s, bound_s))
    run = Run(seed, poster.answers, 0)
    carried_out, pause = _Faults(pipeline, cluster, run, running), threading.Event()
    try:
        for fault in sorted(f for f in faults if f.after_s > 0):
            while (left_s := start_s + fault.after_s - monotonic_s()) > 0:
                carried_out.revive()
                pause.wait(min(left_s, 0.2))
            carried_out.do(fault)
        while not poster.join(0.5):
            carried_out.revive()
            if monotonic_s() > start_s + duration_s + _WAIT_S:
                raise AssertionError(
                    f"seed {seed}: batches still wait for their answer; {pipeline.complaints()}"
                )
    finally:
        poster.stop()
    carried_out.revive()
    pipeline.wait_ready(*sorted(running))
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


def copied(log: Log, names: Sequence[str]) -> MemoryLog:
    """A copy in memory, every record of these topics at its own offset; the other topics are empty."""
    copy = MemoryLog()
    copy.create(list(log.topics().values()))
    for name in names:
        for p in range(log.topics()[name].partitions):
            copy.restore(read_all(log, TopicPartition(name, p)))
    return copy
