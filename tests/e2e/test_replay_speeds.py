"""The same ten minutes of events give the same final windows at any speed of the clock, on both logs.

Events are out of order within the bound, and one partition of ``events`` stays silent: its watermark comes from
heartbeats alone. ``make soak`` does the same at speed 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from smartscale.testing.replaying import FILE_S, RATE_PER_S, Replayed, at_speeds, unequal

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]

SLOW, FAST = 20.0, 60.0
"""30 s and 10 s for the file."""

Runs = dict[str, Future[dict[float, Replayed]]]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Both speeds on each log that the selected tests ask for, the logs at the same time."""
    chosen = {
        str(item.callspec.params["adapter"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path
    }
    with ThreadPoolExecutor(2) as pool:
        yield {
            adapter: pool.submit(
                at_speeds, adapter, tmp_path_factory.mktemp(f"speeds-{adapter}"), (SLOW, FAST)
            )
            for adapter in sorted(chosen)
        }


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def adapter(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def replayed(runs: Runs, adapter: str) -> dict[float, Replayed]:
    return runs[adapter].result()


def test_final_windows_are_equal_key_by_key_at_both_speeds(replayed: dict[float, Replayed]) -> None:
    """Tumbling and sliding windows, roll-ups and windows of count zero: the same rows with the same values."""
    assert len(replayed[SLOW].rows) > 1000
    assert not unequal(replayed[SLOW].rows, replayed[FAST].rows)[:10]


@pytest.mark.parametrize("speed", [SLOW, FAST])
def test_final_windows_equal_the_oracle(replayed: dict[float, Replayed], speed: float) -> None:
    """Count, errors and histogram by the sender's own list; every event taken; the books balance to 0."""
    run = replayed[speed]
    assert len(run.answers) == FILE_S * RATE_PER_S
    assert {answer for _, answer in run.answers} == {"accepted"}
    assert not run.wrong[:10]
    assert (run.books.difference, run.books.late, run.books.in_flight) == (0, 0, 0)


def test_one_partition_was_silent(replayed: dict[float, Replayed]) -> None:
    """Otherwise the run would prove nothing about idle partitions."""
    assert [run.silent_events for run in replayed.values()] == [0, 0]
