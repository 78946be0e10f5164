"""The stage on the log in memory: what it publishes, and that a restart cannot be seen in it."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from smartscale import clock
from smartscale.clock import ManualClock
from smartscale.config import Ml, Settings, Topics
from smartscale.errors import Fenced, LogUnavailable
from smartscale.log.partitioner import service_partition
from smartscale.log.port import Message, Record
from smartscale.log.topics import specs
from smartscale.ml import service
from smartscale.records import dead_letters, forecasts, metrics, people, schema, topics
from smartscale.records.metrics import MetricRow, Progress
from smartscale.stage import Context
from smartscale.telemetry.health import Health
from smartscale.testing.memory_log import MemoryLog

STEP_US = 10_000_000
ORIGIN = 180_000_000
PARTITIONS = 2
SERVICES = ("web", "api", "search")


def context(log: MemoryLog, snapshot_s: float = 0.0, slot: str = "0") -> Context:
    settings = Settings(
        topics=Topics(events=1, partials=PARTITIONS),
        ml=Ml(horizon_steps=6, history_steps=300, snapshot_s=snapshot_s),
    )
    log.create(specs(settings))
    return Context(log, ManualClock(), settings, threading.Event(), Health("ml"), slot)


def write(log: MemoryLog, partition: int, records: list[tuple[str, bytes]]) -> None:
    messages = [
        Message(topics.METRICS, partition, value, None, schema.headers(name)) for name, value in records
    ]
    publisher = log.publisher()
    assert all(isinstance(offset, int) for offset in publisher.append(messages))
    publisher.close()


def windows(steps: int) -> Iterator[tuple[int, list[tuple[str, bytes]]]]:
    """Each step's records of each partition: provisional rows, the final ones of three steps ago, progress."""
    rng = np.random.default_rng(1)
    rates = rng.poisson(200, (len(SERVICES), steps + 1)) / 10.0
    rates[0, 40:46] *= 3
    for step in range(1, steps + 1):
        for partition in range(PARTITIONS):
            rows = [
                (i, at, final)
                for i, name in enumerate(SERVICES)
                if service_partition("default", name, PARTITIONS) == partition
                for at, final in ((step, False), (step - 3, True))
                if at >= 1
            ]
            records = [
                (schema.METRIC, metrics.encode(_row(SERVICES[i], at, float(rates[i, at]), final)))
                for i, at, final in rows
            ]
            reached, closed = (ORIGIN + step) * STEP_US, (ORIGIN + max(step - 3, 0)) * STEP_US
            progress = Progress(partition, 0, reached, reached, closed, closed, 0, [])
            yield partition, [*records, (schema.PROGRESS, metrics.encode(progress))]


def _row(name: str, step: int, rate: float, final: bool) -> MetricRow:
    end_us = (ORIGIN + step) * STEP_US
    return MetricRow(
        "default", name, "interaction", "*", "10s", end_us - STEP_US, end_us, round(rate * 10), 0, rate, 0.0,
        int(final), final, True, end_us,
    )  # fmt: skip


def turn_until_read(stage: service.Stage, log: MemoryLog, slot: str = "0") -> None:
    """Turns until all that is on the topic has been answered, then leaves."""
    worker = log.worker(service.GROUP, [topics.METRICS], slot)
    deadline = clock.monotonic_s() + 30
    while not _answered(log):
        assert clock.monotonic_s() < deadline, "the stage does not come to the end of its input"
        stage.turn(worker)
    worker.close()


def _answered(log: MemoryLog) -> bool:
    committed = log.committed(service.GROUP)
    bounds = log.bounds(list(committed))
    return len(committed) == PARTITIONS and all(committed[at].offset >= bounds[at].end for at in committed)


def published(log: MemoryLog) -> tuple[list[bytes], list[bytes]]:
    """Forecasts and incidents, by partition and order."""

    def by_partition(topic: str) -> list[bytes]:
        return [r.value for r in sorted(log.records(topic), key=lambda r: (r.partition, r.offset))]

    return by_partition(topics.FORECASTS), by_partition(topics.INCIDENTS)


def uninterrupted(steps: int) -> tuple[list[bytes], list[bytes]]:
    log = MemoryLog()
    stage = service.Stage(context(log))
    for partition, records in windows(steps):
        write(log, partition, records)
    turn_until_read(stage, log)
    return published(log)


