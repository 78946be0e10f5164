"""Windows drawn without events have the law of windows aggregated from events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy import stats

from smartscale.clock import MICROS
from smartscale.producer.chunk import Heads
from smartscale.producer.load import Load
from smartscale.producer.plan import columns_of
from smartscale.producer.scenario import load_of
from smartscale.producer.windows import LEVELS, Windows, windows
from smartscale.records import histogram

STEP_S = 10

Values = npt.NDArray[Any]


def aggregated(load: Load) -> Windows:
    """The slow way: every event of a load of one service, repeats of an id left out, windowed by the event's time."""
    parts = list(columns_of(load, Heads()))
    columns = [np.concatenate(column) for column in zip(*(part.all() for part in parts), strict=True)]
    _, time_us, _, status, latency_us, _, _, number = columns
    steps = round(load.duration_s / STEP_S)
    _, first = np.unique(number, return_index=True)
    requests = first[status[first] > 0]
    step = (time_us[requests] - load.start_us) // (STEP_S * MICROS)
    inside = (step >= 0) & (step < steps)
    requests, step = requests[inside], step[inside]
    count = np.bincount(step, minlength=steps)
    errors = np.bincount(step[status[requests] == 500], minlength=steps)
    ms = latency_us[requests] / 1000
    slots = np.zeros((steps, histogram.SLOTS), dtype=np.int64)
    np.add.at(slots, (step, histogram.slots(latency_us[requests])), 1)
    by_step = pd.Series(ms).groupby(step).agg(["mean", "max"]).reindex(range(steps))
    return Windows(
        [load.sources[0].name],
        load.start_us,
        STEP_S * MICROS,
        count[None],
        errors[None],
        histogram.quantiles(slots, np.array(LEVELS))[None] / 1000,
        by_step["mean"].to_numpy()[None],
        by_step["max"].to_numpy()[None],
        np.ones((1, steps), dtype=bool),
    )


STEADY = {
    "plain": "rate: 8, error_rate: 0.05",
    "constant": "rate: 8, arrivals: {process: constant}",
    "hawkes": "rate: 8, arrivals: {process: hawkes, branching: 0.6, decay: 500ms}",
    "queueing": "rate: 18, capacity: {per_s: 20, servers: 2}, overload: {start: 0.8, full: 1, rate: 0.2}, "
    "latency: {model: gamma, mean_ms: 50, shape: 1}",
    "mixture": "rate: 8, routes: [{name: a}, {name: b, weight: 2, latency: {model: mixture, "
    "body: {model: gamma, mean_ms: 20}, tail: {model: lognormal, median_ms: 900}, tail_share: 0.05}}]",
}


@pytest.mark.parametrize("service", STEADY.values(), ids=STEADY)
def test_rows_of_a_steady_service_have_the_law_of_aggregated_events(service: str) -> None:
    """Two thousand windows each way: no column differs by a Kolmogorov-Smirnov test at one in a thousand."""
    load = load_of(f"{{seed: 5, duration: {2000 * STEP_S}s, services: [{{name: s, {service}}}]}}")
    slow, fast = aggregated(load), windows(load, STEP_S)
    columns = {
        "count": (slow.count, fast.count),
        "errors": (slow.errors, fast.errors),
        "mean": (slow.mean_ms, fast.mean_ms),
        "max": (slow.max_ms, fast.max_ms),
    } | {
        f"p{level * 100:g}": (slow.latency_ms[:, :, n], fast.latency_ms[:, :, n])
        for n, level in enumerate(LEVELS)
    }
    for name, (one, other) in columns.items():
        pair = one[0, 1:], other[0, 1:]  # the first is short of what was under way before
        if name == "count" and "constant" in service:
            assert set(pair[0]) <= {79, 80, 81} >= set(pair[1])
        else:
            assert alike(pair[0], pair[1]), name


def test_rows_of_a_self_similar_service_have_the_law_of_aggregated_events() -> None:
    """Its windows remember each other for long, so one window each of 600 seeds."""
    text = "{seed: SEED, duration: 20s, services: [{name: s, rate: 20, arrivals: {process: self_similar, sessions: 10}}]}"
    slow = [aggregated(load_of(text.replace("SEED", str(seed)))).count[0, 1] for seed in range(600)]
    fast = [windows(load_of(text.replace("SEED", str(1000 + seed)))).count[0, 1] for seed in range(600)]
    assert alike(np.array(slow), np.array(fast))


def alike(one: Values, other: Values) -> bool:
    """Whether two samples, NaN left out, may be of one law: Kolmogorov and Smirnov's test at one in a thousand."""
    found = stats.ks_2samp(one[np.isfinite(one)], other[np.isfinite(other)], method="asymp")
    return float(found.pvalue) > 1e-3


