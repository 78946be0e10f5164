"""Seeded simulation of the stream processor under virtual time, with invariants after every step.

One thread and one clock. A seed makes a plan, a list of steps that say all there is to them; so a plan fails again, and any
part of it is a plan too: one that fails is cut down to the steps that matter. ``SMARTSCALE_SOAK=1`` runs many more seeds,
``SMARTSCALE_TEST_SEED=N`` that one alone.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec
import pytest

from smartscale.clock import MICROS
from smartscale.config import Dedup, Settings, Time, Topics, Windows
from smartscale.errors import Fenced, LogUnavailable, RetryableError
from smartscale.ledger.reader import LedgerReader
from smartscale.log import layout
from smartscale.log import topics as log_topics
from smartscale.log.partitioner import event_hash, event_partition
from smartscale.log.port import Message, Record, TopicPartition
from smartscale.records import events, metrics, partials, schema, topics
from smartscale.records.metrics import MetricRow, Progress
from smartscale.testing import memory_log
from smartscale.testing.oracle import Key, check_finals, final_windows, row_key
from smartscale.testing.pipeline import Pipeline, Sent, events_value

SETTINGS: Final = Settings(
    topics=Topics(events=3, partials=4),
    time=Time(
        out_of_orderness_s=2,
        allowed_lateness_s=5,
        settle_s=2,
        idle_after_s=1.5,
        heartbeat_timeout_s=3,
        missing_after_s=6,
    ),
    windows=Windows(tumbling_s=[10.0, 20.0], sliding_s=[[15.0, 5.0]], histogram_from_s=20, key_ttl_s=200),
    dedup=Dedup(
        window_s=60
    ),  # longer than a plan takes: a moved event's repeat is as old as combine is behind
)
SPREAD: Final = 2
"""Partitions of ``events`` that ids are spread over at first: the third gets heartbeats only, until that is agreed on."""
MOST: Final = 7
"""Partitions that ``events`` grows to at most."""
SKEW_S: Final = {"edge-a": 1, "edge-b": -1}
"""Edge processes, and by how much the clock of each is wrong."""
AGE_S: Final = 4
"""An event is written at most so long after its time: twice the bound, and within the allowed lateness whatever the skew."""
STEPS: Final = 120
_CHOSEN: Final = os.environ.get("SMARTSCALE_TEST_SEED")
SEEDS: Final = [int(_CHOSEN)] if _CHOSEN else list(range(1000 if os.environ.get("SMARTSCALE_SOAK") else 16))
SLOTS: Final = ("0", "1", "2", "3")
STAGES: Final = ("combine", "window")


class Step(NamedTuple):
    """One thing that happens. ``number`` is a seed, bytes to read or tenths of a second."""

    what: str
    stage: str = ""
    slot: str = ""
    number: int = 0

    def __str__(self) -> str:
        return " ".join(str(part) for part in self if part != "")


MISHAPS: Final = ("crash", "leave", "expire", "fence", "unavailable", "answer lost", "zombie")
"""What befalls a process of a stage: it is killed; stops in order; its membership runs out; its next commit is refused,
fails, or is carried out but not answered; it stalls just before its commit until its partitions have moved, and goes on."""


def plan(seed: int) -> list[Step]:
    """What happens under this seed, in order: one to four processes a stage, which come and go."""
    chance = random.Random(seed)
    running = {stage: list(SLOTS[: chance.randint(1, 4)]) for stage in STAGES}
    steps: list[Step] = []
    while len(steps) < STEPS:
        steps += [Step("send", number=chance.randrange(1 << 30)), Step("beat")]
        if chance.random() < 0.1:
            steps.append(Step("append again", number=chance.randrange(MOST)))
        if chance.random() < 0.03:
            steps.append(
                Step("edge gone", slot=chance.choice(sorted(SKEW_S)), number=chance.randrange(40, 150))
            )
        if chance.random() < 0.05:
            steps.append(
                Step("edge stale", slot=chance.choice(sorted(SKEW_S)), number=chance.randrange(20, 100))
            )
        if chance.random() < 0.05:
            steps.append(Step(chance.choice(["widen", "agree"])))
        for stage in chance.sample(STAGES, 2):
            if chance.random() < 0.2:
                slot = chance.choice(running[stage])
                steps.append(Step(chance.choice(MISHAPS), stage, slot))
            if chance.random() < 0.1:  # a rebalance: another set of members
                fewer = chance.sample(SLOTS, chance.randint(1, 4))
                steps += [Step("leave", stage, slot) for slot in running[stage] if slot not in fewer]
                running[stage] = fewer
            for _ in range(chance.choice([0, 1, 2, 4])):
                slot = chance.choice(running[stage])
                steps.append(Step("turn", stage, slot, chance.choice([1, 4000, 1 << 20])))
        steps.append(Step("time", number=chance.choice([1, 5, 10, 10, 20])))
    return steps


@dataclass
class World:
    """The pipeline, what was sent into it, and what has been seen of its outputs."""

    rows_per_step: int
    run: Pipeline = field(init=False)
    ledger: LedgerReader = field(init=False)
    sent: dict[str, Sent] = field(default_factory=dict)
    """Distinct events by id."""
    appended: int = 0
    """Events in the log, repeats included."""
    last: dict[int, Message] = field(default_factory=dict)
    """The last record of events by partition."""
    gone_until_us: dict[str, int] = field(default_factory=dict)
    stale_until_us: dict[str, int] = field(default_factory=dict)
    spread: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SKEW_S, SPREAD))
    """Over how many partitions each edge spreads ids, as far as it knows."""
    latest: dict[Key, MetricRow] = field(default_factory=dict)
    progress: dict[int, Progress] = field(default_factory=dict)
    watermarks: dict[TopicPartition, int] = field(default_factory=dict)
    positions: dict[tuple[str, TopicPartition], int] = field(default_factory=dict)
    _seen: dict[TopicPartition, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.run = Pipeline(SETTINGS, self.rows_per_step)
        first = msgspec.json.encode(events.Growth(0, SPREAD))
        headers = schema.headers(schema.GROWTH, n=0)
        self.run.append_raw(Message(topics.LAYOUT, 0, first, key=topics.EVENTS.encode(), headers=headers))
        self.ledger = LedgerReader(self.run.log, SETTINGS)

    # What happens.

    def do(self, step: Step) -> None:
        log, stage, slot = self.run.log, step.stage, step.slot
        crash = self.run.crash_combine if stage == "combine" else self.run.crash_window
        doing: dict[str, Callable[[], object]] = {
            "send": lambda: self.send(step.number),
            "append again": lambda: self.append_again(step.number),
            "beat": self.beat,
            "edge gone": lambda: self.gone_until_us.update({slot: self.after_us(step.number)}),
            "edge stale": lambda: self.stale_until_us.update({slot: self.after_us(step.number)}),
            "widen": self.widen,
            "agree": self.agree,
            "time": lambda: self.run.clock.advance(step.number / 10),
            "turn": lambda: self.turn(stage, slot, step.number),
            "crash": lambda: crash(slot),
            "leave": lambda: self.run.leave(stage, slot),
            "expire": lambda: self.run.expire(stage, slot),
            "fence": lambda: log.fail_next_commit(Fenced("simulated")),
            "unavailable": lambda: log.fail_next_commit(LogUnavailable("simulated")),
            "answer lost": lambda: log.fail_next_commit(LogUnavailable("simulated"), answer_lost=True),
            "zombie": lambda: self.zombie(stage, slot),
        }
        doing[step.what]()

    def after_us(self, tenths: int) -> int:
        return self.run.clock.now_us() + tenths * MICROS // 10

    def turn(self, stage: str, slot: str, max_bytes: int = 1 << 20) -> bool:
        return (self.run.combine if stage == "combine" else self.run.window)(max_bytes, slot)

    def zombie(self, stage: str, slot: str) -> None:
        """The process reads on and works it out, then is stopped before its commit until others have its partitions, have
        read the same records and have committed what follows; then it goes on with its own commit."""

        def stopped() -> None:
            self.run.expire(stage, slot)
            for other in SLOTS:
                if other != slot:
                    for _ in range(3):
                        self.turn(stage, other)

        self.run.log.before_next_commit(stopped)
        self.turn(stage, slot)
        self.run.log.before_next_commit(None)  # it may have had nothing to commit

    def widen(self) -> None:
        """``events`` gets one more partition; ids are not spread over it before that is agreed on."""
        count = self.run.log.topics()[topics.EVENTS].partitions
        if count < MOST:
            self.run.log.create(log_topics.specs(SETTINGS, at_least=count + 1))

    def agree(self) -> None:
        with suppress(RetryableError):  # the command ends with it, and may be given again
            layout.agree(self.run.log)

    def edges(self) -> list[str]:
        now_us = self.run.clock.now_us()
        return [edge for edge in SKEW_S if now_us >= self.gone_until_us.get(edge, 0)]

    def beat(self) -> None:
        """Heartbeats by the clocks of the edge processes, which are wrong; a process that is not stale hears of growth."""
        agreed = self.run.log.records(topics.LAYOUT)[-1].value
        for edge in self.edges():
            if self.run.clock.now_us() >= self.stale_until_us.get(edge, 0):
                self.spread[edge] = msgspec.json.decode(agreed, type=events.Growth).partitions
            clock_us = self.run.clock.now_us() + SKEW_S[edge] * MICROS
            value = msgspec.json.encode(events.Heartbeat(edge, clock_us, clock_us))
            for p in range(self.run.log.topics()[topics.EVENTS].partitions):
                headers = schema.headers(schema.HEARTBEAT)
                self.run.append_raw(Message(topics.EVENTS, p, value, headers=headers))

    def send(self, seed: int) -> None:
        """New events, out of order beyond the bound, and repeats of some sent lately, to the partition of their id."""
        chance, now = random.Random(seed), self.run.clock.now_us()
        if not self.edges():
            return
        new = [
            Sent(
                chance.choice(["cart", "checkout", "search", "pay", "mail"]),
                now - chance.randrange(-MICROS, AGE_S * MICROS),
                name=chance.choice(["/", "/x"]),
                id=f"{seed}-{i}",
                latency_us=chance.choice([None, chance.randrange(10**6)]),
                error=chance.random() < 0.1,
                value=chance.choice([None, None, chance.uniform(-1, 1)]),
            )
            for i in range(chance.randrange(8))
        ]
        lately = [one for one in list(self.sent.values())[-40:] if one.time_us > now - AGE_S * MICROS]
        again = chance.sample(lately, min(len(lately), chance.choice([0, 0, 1, 4])))
        self.sent |= {str(one.id): one for one in new}
        edge = chance.choice(self.edges())
        ingest_us = now + SKEW_S[edge] * MICROS
        for p in range(self.spread[edge]):
            of_partition = [one for one in new + again if home(one, self.spread[edge]) == p]
            chance.shuffle(of_partition)
            headers = schema.headers(schema.EVENTS, n=len(of_partition), ingest_us=ingest_us)
            self.append(
                Message(topics.EVENTS, p, events_value(of_partition), headers=headers), len(of_partition)
            )

    def append(self, message: Message, count: int) -> None:
        self.run.append_raw(message)
        self.appended += count
        self.last[message.partition] = message

    def append_again(self, partition: int) -> None:
        """An edge that got no answer writes the very record once more."""
        if (message := self.last.get(partition)) is not None:
            self.append(message, int(message.headers["n"]))

    # What must hold after every step.

    def check(self) -> None:
        told = self.news(topics.METRICS)
        rows = [metrics.decode_row(r.value) for r in told if schema.schema_of(r.headers) == schema.METRIC]
        ends = [
            metrics.decode_progress(r.value) for r in told if schema.schema_of(r.headers) == schema.PROGRESS
        ]
        self.revisions_only_grow_and_a_final_row_never_changes(rows)
        self.nothing_is_counted_twice(rows)
        self.watermarks_never_go_back(self.news(topics.PARTIALS))
        self.progress_never_goes_back(ends)
        self.offsets_never_go_back()
        self.nothing_is_lost_on_the_way()

    def revisions_only_grow_and_a_final_row_never_changes(self, new: Sequence[MetricRow]) -> None:
        for row in new:
            before = self.latest.get(row_key(row))
            assert before is None or not before.final, (before, row)
            assert before is None or row.revision > before.revision, (before, row)
            self.latest[row_key(row)] = row

    def nothing_is_counted_twice(self, new: Sequence[MetricRow]) -> None:
        """No window says more than what was sent for it."""
        sent = Counter(
            (one.service, one.name, one.time_us // (10 * MICROS) * 10 * MICROS + 10 * MICROS)
            for one in self.sent.values()
        )
        found: Counter[tuple[str, str, int]] = Counter()
        for key in {row_key(row) for row in new}:
            if key.window == "10s" and key.name != topics.ALL_NAMES:
                kinds = [key._replace(kind=kind) for kind in topics.KINDS]
                found[key.service, key.name, key.end_us] = sum(
                    self.latest[k].count for k in kinds if k in self.latest
                )
        assert not found - sent, found - sent

    def watermarks_never_go_back(self, new: Sequence[Record]) -> None:
        """Those of the inputs, as one partition of partials is told."""
        for record in new:
            if record.partition == 0:
                for source in partials.decode(record.value)[0].watermarks:
                    at = TopicPartition(source.topic, source.partition)
                    assert source.watermark_us >= self.watermarks.get(at, 0), source
                    self.watermarks[at] = source.watermark_us

    def progress_never_goes_back(self, new: Sequence[Progress]) -> None:
        """What window says of itself, whoever the process is."""
        for progress in new:
            before = self.progress.get(progress.partition, progress)
            for name in ("position", "watermark_us", "provisional_us", "closed_us", "final_us"):
                assert getattr(progress, name) >= getattr(before, name), (before, progress)
            self.progress[progress.partition] = progress

    def offsets_never_go_back(self) -> None:
        for stage in STAGES:
            for at, position in self.run.log.committed(stage).items():
                assert position.offset >= self.positions.get((stage, at), 0), (stage, at, position)
                self.positions[stage, at] = position.offset

    def nothing_is_lost_on_the_way(self) -> None:
        """Every event is in exactly one place, by the log alone (one that is being moved, in two for a moment)."""
        balance = self.ledger.update()
        assert (balance.difference, balance.late, balance.dead) == (0, 0, 0), balance
        assert balance.accepted >= self.appended, balance

    def news(self, topic: str) -> list[Record]:
        """Records that have come since the last call for the topic."""
        new = [r for r in self.run.log.records(topic) if r.offset >= self._seen.get(r.at, 0)]
        self._seen |= {record.at: record.offset + 1 for record in new}
        return new

    # The end.

    def come_to_rest(self) -> None:
        """All is well again, and time goes by until every window is final."""
        self.gone_until_us = {}
        for _ in range(10):
            self.beat()
            self.run.clock.advance(1)
        for _ in range(40):
            self.beat()
            self.run.settle(SLOTS)
            self.run.clock.advance(1)

    def nothing_is_lost(self) -> None:
        """Final windows are those of an oracle that counts each event sent once."""
        sent = list(self.sent.values())
        until_us = min(progress[-1].closed_us for progress in self.run.progress().values())
        assert until_us > max((one.time_us for one in sent), default=0) + 20 * MICROS
        check_finals(self.run.rows(), final_windows(sent, SETTINGS.windows, until_us), SETTINGS.windows)
        balance = self.ledger.update()
        assert balance.windowed == len(sent)
        assert balance.duplicates == self.appended - len(sent)
        assert (balance.accepted, balance.in_flight) == (self.appended, 0)


def home(one: Sent, partitions: int) -> int:
    """The partition of ``events`` that an event and its repeats go to."""
    return event_partition(event_hash(topics.DEFAULT_TENANT, one.service, str(one.id)), partitions)


def failure(steps: Sequence[Step], rows_per_step: int) -> Exception | None:
    """What goes wrong under a plan; None if nothing does."""
    world = World(rows_per_step)
    try:
        for step in steps:
            world.do(step)
            world.check()
        world.come_to_rest()
        world.check()
        world.nothing_is_lost()
    except Exception as error:  # noqa: BLE001 (any error is a finding, and the caller raises it)
        return error
    return None


def shortened(steps: Sequence[Step], fails: Callable[[Sequence[Step]], bool], runs: int = 80) -> list[Step]:
    """A shorter plan that fails too: ever smaller stretches are left out as long as that is so, within so many runs."""
    kept, size = list(steps), len(steps) // 2
    while size:
        start = 0
        while start < len(kept) and runs > 0:
            shorter, runs = kept[:start] + kept[start + size :], runs - 1
            if fails(shorter):
                kept = shorter
            else:
                start += size
        size //= 2
    return kept


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_fails_whenever_every_event_is_counted_once(seed: int) -> None:
    """Stages crash, stall, come back as zombies, are fenced, fail to commit or do not know whether they did; one to four
    processes a stage join and leave; edge processes whose clocks are wrong come and go; records are written twice;
    ``events`` grows, and edges hear of it late, so that an event and its repeat go to different partitions."""
    rows_per_step = [1, 10, 60_000][seed % 3]
    steps = plan(seed)
    if (error := failure(steps, rows_per_step)) is not None:
        short = shortened(steps, lambda fewer: failure(fewer, rows_per_step) is not None)
        error.add_note(f"seed {seed}, {rows_per_step} rows a step; it takes: {', '.join(map(str, short))}")
        raise error


def test_without_fencing_the_simulation_fails_and_says_so_in_a_few_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A log that lets a zombie commit is found out, and the plan that shows it is cut down."""
    monkeypatch.setattr(memory_log.MemoryWorker, "_is_fenced", lambda worker, positions: False)
    failing = next(seed for seed in range(50) if failure(plan(seed), 60_000) is not None)
    short = shortened(plan(failing), lambda fewer: failure(fewer, 60_000) is not None)
    assert failure(short, 60_000) is not None
    assert len(short) < 20, short