def test_forecasts_of_all_services_and_the_surge_are_published_where_the_service_lives() -> None:
    """One forecast a service and step, and one incident, each in its service's partition."""
    log = MemoryLog()
    stage = service.Stage(context(log))
    for partition, records in windows(50):
        write(log, partition, records)
    turn_until_read(stage, log)
    made = [(r.partition, forecasts.decode_forecast(r.value)) for r in log.records(topics.FORECASTS)]
    assert len(made) == 50 * len(SERVICES)
    assert all(service_partition(f.tenant, f.service, PARTITIONS) == partition for partition, f in made)
    told = [forecasts.decode_incident(r.value) for r in log.records(topics.INCIDENTS)]
    assert {(i.service, i.class_) for i in told} == {("web", forecasts.DEMAND_SURGE)}


@pytest.mark.parametrize("snapshot_s", [0.0, 1e9], ids=["from snapshots", "from the log"])
def test_restarts_cannot_be_seen(snapshot_s: float) -> None:
    """Byte for byte the forecasts and incidents of a run without a restart, each once, after every third."""
    log = MemoryLog()
    everything = list(windows(50))
    for first, last in ((0, 20), (20, 50), (50, 85), (85, 100)):
        stage = service.Stage(context(log, snapshot_s))
        for partition, records in everything[first:last]:
            write(log, partition, records)
        turn_until_read(stage, log)
        assert bool(log.records(topics.ML_STATE)) == (snapshot_s == 0.0)
    assert published(log) == uninterrupted(50)


@pytest.mark.parametrize("error", [Fenced("lost"), LogUnavailable("away", retry_after_s=0.01)])
def test_a_failed_transaction_loses_nothing_and_doubles_nothing(error: Fenced | LogUnavailable) -> None:
    """The stage backs off, rebuilds its state and publishes what it would have published."""
    log = MemoryLog()
    error.retry_after_s = 0.01
    ctx = context(log)
    everything = list(windows(20))
    for partition, records in everything[:20]:
        write(log, partition, records)
    thread = threading.Thread(target=service.run, args=(ctx,))
    thread.start()
    try:
        _wait(ctx, log)
        log.fail_next_commit(error)
        for partition, records in everything[20:]:
            write(log, partition, records)
        _wait(ctx, log)
    finally:
        ctx.stop.set()
        thread.join(10)
    assert not thread.is_alive()
    assert published(log) == uninterrupted(20)


def _wait(ctx: Context, log: MemoryLog) -> None:
    deadline = clock.monotonic_s() + 30
    while not _answered(log):
        assert clock.monotonic_s() < deadline, ctx.health.is_ready
        ctx.stop.wait(0.01)


def test_a_bad_row_goes_to_dead_letters_and_stops_nothing() -> None:
    """It stands for no event, so that the books still balance, and says where it was."""
    log = MemoryLog()
    stage = service.Stage(context(log))
    bad = msgspec.json.encode({"service": "web"})
    for i, (partition, records) in enumerate(windows(3)):
        write(log, partition, [(schema.METRIC, bad), *records] if i == 0 else records)
    turn_until_read(stage, log)
    letters = [dead_letters.decode(r.value) for r in log.records(topics.DEAD_LETTERS)]
    assert [(x.stage, x.count, x.source, x.offset) for x in letters] == [("ml", 0, "metrics/0", 0)]
    assert len(log.records(topics.FORECASTS)) == 3 * len(SERVICES)


def test_it_tells_prometheus_what_it_does() -> None:
    """Series, open incidents, and how well the series are forecast."""
    log = MemoryLog()
    ctx = context(log)
    stage = service.Stage(ctx)
    for partition, records in windows(43):
        write(log, partition, records)
    turn_until_read(stage, log)
    registry = ctx.health.registry
    assert registry.get_sample_value("smartscale_ml_series") == len(SERVICES)
    assert registry.get_sample_value("smartscale_ml_incidents_open") == 1
    assert 0.7 < (registry.get_sample_value("smartscale_ml_coverage_ratio") or 0) <= 1
    for of, low in (("coverage", 0.7), ("skill", -1.0), ("influence", 0.5)):
        found = [
            registry.get_sample_value("smartscale_ml_standing", {"of": of, "quantile": q})
            for q in ("0.1", "0.5", "0.9")
        ]
        assert found == sorted(x for x in found if x is not None and low < x <= 1)