FAULTS = """
{seed: SEED, duration: 600s, services: [{name: s, rate: 20, error_rate: 0.02, arrivals: {process: hawkes, branching: 0.3}}],
faults: [
  {kind: error_spike, start: 20s, duration: 35s, size: 0.2},
  {kind: latency_step, start: 80s, duration: 40s, size: 3},
  {kind: drop_to_zero, start: 140s, duration: 33s},
  {kind: retry_storm, start: 200s, duration: 50s, size: 0.5, retries: 3, delay: 2s},
  {kind: surge, start: 280s, duration: 25s, size: 3},
  {kind: flash_crowd, start: 320s, duration: 60s, size: 3, rise: 10s},
  {kind: data_gap, start: 405s, duration: 30s},
  {kind: clock_skew, start: 460s, duration: 30s, size: -4},
  {kind: duplicates, start: 520s, duration: 10s},
  {kind: late_events, start: 530s, duration: 10s},
  {kind: slow_leak, start: 540s, duration: 30s, size: 2},
  {kind: level_shift, start: 570s, size: 0.5}]}
"""


def test_rows_under_every_fault_have_the_means_of_aggregated_events() -> None:
    """Forty seeds each way. In each step the mean counts, errors and mean latencies agree within 4.5 standard errors; and a
    tenth, for where a fault begins or ends within a step the fast way is not exact."""
    slow = [aggregated(load_of(FAULTS.replace("SEED", str(seed)))) for seed in range(40)]
    fast = [windows(load_of(FAULTS.replace("SEED", str(1000 + seed))), STEP_S) for seed in range(40)]
    for name in ("count", "errors", "mean_ms"):
        one, other = (np.array([getattr(run, name)[0] for run in runs], dtype=float) for runs in (slow, fast))
        one, other = np.nan_to_num(one), np.nan_to_num(other)  # no latency where nothing ended, in both
        error = np.sqrt((one.var(axis=0) + other.var(axis=0)) / 40)
        apart = abs(one.mean(axis=0) - other.mean(axis=0)) - 4.5 * error - 0.1 * one.mean(axis=0) - 0.5
        assert (apart <= 0).all(), (name, np.flatnonzero(apart > 0))
    assert not any(run.count[0, 41:43].any() for run in fast)
    assert not any(run.told[0, 41:43].any() for run in fast)


def test_a_step_within_which_latency_changes_has_a_mixture_of_both() -> None:
    """Latency grows ninefold at 15 s: in the step from 10 s to 20 s half of the requests are slow. 300 seeds each way."""
    text = (
        "{seed: SEED, duration: 30s, services: [{name: s, rate: 10, latency: {model: gamma, mean_ms: 20}}], "
        "faults: [{kind: latency_step, start: 15s, size: 9}]}"
    )
    slow = [aggregated(load_of(text.replace("SEED", str(seed)))) for seed in range(300)]
    fast = [windows(load_of(text.replace("SEED", str(1000 + seed)))) for seed in range(300)]
    for n in range(len(LEVELS)):
        assert alike(*(np.array([run.latency_ms[0, 1, n] for run in runs]) for runs in (slow, fast))), LEVELS[
            n
        ]
    assert alike(*(np.array([run.mean_ms[0, 1] for run in runs]) for runs in (slow, fast)))


def test_the_same_load_gives_the_same_windows_and_another_seed_others() -> None:
    text = "{seed: SEED, duration: 10m, services: [{name: s, rate: 20}]}"
    one, same, other = (windows(load_of(text.replace("SEED", seed))) for seed in ("1", "1", "2"))
    assert one.count.tolist() == same.count.tolist() != other.count.tolist()
    assert one.latency_ms.tolist() == same.latency_ms.tolist()


def test_windows_become_metric_rows_and_a_csv(tmp_path: Path) -> None:
    load = load_of("{duration: 30s, services: [{name: a, rate: 20, error_rate: 0.5}, {name: b, rate: 0}]}")
    found = windows(load, STEP_S)
    rows = list(found.rows(0))
    assert [(row.count, row.errors) for row in rows] == list(
        zip(*(found.count[0], found.errors[0]), strict=True)
    )
    assert [row.end_us - row.start_us for row in rows] == [STEP_S * MICROS] * 3
    assert rows[0].start_us == load.start_us
    assert rows[0].latency_p50_ms == found.latency_ms[0, 0, 0]
    assert [(row.count, row.latency_p50_ms, row.error_rate) for row in found.rows(1)] == [(0, None, 0.0)] * 3
    found.write_csv(tmp_path / "all.csv")
    table = pd.read_csv(tmp_path / "all.csv")
    assert table["timestamp"].tolist() == [f"2026-01-05T00:00:{s}0Z" for s in (0, 0, 1, 1, 2, 2)]
    assert table["requests"].tolist() == found.count.T.reshape(-1).tolist()
    assert table["latency_p50_ms"].isna().tolist() == [False, True] * 3
    found.write_csv(tmp_path / "one.csv", "a")
    assert pd.read_csv(tmp_path / "one.csv")["requests"].tolist() == found.count[0].tolist()
