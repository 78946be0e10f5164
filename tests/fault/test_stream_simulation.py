"""Seeded simulation of the stream processor under virtual time: crashes, fencing, failed commits, silent sources.

One thread, one clock, one ``random.Random(seed)``: a seed that fails fails again. ``SMARTSCALE_SOAK=1`` runs many more.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from smartscale.clock import MICROS
from smartscale.config import Dedup, Settings, Time, Topics, Windows
from smartscale.errors import Fenced, LogUnavailable
from smartscale.ledger.reader import LedgerReader
from smartscale.log.port import Record, TopicPartition
from smartscale.records import metrics, partials, schema, topics
from smartscale.records.metrics import MetricRow, Progress
from smartscale.testing.pipeline import Pipeline, Sent
from smartscale.testing.window_oracle import (
    RowKey,
    check_finals,
    check_revisions,
    final_windows,
    row_key,
)

SETTINGS = Settings(
    topics=Topics(events=3, partials=2),
    time=Time(
        out_of_orderness_s=2,
        allowed_lateness_s=5,
        settle_s=2,
        idle_after_s=1.5,
        heartbeat_timeout_s=3,
        missing_after_s=6,
    ),
    windows=Windows(tumbling_s=[10.0, 20.0], sliding_s=[[15.0, 5.0]], histogram_from_s=20, key_ttl_s=200),
    dedup=Dedup(window_s=30),
)
IDLE = 2
"""A partition of ``events`` that gets heartbeats only."""
STEPS = 70
SEEDS = range(500 if os.environ.get("SMARTSCALE_SOAK") else 12)


@dataclass
class World:
    """The pipeline, what was sent into it, and what has been seen of its outputs."""

    chance: random.Random
    rows_per_step: int
    slots: list[str]
    """Of both stages: one process each, or two that share the partitions."""
    run: Pipeline = field(init=False)
    ledger: LedgerReader = field(init=False)
    sent: list[Sent] = field(default_factory=list)
    """Distinct events."""
    appended: int = 0
    """Events in the log, repeats included."""
    out_until_us: int = 0
    """No edge process is alive until then."""
    done: list[str] = field(default_factory=list)
    rows: list[MetricRow] = field(default_factory=list)
    progress: dict[int, Progress] = field(default_factory=dict)
    watermarks: dict[tuple[str, int], int] = field(default_factory=dict)
    counted: dict[RowKey, int] = field(default_factory=dict)
    _seen: dict[TopicPartition, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.run = Pipeline(SETTINGS, self.rows_per_step)
        self.ledger = LedgerReader(self.run.log, SETTINGS)

    # What happens.

    def step(self) -> None:
        """One thing after another, as chance will have it."""
        now = self.run.clock.now_us()
        if now >= self.out_until_us:
            self.send()
            self.run.beat()
            if self.chance.random() < 0.03:
                self.out_until_us = now + self.chance.randrange(4, 15) * MICROS
                self.done.append("edge gone")
        for stage in self.chance.sample(["combine", "window"], 2):
            self.disturb(stage)
            for _ in range(self.chance.choice([0, 1, 1, 3])):
                turn = self.run.combine if stage == "combine" else self.run.window
                turn(self.chance.choice([1, 4000, 1 << 20]), self.chance.choice(self.slots))
        self.run.clock.advance(self.chance.choice([0.1, 0.5, 1, 1, 2]))

    def send(self) -> None:
        """New events, up to the bound out of order, and repeats of some sent lately, to the partition of their id."""
        now = self.run.clock.now_us()
        new = [
            Sent(
                self.chance.choice(["cart", "checkout", "search"]),
                now - self.chance.randrange(2 * MICROS),
                name=self.chance.choice(["/", "/x"]),
                id=f"{len(self.sent) + i}",
                latency_us=self.chance.choice([None, self.chance.randrange(10**6)]),
                error=self.chance.random() < 0.1,
                value=self.chance.choice([None, None, self.chance.uniform(-1, 1)]),
            )
            for i in range(self.chance.randrange(8))
        ]
        self.sent += new
        lately = [one for one in self.sent[-40:] if one.time_us > now - 10 * MICROS]
        again = self.chance.sample(lately, min(len(lately), self.chance.choice([0, 0, 1, 4])))
        for p in range(IDLE):
            of_partition = [one for one in new + again if int(one.id or 0) % IDLE == p]
            self.chance.shuffle(of_partition)
            self.run.append(p, of_partition)
            self.appended += len(of_partition)

    def disturb(self, stage: str) -> None:
        """Perhaps something goes wrong before the stage's next turn."""
        crash = self.run.crash_combine if stage == "combine" else self.run.crash_window
        slot = self.chance.choice(self.slots)
        mishaps: dict[str, Callable[[], None]] = {
            "crash": lambda: crash(slot),
            "leave": lambda: self.run.leave(stage, slot),
            "expire": lambda: self.run.expire(stage, slot),
            "fence": lambda: self.run.log.fail_next_commit(Fenced("simulated")),
            "unavailable": lambda: self.run.log.fail_next_commit(LogUnavailable("simulated")),
        }
        if self.chance.random() < 0.15:
            mishap = self.chance.choice(sorted(mishaps))
            mishaps[mishap]()
            self.done.append(f"{stage} {slot} {mishap}")

    # What must hold after every step.

    def check(self) -> None:
        self.watermarks_never_go_back(self.news(topics.PARTIALS))
        told = self.news(topics.METRICS)
        self.nothing_is_counted_twice(
            [metrics.decode_row(r.value) for r in told if schema.schema_of(r.headers) == schema.METRIC]
        )
        self.progress_moves_on(
            [metrics.decode_progress(r.value) for r in told if schema.schema_of(r.headers) == schema.PROGRESS]
        )
        balance = self.ledger.update()
        assert (balance.difference, balance.accepted, balance.late, balance.dead) == (0, self.appended, 0, 0)

    def nothing_is_counted_twice(self, new: list[MetricRow]) -> None:
        """Revisions grow, and no window says more than what was sent for it."""
        self.rows += new
        check_revisions(self.rows)
        for row in new:
            self.counted[row_key(row)] = row.count
        sent = Counter(
            (one.service, one.name, one.time_us // (10 * MICROS) * 10 * MICROS + 10 * MICROS)
            for one in self.sent
        )
        found: Counter[tuple[str, str, int]] = Counter()
        for (service, _, name, window, end), count in self.counted.items():
            if window == "10s" and name != topics.ALL_NAMES:
                found[service, name, end] += count
        assert not found - sent

    def watermarks_never_go_back(self, new: list[Record]) -> None:
        """Those of the inputs, as one partition of partials is told."""
        for record in new:
            if record.partition == 0:
                for source in partials.decode(record.value)[0].watermarks:
                    at = source.topic, source.partition
                    assert source.watermark_us >= self.watermarks.get(at, 0), source
                    self.watermarks[at] = source.watermark_us

    def progress_moves_on(self, new: list[Progress]) -> None:
        """What window says of itself never goes back, whoever the process is."""
        for progress in new:
            before = self.progress.get(progress.partition, progress)
            for name in ("position", "watermark_us", "provisional_us", "closed_us", "final_us"):
                assert getattr(progress, name) >= getattr(before, name), (before, progress)
            self.progress[progress.partition] = progress

    def news(self, topic: str) -> list[Record]:
        """Records that have come since the last call for the topic."""
        new = [r for r in self.run.log.records(topic) if r.offset >= self._seen.get(r.at, 0)]
        self._seen |= {record.at: record.offset + 1 for record in new}
        return new

    # The end.

    def come_to_rest(self) -> None:
        """All is well again, and time goes by until every window is final."""
        self.run.clock.advance(10)
        for _ in range(40):
            self.run.beat()
            self.run.settle(self.slots)
            self.run.clock.advance(1)

    def nothing_is_lost(self) -> None:
        """Final windows are those of an oracle that counts each event sent once."""
        until_us = min(progress[-1].closed_us for progress in self.run.progress().values())
        assert until_us > max((one.time_us for one in self.sent), default=0) + 20 * MICROS
        expected = final_windows(self.sent, SETTINGS.windows, until_us)
        check_finals(self.run.rows(), expected, SETTINGS.windows)
        balance = self.ledger.update()
        assert balance.windowed == len(self.sent)
        assert balance.duplicates == self.appended - len(self.sent)
        assert balance.in_flight == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_fails_whenever_every_event_is_counted_once(seed: int) -> None:
    """Stages crash, are fenced and fail to commit; edge processes come and go; a partition stays idle."""
    chance = random.Random(seed)
    world = World(chance, chance.choice([1, 10, 60_000]), chance.choice([["0"], ["0", "1"]]))
    try:
        for _ in range(STEPS):
            world.step()
            world.check()
        world.come_to_rest()
        world.check()
        world.nothing_is_lost()
    except Exception as error:
        error.add_note(f"seed {seed}; what had happened: {', '.join(world.done)}")
        raise