WEB = service_partition("default", "web", PARTITIONS)


def false_alarm(name: str, kinds: dict[str, float]) -> tuple[str, bytes]:
    word = people.Feedback(
        id=name, said=people.FALSE_ALARM, incident="inc-0", tenant="default", service="web",
        class_=forecasts.DEMAND_SURGE, kinds=kinds, severity=0.3, end_us=0, time_us=ORIGIN * STEP_US, who="ann",
    )  # fmt: skip
    return schema.FEEDBACK, people.encode(word)


def spoken(steps: int) -> list[tuple[int, list[tuple[str, bytes]]]]:
    """``windows`` with what people said in between: two false alarms before the surge of step 40, a mute of the other
    partition that is lifted again."""
    everything = list(windows(steps))
    mute = people.Mute(name="works", at="00:00-24:00")
    for place, partition, record in (
        (10, WEB, false_alarm("1", {"surge": 6.0})),
        (30, WEB, false_alarm("2", {"surge": 6.0})),
        (31, WEB, false_alarm("1", {"surge": 6.0})),  # sent again
        (32, 1 - WEB, (schema.MUTE, people.encode(mute))),
        (60, 1 - WEB, (schema.UNMUTE, people.encode(people.Unmute(name="works")))),
    ):
        everything.insert(place, (partition, [record]))
    return everything


def test_what_people_said_is_heard_in_order_and_survives_restarts() -> None:
    """The surge is recorded with the reason why nobody is told; byte for byte the same with restarts, and what was said
    stands beside it, once."""
    runs = []
    for cuts in ((0, 105), (0, 33, 61, 85, 105)):
        log = MemoryLog()
        everything = spoken(50)
        for first, last in itertools.pairwise(cuts):
            stage = service.Stage(context(log))
            for partition, records in everything[first:last]:
                write(log, partition, records)
            turn_until_read(stage, log)
        runs.append(
            [(r.partition, r.headers, r.value) for r in sorted(log.records(topics.INCIDENTS), key=_place)]
        )
    assert runs[0] == runs[1]
    by_schema = {name: [v for _, h, v in runs[0] if h == schema.headers(name)] for name in schema.READABLE}
    told = [forecasts.decode_incident(v) for v in by_schema[schema.INCIDENT]]
    assert {(i.service, i.notify) for i in told} == {("web", False)}
    assert told[0].silenced.startswith("2 false alarms raised the bar of surge to 5.")
    assert len(by_schema[schema.FEEDBACK]) == 3
    assert len(by_schema[schema.MUTE]) == len(by_schema[schema.UNMUTE]) == 1


def _place(record: Record) -> tuple[int, int]:
    return record.partition, record.offset


def test_what_people_said_outlives_other_settings() -> None:
    """With another horizon the rest of the snapshot cannot be used, and is learned again; what was said holds."""
    log = MemoryLog()
    context(log)
    write(log, WEB, [false_alarm("1", {"surge": 6.0})])
    for partition, records in windows(3):
        write(log, partition, records)
    turn_until_read(service.Stage(context(log)), log)
    ctx = context(log)
    longer = msgspec.structs.replace(ctx.settings.ml, horizon_steps=9)
    changed = dataclasses.replace(ctx, settings=msgspec.structs.replace(ctx.settings, ml=longer))
    stage, worker = service.Stage(changed), log.worker(service.GROUP, [topics.METRICS], "1")
    while len(stage.held) < PARTITIONS:
        stage.turn(worker)
    assert stage.held[WEB].next == 0
    assert "surge" in stage.held[WEB].state.heard["default", "web"].bars


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (schema.FEEDBACK, b"{}"),
        (schema.MUTE, b'{"name":"x","at":"noon"}'),
        (schema.MUTE, b'{"name":"x","at":"00:00-24:00","only":"web"}'),
    ],
)
def test_words_that_make_no_sense_go_to_dead_letters(name: str, value: bytes) -> None:
    """Half a mute would silence what nobody meant."""
    log = MemoryLog()
    stage = service.Stage(context(log))
    for partition, records in windows(1):
        write(log, partition, [(name, value), *records])
    turn_until_read(stage, log)
    assert {dead_letters.decode(r.value).reason for r in log.records(topics.DEAD_LETTERS)} == {"unreadable"}
    assert all(not held.state.mutes and not held.state.heard for held in stage.held.values())
