"""A rolling upgrade under load: processes of two versions at once, records of both mixed, every event counted once."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from smartscale.clock import MICROS
from smartscale.config import Settings, Time, Topics, Windows
from smartscale.errors import SchemaError
from smartscale.ledger.reader import LedgerReader
from smartscale.log.partitioner import event_hash, event_partition
from smartscale.log.port import Message
from smartscale.records import schema, topics
from smartscale.testing.old_stages import as_version_1
from smartscale.testing.pipeline import Pipeline, Sent

SLOTS = ("0", "1")
PROCESSES = [(stage, slot) for stage in ("window", "combine") for slot in SLOTS]
"""In the order in which they are upgraded: readers before writers."""
SETTINGS = Settings(
    topics=Topics(events=3, partials=2),
    time=Time(out_of_orderness_s=1, allowed_lateness_s=4, settle_s=1, idle_after_s=1),
    windows=Windows(tumbling_s=[5.0], sliding_s=[[10.0, 5.0]], histogram_from_s=5),
)


def turn(run: Pipeline, stage: str, slot: str) -> None:
    (run.combine if stage == "combine" else run.window)(slot=slot)


@pytest.mark.parametrize("seed", range(6))
def test_processes_upgraded_one_by_one_under_load_count_every_event_once(seed: int) -> None:
    """All begin as version 1; each is stopped, in order or not, and comes back as version 2 while the others work on."""
    chance, run = random.Random(seed), Pipeline(SETTINGS)
    run.old = set(PROCESSES)
    ledger = LedgerReader(run.log, SETTINGS)
    sent: dict[str, Sent] = {}
    upgrades = list(PROCESSES)
    for second in range(60):
        now_us = run.clock.now_us()
        new = [
            Sent(
                chance.choice("abc"),
                now_us - chance.randrange(MICROS),
                id=f"{second}-{i}",
                latency_us=chance.randrange(9999),
            )
            for i in range(10)
        ]
        again = chance.sample(list(sent.values()), min(len(sent), 2)) if second < 30 else []
        sent |= {str(one.id): one for one in new}
        for p in range(3):
            run.append(p, [one for one in new + again if home(one) == p])
        run.beat()
        if second % 12 == 6 and upgrades:
            stage, slot = upgrades.pop(0)
            run.old.discard((stage, slot))
            if chance.random() < 0.5:
                run.leave(stage, slot)
            else:
                (run.crash_combine if stage == "combine" else run.crash_window)(slot)
        for stage, slot in chance.sample(PROCESSES, len(PROCESSES)):
            turn(run, stage, slot)
        assert ledger.update().difference == 0
        run.clock.advance(1)
    for _ in range(30):
        run.beat()
        run.settle(SLOTS)
        run.clock.advance(1)
    balance = ledger.update()
    assert (balance.difference, balance.windowed, balance.in_flight) == (0, len(sent), 0), balance
    found = Counter(
        {(r.service, r.end_us): r.count for r in run.rows() if r.final and r.window == "5s" and r.name == "/"}
    )
    wanted = Counter(
        (one.service, one.time_us // (5 * MICROS) * 5 * MICROS + 5 * MICROS) for one in sent.values()
    )
    assert +found == wanted
    written = {
        r.headers[schema.SCHEMA].decode()
        for t in (topics.PARTIALS, topics.METRICS)
        for r in run.log.records(t)
    }
    assert {"partials/1", "partials/2", "metric/1", "metric/2"} <= written


def home(one: Sent) -> int:
    return event_partition(event_hash(topics.DEFAULT_TENANT, one.service, str(one.id)), 3)


def test_a_reader_that_was_not_upgraded_first_stops_at_what_it_cannot_read_and_loses_nothing() -> None:
    """Told what to do; the position stays, so that the upgraded reader goes on there."""
    run = Pipeline(SETTINGS)
    run.append(0, [Sent("a", run.clock.now_us())])
    run.beat()
    while run.combine():
        pass
    run.settle()
    before = run.log.committed("window")
    record = run.log.records(topics.PARTIALS)[-1]
    newer = {**record.headers, schema.SCHEMA: b"partials/3"}
    run.append_raw(Message(topics.PARTIALS, record.partition, record.value, headers=newer))
    with pytest.raises(SchemaError, match="upgrade this stage first"):
        run.settle()
    assert run.log.committed("window") == before
    assert not run.letters()


def test_what_version_1_wrote_lacks_what_is_new() -> None:
    """The writer of the version before is one: a record has neither the new columns nor the new name."""
    run = Pipeline(SETTINGS)
    run.append(0, [Sent("a", run.clock.now_us())])
    while run.combine():
        pass
    record = run.log.records(topics.PARTIALS)[0]
    old = as_version_1(Message(record.topic, 0, record.value, headers=record.headers))
    assert old.headers[schema.SCHEMA] == b"partials/1"
    assert b"value_last" not in old.value
