"""The long forms of the end-to-end proofs, for ``make soak``: ten minutes under kills, and the replay at speed 1."""

from __future__ import annotations

import os
import random
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from smartscale.app import CANNOT_GO_ON
from smartscale.testing.kafka_broker import KafkaCluster
from smartscale.testing.killing import MEMBERS, broker_kills, faults, kills, membership, run_under_faults
from smartscale.testing.processes import Pipeline
from smartscale.testing.replaying import at_speeds, unequal

pytestmark = [pytest.mark.soak, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]

DURATION_S = float(os.environ.get("SMARTSCALE_SOAK_S") or 600)
KILLS_EACH = 15
RATE_PER_S = 500
SETTINGS = {
    "topics.retention_bytes": 0,
    "time.allowed_lateness_s": 40.0,  # as the short form
    "windows.histogram_from_s": 10.0,
}


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def adapter(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_ten_minutes_with_one_to_four_combines_and_windows_under_faults_equal_the_oracle(
    adapter: str, tmp_path: Path
) -> None:
    """As the short form, with every stage running; on Kafka with six killed brokers."""
    seed = int(os.environ.get("SMARTSCALE_TEST_SEED") or random.randrange(1 << 30))
    sys.stderr.write(f"\nSMARTSCALE_TEST_SEED={seed} repeats the load and the faults\n")
    chance = random.Random(seed)
    planned = kills(chance, ("ingest", "ml", "control"), DURATION_S, KILLS_EACH)
    for stage in ("combine", "window"):
        planned += membership(chance, stage, DURATION_S)
    with ExitStack() as stack:
        cluster = stack.enter_context(KafkaCluster()) if adapter == "kafka" else None
        if cluster:
            planned += broker_kills(chance, 3, DURATION_S, times=6)
        stages = ("ingest", "ml", "control", *(s + m for s in ("combine", "window") for m in MEMBERS))
        url = cluster.url if cluster else f"sqlite:{tmp_path}/log.db"
        pipeline = Pipeline(url, tmp_path, SETTINGS, stages)
        stack.callback(pipeline.close)
        run = run_under_faults(pipeline, seed, DURATION_S, RATE_PER_S, planned, cluster)
        with pipeline.log() as log:
            wrong = faults(log, pipeline.settings, run.events)
    assert all(answer in ("accepted", "duplicate") for _, answer in run.answers)
    assert not wrong, f"seed {seed}: {len(wrong)} faults, first {wrong[:10]}; {run.complaints}"
    assert not [line for line in run.complaints if line.startswith("Traceback")], run.complaints
    assert {code for _, code in run.ended} <= (
        {CANNOT_GO_ON} if cluster else set()
    )  # started while a broker was away


def test_speed_1_gives_the_final_windows_of_speed_60(adapter: str, tmp_path: Path) -> None:
    """The ten minutes of events take ten minutes, then ten seconds."""
    runs = at_speeds(adapter, tmp_path, (1.0, 60.0))
    assert not unequal(runs[1.0].rows, runs[60.0].rows)[:10]
    for run in runs.values():
        assert not run.wrong[:10]
        assert (run.books.difference, run.books.late, run.books.in_flight) == (0, 0, 0)
