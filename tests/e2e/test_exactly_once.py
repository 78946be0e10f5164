"""Every event that was taken is in the final windows once, whatever befalls the processes and the brokers, whenever.

Real processes on both logs at the same time; each log's run is made once and looked at by several tests. One to four
combines and windows join, leave, are killed (-9) and stalled beyond their session, so that partitions move all the time; on
a Kafka of three brokers, brokers are killed too. They begin as the version before and are upgraded one by one; near the end
``events`` is given more partitions, so that ids move. The faults are data that the seed makes.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from smartscale.app import CANNOT_GO_ON
from smartscale.config import Settings
from smartscale.log.port import Message, Record
from smartscale.records import partials, schema, topics
from smartscale.testing.kafka_broker import KafkaCluster
from smartscale.testing.killing import (
    MEMBERS,
    Fault,
    Run,
    broker_kills,
    copied,
    faults,
    kills,
    membership,
    recount,
    run_under_faults,
)
from smartscale.testing.memory_log import MemoryLog
from smartscale.testing.processes import Pipeline, balance

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

MOVING = ("combine", "window")
"""Stages that have one to four members."""
OTHERS = {"sqlite": ("ingest", "ml", "control"), "kafka": ("ingest",)}
"""What else runs and is killed: on Kafka no more than the three brokers leave room for."""
DURATION_S = 140.0
KILLS_EACH = 4
RATE_PER_S = 500
SETTINGS = {
    "topics.retention_bytes": 0,  # the oracle and the ledger need every record
    # Longer than a killed edge, a killed broker, the clients' retries and a combiner's successor take together.
    "time.allowed_lateness_s": 40.0,
    "windows.histogram_from_s": 10.0,  # every tumbling window is compared slot by slot
}
TOPICS = (topics.EVENTS, topics.PARTIALS, topics.METRICS, topics.DEAD_LETTERS)


@dataclass(frozen=True, slots=True)
class Settled:
    """A run, and its log copied into memory with every offset kept."""

    run: Run
    log: MemoryLog
    settings: Settings
    folder: Path


def planned(adapter: str, seed: int) -> list[Fault]:
    """What happens on this log under this seed."""
    chance = random.Random(seed)
    planned = kills(chance, OTHERS[adapter], DURATION_S, KILLS_EACH)
    for stage in MOVING:
        planned += membership(chance, stage, DURATION_S)
    for stage, share in (("window", 0.25), ("combine", 0.5)):  # readers before writers, one process at a time
        planned += [
            Fault(DURATION_S * (share + 0.05 * k), "upgrade", stage + member)
            for k, member in enumerate(MEMBERS)
        ]
    planned += [
        Fault(DURATION_S * chance.uniform(0.7, 0.9), "widen", "6")
    ]  # marks are for this version alone
    return planned + (broker_kills(chance, 3, DURATION_S) if adapter == "kafka" else [])


def settle(adapter: str, folder: Path, seed: int) -> Settled:
    stages = (*OTHERS[adapter], *(stage + member for stage in MOVING for member in MEMBERS))
    with ExitStack() as stack:
        cluster = stack.enter_context(KafkaCluster()) if adapter == "kafka" else None
        pipeline = Pipeline(cluster.url if cluster else f"sqlite:{folder}/log.db", folder, SETTINGS, stages)
        stack.callback(pipeline.close)
        pipeline.old = {stage + member for stage in MOVING for member in MEMBERS}
        run = run_under_faults(pipeline, seed, DURATION_S, RATE_PER_S, planned(adapter, seed), cluster)
        with pipeline.log() as log:
            return Settled(run, copied(log, TOPICS), pipeline.settings, folder)


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Settled]]]:
    """One run for each log that the selected tests ask for, all at the same time."""
    chosen = {
        str(item.callspec.params["adapter"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path
    }
    seed = int(os.environ.get("SMARTSCALE_TEST_SEED") or random.randrange(1 << 30))
    sys.stderr.write(f"\nSMARTSCALE_TEST_SEED={seed} repeats the load and the kills\n")
    with ThreadPoolExecutor(2) as pool:
        yield {
            adapter: pool.submit(settle, adapter, tmp_path_factory.mktemp(f"exactly-once-{adapter}"), seed)
            for adapter in sorted(chosen)
        }


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def adapter(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settled(runs: dict[str, Future[Settled]], adapter: str) -> Settled:
    return runs[adapter].result()


def test_every_final_window_equals_the_oracle_under_joins_kills_stalls_and_broker_kills(
    settled: Settled,
) -> None:
    """Count, errors and histogram of every key and tumbling window; each final once; the books balance to 0."""
    run = settled.run
    assert all(answer in ("accepted", "duplicate") for _, answer in run.answers)
    assert len(run.events) > DURATION_S * RATE_PER_S * 0.99
    wrong = faults(settled.log, settled.settings, run.events)
    assert not wrong, (
        f"seed {run.seed}: {len(wrong)} faults, first {wrong[:10]}; {run.happened}; {run.complaints}"
    )


def test_all_that_was_planned_befell_the_processes(settled: Settled, adapter: str) -> None:
    """Each stage had one to four members, four stalls and eight kills; brokers died and came back."""
    happened: Counter[tuple[str, str]] = Counter()
    for (what, name), times in settled.run.happened.items():
        happened[what, name.split("-")[0]] += times
    for stage in MOVING:
        assert happened["stall", stage] == happened["wake", stage] == len(MEMBERS)
        assert happened["kill", stage] == 2 * len(MEMBERS)
        assert happened["join", stage] + happened["leave", stage] >= 3
    assert all(happened["kill", name] == KILLS_EACH for name in OTHERS[adapter])
    assert happened["widen", "6"] == 1
    assert settled.log.topics()[topics.EVENTS].partitions == 6
    brokers = sum(times for (what, _), times in happened.items() if what == "broker start")
    assert brokers == (2 if adapter == "kafka" else 0)


@pytest.mark.parametrize("topic", [topics.PARTIALS, topics.METRICS])
def test_both_versions_wrote_in_the_same_run(settled: Settled, topic: str) -> None:
    """Records of the version before and of this one lie mixed in the partitions."""
    written = {record.headers[schema.SCHEMA].decode() for record in settled.log.records(topic)}
    name = {topics.PARTIALS: "partials", topics.METRICS: "metric"}[topic]
    assert {f"{name}/1", f"{name}/2"} <= written


def test_the_edge_was_really_cut_off_and_repeats_reached_the_log(settled: Settled) -> None:
    """Otherwise the run would prove nothing: clients had to retry, and deduplication had something to drop."""
    assert settled.run.retries > 0
    assert balance(settled.log, settled.settings).duplicates > 0


def test_no_stage_failed(settled: Settled, adapter: str) -> None:
    """A killed process's successor takes over without either of them failing, and a stalled one joins again. Only a process
    that starts while a broker is away may find no log, end with that reason and be started again."""
    assert not [line for line in settled.run.complaints if line.startswith("Traceback")], (
        settled.run.complaints
    )
    assert {code for _, code in settled.run.ended} <= ({CANNOT_GO_ON} if adapter == "kafka" else set())


def filled_record(log: MemoryLog) -> Record:
    """A record of ``partials`` from the middle of the run that carries rows."""
    filled = [r for r in log.records(topics.PARTIALS) if partials.decode(r.value)[1].num_rows]
    return filled[len(filled) // 2]


def events_in(record: Record) -> int:
    return sum(partials.decode(record.value)[1].column("count").to_pylist())


def changed_afterwards(settled: Settled, change: str) -> tuple[MemoryLog, int]:
    """The whole log without one record of ``partials``, or with one appended again; and how many events are in it."""
    record = filled_record(settled.log)
    copy = MemoryLog()
    copy.create(list(settled.log.topics().values()))
    for name in TOPICS:
        copy.restore(r for r in settled.log.records(name) if change != "removed" or r != record)
    if change == "doubled":
        copy.publisher().append(
            [Message(topics.PARTIALS, record.partition, record.value, headers=record.headers)]
        )
    return copy, events_in(record)


def worked_out_anew(settled: Settled, times: int) -> MemoryLog:
    """Events and partials with one record ``times`` times at its place, and what window makes of them."""
    record = filled_record(settled.log)
    copy = MemoryLog()
    copy.create(list(settled.log.topics().values()))
    copy.restore(settled.log.records(topics.EVENTS))
    for one in settled.log.records(topics.PARTIALS):
        message = Message(topics.PARTIALS, one.partition, one.value, headers=one.headers)
        copy.publisher().append([message] * (times if one == record else 1))
    recount(copy, settled.settings)
    return copy


@pytest.mark.parametrize("change", ["removed", "doubled"])
def test_a_record_of_partials_removed_or_doubled_shows_in_the_ledger(settled: Settled, change: str) -> None:
    """Though every window is right: the difference is at least the number of events in the record."""
    copy, events = changed_afterwards(settled, change)
    assert balance(copy, settled.settings).difference >= events > 0
    assert faults(copy, settled.settings, settled.run.events)


@pytest.mark.parametrize(("change", "times"), [("removed", 0), ("doubled", 2)])
def test_a_record_of_partials_removed_or_doubled_before_window_reads_it_fails_the_run(
    settled: Settled, change: str, times: int
) -> None:
    """Neither the books nor the oracle agree with the windows that come of it."""
    copy = worked_out_anew(settled, times)
    assert balance(copy, settled.settings).difference > 0
    wrong = faults(copy, settled.settings, settled.run.events)
    assert any(" wanted " in fault for fault in wrong)


def test_windows_worked_out_anew_from_an_unchanged_copy_pass(settled: Settled) -> None:
    """So it is the change that fails the run, not the copying."""
    copy = worked_out_anew(settled, 1)
    assert not faults(copy, settled.settings, settled.run.events)
