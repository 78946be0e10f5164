"""The long forms of the end-to-end proofs, for ``make soak``: ten minutes under kills, and the replay at speed 1."""

from __future__ import annotations

import os
import random
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from smartscale.testing.kafka_broker import KafkaBroker
from smartscale.testing.killing import faults, run_under_kills
from smartscale.testing.processes import STAGES, Pipeline
from smartscale.testing.replaying import at_speeds, unequal

pytestmark = [pytest.mark.soak, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]

DURATION_S = float(os.environ.get("SMARTSCALE_SOAK_S") or 600)
KILLS_EACH = 15
RATE_PER_S = 500
SETTINGS = {
    "topics.retention_bytes": 0,
    "time.allowed_lateness_s": 30.0,  # a killed member's partitions wait for its session's end, twice in a row
    "windows.histogram_from_s": 10.0,
}


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def adapter(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_ten_minutes_with_two_combiners_and_two_windows_under_kills_equal_the_oracle(
    adapter: str, tmp_path: Path
) -> None:
    """As the short form, with partitions that move between members: a killed one's, and back when it returns."""
    seed = int(os.environ.get("SMARTSCALE_TEST_SEED") or random.randrange(1 << 30))
    sys.stderr.write(f"\nSMARTSCALE_TEST_SEED={seed} repeats the load and the kills\n")
    with ExitStack() as stack:
        url = stack.enter_context(KafkaBroker()).url if adapter == "kafka" else f"sqlite:{tmp_path}/log.db"
        stages = (*STAGES, "combine-1", "window-1")
        pipeline = stack.enter_context(Pipeline(url, tmp_path, SETTINGS, stages))
        run = run_under_kills(pipeline, seed, DURATION_S, RATE_PER_S, KILLS_EACH)
        with pipeline.log() as log:
            wrong = faults(log, pipeline.settings, run.events)
    assert all(run.kills[stage] >= KILLS_EACH for stage in stages)
    assert all(answer in ("accepted", "duplicate") for _, answer in run.answers)
    assert not wrong, f"seed {seed}: {len(wrong)} faults, first {wrong[:10]}; {run.complaints}"
    assert not run.ended, run.complaints


def test_speed_1_gives_the_final_windows_of_speed_60(adapter: str, tmp_path: Path) -> None:
    """The ten minutes of events take ten minutes, then ten seconds."""
    runs = at_speeds(adapter, tmp_path, (1.0, 60.0))
    assert not unequal(runs[1.0].rows, runs[60.0].rows)[:10]
    for run in runs.values():
        assert not run.wrong[:10]
        assert (run.books.difference, run.books.late, run.books.in_flight) == (0, 0, 0)
