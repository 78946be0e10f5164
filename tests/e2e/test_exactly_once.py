"""Every event that was taken is in the final windows once, whichever stage is killed, whenever.

Real processes, kill -9 at random moments, on both logs at the same time; each log's run is made once and looked at by
several tests. Combine and window run twice each, so that partitions also move between members that live.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from smartscale.config import Settings
from smartscale.log.port import Message, Record
from smartscale.records import partials, topics
from smartscale.testing.kafka_broker import KafkaBroker
from smartscale.testing.killing import Run, copied, faults, recount, run_under_kills
from smartscale.testing.memory_log import MemoryLog
from smartscale.testing.processes import STAGES, Pipeline, balance

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

PROCESSES = (*STAGES, "combine-1", "window-1")
DURATION_S = 180.0
KILLS_EACH = 5
RATE_PER_S = 500
SETTINGS = {
    "topics.retention_bytes": 0,  # the oracle and the ledger need every record
    # Longer than a killed edge, the clients' retries and a combiner's successor take together (about 10 s at worst).
    "time.allowed_lateness_s": 25.0,
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


def settle(address: str, folder: Path, seed: int) -> Settled:
    with Pipeline(address, folder, SETTINGS, PROCESSES) as pipeline:
        run = run_under_kills(pipeline, seed, DURATION_S, RATE_PER_S, KILLS_EACH)
        with pipeline.log() as log:
            return Settled(run, copied(log, pipeline.settings, TOPICS), pipeline.settings, folder)


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
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(2))
        futures = {}
        for adapter in sorted(chosen):
            folder = tmp_path_factory.mktemp(f"exactly-once-{adapter}")
            url = stack.enter_context(KafkaBroker()).url if adapter == "kafka" else f"sqlite:{folder}/log.db"
            futures[adapter] = pool.submit(settle, url, folder, seed)
        yield futures


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def adapter(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settled(runs: dict[str, Future[Settled]], adapter: str) -> Settled:
    return runs[adapter].result()


def test_every_final_window_equals_the_oracle_after_every_stage_was_killed_five_times(
    settled: Settled,
) -> None:
    """Count, errors and histogram of every key and tumbling window; each final once; the books balance to 0."""
    run = settled.run
    assert all(run.kills[stage] >= KILLS_EACH for stage in PROCESSES)
    assert all(answer in ("accepted", "duplicate") for _, answer in run.answers)
    assert len(run.events) > DURATION_S * RATE_PER_S * 0.99
    wrong = faults(settled.log, settled.settings, run.events)
    assert not wrong, f"seed {run.seed}: {len(wrong)} faults, first {wrong[:10]}; {run.complaints}"


def test_the_edge_was_really_cut_off_and_repeats_reached_the_log(settled: Settled) -> None:
    """Otherwise the run would prove nothing: clients had to retry, and deduplication had something to drop."""
    assert settled.run.retries > 0
    assert balance(settled.log, settled.settings).duplicates > 0


def test_no_stage_ended_by_itself(settled: Settled) -> None:
    """A killed process's successor takes over without either of them failing."""
    assert not settled.run.ended, settled.run.complaints


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
