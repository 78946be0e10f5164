"""Planned events: reproducible, in order, shared among workers, and with every fault where and as large as stated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from smartscale.clock import MICROS
from smartscale.producer.chunk import Columns, Heads
from smartscale.producer.load import Load
from smartscale.producer.plan import EMPTY, columns_of, planned
from smartscale.producer.scenario import load_of, read

EXAMPLES = Path(__file__).parents[3] / "examples" / "scenarios"


class Drawn:
    """All events of a load, with the start of the service's load as time 0."""

    def __init__(self, load: Load) -> None:
        heads = Heads()
        parts = list(columns_of(load, heads))
        self.all = Columns(
            *(np.concatenate(c) for c in zip(*(p.all() for p in [EMPTY, *parts]), strict=True))
        )
        self.due_s = (self.all.due_us - load.start_us) / MICROS
        self.time_s = (self.all.time_us - load.start_us) / MICROS
        self._names = heads.keys()

    def where(self, start: float, end: float, kind: str = "interaction", name: str = "") -> np.ndarray:
        """Mask of the events of a kind that are due in ``[start, end)`` seconds."""
        wanted = [
            place for place, key in enumerate(self._names) if key[1] == kind and key[2].startswith(name)
        ]
        return np.isin(self.all.head, wanted) & (self.due_s >= start) & (self.due_s < end)

    def count(self, start: float, end: float, kind: str = "interaction", name: str = "") -> int:
        return int(self.where(start, end, kind, name).sum())

    def failed(self, start: float, end: float) -> float:
        """The share of requests that failed."""
        return float((self.all.status[self.where(start, end)] == 500).mean())

    def severity(self, start: float, end: float, severity: str) -> float:
        """The share of log events that have it."""
        wanted = [place for place, key in enumerate(self._names) if key[3] == severity]
        logs = self.where(start, end, "log")
        return float(np.isin(self.all.head[logs], wanted).mean())

    def median_ms(self, start: float, end: float) -> float:
        return float(np.median(self.all.latency_us[self.where(start, end)])) / 1000


def one(more: str, rate: float = 200, duration: str = "100s", faults: str = "") -> Drawn:
    """A service of 200 requests a second that never fails by itself and takes a millisecond."""
    text = (
        f"{{duration: {duration}, services: [{{name: s, rate: {rate}, error_rate: 0, "
        f"latency: {{model: lognormal, median_ms: 1, sigma: 0.1}}{more}}}], faults: [{faults}]}}"
    )
    return Drawn(load_of(text))


def fault(words: str) -> Drawn:
    """A fault of that service from 40 s to 60 s."""
    return one("", faults=f"{{start: 40s, duration: 20s, {words}}}")


SHORT = [path for path in sorted(EXAMPLES.glob("*.yaml")) if path.stem != "weekly"]


@pytest.mark.parametrize("file", SHORT, ids=lambda file: file.stem)
def test_every_example_gives_about_as_many_requests_as_expected_and_the_same_each_time(file: Path) -> None:
    """Counted by the truth's rates: within 2 % (a Hawkes process and a thousand sessions vary more than Poisson)."""
    from smartscale.producer.labels import truth

    load = read(file)
    drawn = Drawn(load)
    expected = sum(sum(service.rate_per_s) for service in truth(load, 10.0).services) * 10
    hidden = {"every-fault": 120 * 40 - 0.3 * 60 * 40}.get(file.stem, 0.0)  # a gap hides, duplicates add
    assert drawn.count(0, 10**9) == pytest.approx(expected - hidden, rel=0.02)
    chunks = [next(iter(planned(load, "run"))) for _ in range(2)]
    assert chunks[0].text == chunks[1].text
    assert len({event.id for event in chunks[0].events()}) == len(chunks[0])


def test_four_clean_weeks_begin_as_planned() -> None:
    """The long example is not drawn to its end here: its first chunks are in order and at the rate of a Monday's night."""
    load = read(EXAMPLES / "weekly.yaml")
    chunks = planned(load, "run")
    first = [next(chunks) for _ in range(10)]
    due_us = np.concatenate([chunk.due_us for chunk in first])
    assert (np.diff(due_us) >= 0).all()
    span_s = (due_us[-1] - load.start_us) / MICROS
    expected = sum(float(source.course(np.array([span_s / 2])).rate[0]) for source in load.sources)
    assert len(due_us) / span_s == pytest.approx(expected, rel=0.05)


def test_chunks_are_in_the_order_of_their_due_times() -> None:
    load = read(EXAMPLES / "every-fault.yaml")
    last = 0
    for chunk, _ in zip(planned(load, "run"), range(20), strict=False):
        assert chunk.due_us[0] >= last
        assert (np.diff(chunk.due_us) >= 0).all()
        last = int(chunk.due_us[-1])


def test_workers_share_the_whole_and_change_nothing() -> None:
    """Three workers: no event twice, none missing, each the same as one worker alone would send."""
    load = load_of(
        "{duration: 30s, services: [{name: a, rate: 100, logs: {per_request: 1}}, {name: b, rate: 50}], "
        "faults: [{kind: duplicates, start: 5s, duration: 10s}, {kind: retry_storm, start: 15s, duration: 5s}]}"
    )

    def texts(worker: int, workers: int) -> list[bytes]:
        return [c.event(i) for c in planned(load, "run", worker, workers) for i in range(len(c))]

    shares = [texts(worker, 3) for worker in range(3)]
    assert sorted(text for share in shares for text in share) == sorted(texts(0, 1))
    assert min(map(len, shares)) > 0.3 * sum(map(len, shares)) * 0.9


def test_a_load_moved_in_time_has_the_same_events_moved() -> None:
    load = load_of("{duration: 20s, services: [{name: a, rate: 50, shapes: [{kind: diurnal}]}]}")
    here, there = Drawn(load), Drawn(load.starting_at(load.start_us + 987_654_321))
    assert here.all.latency_us.tolist() == there.all.latency_us.tolist()
    assert (there.all.due_us - here.all.due_us == 987_654_321).all()


def test_a_request_that_ends_after_the_load_is_still_part_of_it() -> None:
    """Latency of a minute in a load of a second: all events come after its end."""
    drawn = Drawn(
        load_of(
            "{duration: 1s, services: [{name: slow, rate: 50, latency: {model: lognormal, median_ms: 60000, sigma: 0}}]}"
        )
    )
    assert len(drawn.due_s) > 20
    assert (drawn.due_s >= 60).all()


def test_routes_have_their_weights_latencies_and_error_rates() -> None:
    drawn = one(
        ", routes: [{name: A, weight: 3}, {name: B, weight: 1, error_rate: 0.5, "
        "latency: {model: gamma, mean_ms: 100, shape: 4}}]"
    )
    assert drawn.count(0, 100, name="A") / drawn.count(0, 100, name="B") == pytest.approx(3, rel=0.08)
    of_b = drawn.where(0, 100, name="B")
    assert drawn.all.latency_us[of_b].mean() == pytest.approx(100_000, rel=0.04)
    assert (drawn.all.status[of_b] == 500).mean() == pytest.approx(0.5, abs=0.03)
    assert (drawn.all.status[drawn.where(0, 100, name="A")] == 200).all()


def test_users_ask_by_zipfs_law() -> None:
    """Of ten users at exponent 1, the first asks twice as often as the second, ten times as often as the last."""
    drawn = one(", users: {population: 10, zipf: 1}")
    counts = np.bincount(drawn.all.user)[1:]
    assert counts.tolist() == pytest.approx((counts.sum() / np.arange(1, 11) / 2.929).tolist(), rel=0.12)


def test_logs_go_with_requests_and_tell_of_failures() -> None:
    """Two for each request on average; those of failed requests are errors."""
    drawn = one(
        ", logs: {per_request: 2, loggers: [x, y], warnings: 0.1}", faults="{kind: error_spike, start: 50s}"
    )
    assert drawn.count(0, 100, "log") == pytest.approx(2 * drawn.count(0, 100), rel=0.03)
    assert drawn.count(0, 100, "log", "x") == pytest.approx(drawn.count(0, 100, "log", "y"), rel=0.06)
    assert drawn.severity(0, 50, "error") == 0
    assert drawn.severity(51, 100, "error") == pytest.approx(0.2, abs=0.02)
    assert drawn.severity(0, 50, "warn") == pytest.approx(0.1, abs=0.02)


def test_system_metrics_follow_the_load() -> None:
    """Each of three every five seconds, in the window they tell of; half the capacity is half of the way to 100 %."""
    drawn = one(
        ", capacity: {per_s: 400, servers: 4}, metrics: {interval: 5s, idle_percent: 10, memory_mb: 100, "
        "memory_mb_per_load: 200, noise: 0}"
    )
    assert drawn.count(0, 100, "metric") == 60
    cpu = drawn.where(0, 100, "metric", "cpu_percent")
    assert drawn.all.value[cpu] == pytest.approx(np.full(20, 55.0))
    assert drawn.time_s[cpu].tolist() == pytest.approx([5 * (i + 1) - 1e-6 for i in range(20)], abs=1e-7)
    assert drawn.all.value[drawn.where(0, 100, "metric", "memory_mb")] == pytest.approx(np.full(20, 200.0))
    assert drawn.all.value[drawn.where(0, 100, "metric", "queue_depth")] == pytest.approx(
        np.full(20, 0.174), rel=0.01
    )


def test_latency_and_errors_grow_with_the_load() -> None:
    """At nine tenths of one server's capacity requests take ten times as long as alone (M/M/1), and some fail."""
    alone = one(", capacity: {per_s: 1e6, servers: 1}")
    busy = one(
        ", capacity: {per_s: 222.22, servers: 1}, overload: {start: 0.8, full: 1.0, rate: 0.4}",
        duration="300s",
    )
    assert alone.failed(0, 100) == 0
    assert busy.failed(0, 300) == pytest.approx(0.2, abs=0.01)
    mean_wait_ms = busy.all.latency_us[busy.where(0, 300)].mean() / 1000 - 1
    assert mean_wait_ms == pytest.approx(0.9 * 1000 / 22.22, rel=0.05)


def test_an_error_spike_adds_its_points() -> None:
    drawn = fault("kind: error_spike, size: 0.2")
    assert (drawn.failed(0, 40), drawn.failed(60.1, 100)) == (0, 0)
    assert drawn.failed(40.1, 60) == pytest.approx(0.2, abs=0.025)


def test_a_latency_step_and_a_slow_leak_multiply_latency() -> None:
    drawn = fault("kind: latency_step, size: 3")
    medians = [drawn.median_ms(a, b) for a, b in ((0, 40), (40.1, 60), (60.1, 100))]
    assert medians == pytest.approx([1, 3, 1], rel=0.02)
    leak = one("", rate=20, duration="60m", faults="{kind: slow_leak, start: 10m, duration: 40m, size: 0.01}")
    medians = [leak.median_ms(60 * m, 60 * (m + 2)) for m in (0, 29, 47, 51)]
    assert medians == pytest.approx([1, 1.2, 1.38, 1], rel=0.02)


def test_nothing_arrives_in_a_drop_to_zero_be_it_provoked() -> None:
    """Hawkes' descendants and retries of a storm do not arrive either."""
    drawn = one(
        ", arrivals: {process: hawkes, branching: 0.8, decay: 5s}",
        faults="{kind: drop_to_zero, start: 40s, duration: 20s}, {kind: retry_storm, start: 30s, duration: 10s, delay: 5s}",
    )
    assert drawn.count(40.1, 60) == 0
    assert drawn.count(0, 40) > 4000
    assert drawn.count(60, 100) > 4000


def test_a_retry_storm_multiplies_arrivals() -> None:
    """Half fail, up to three retries: 1 + 1/2 + 1/4 + 1/8 times the demand; whoever tries again is the same user."""
    drawn = fault("kind: retry_storm, size: 0.5, retries: 3, delay: 100ms")
    assert drawn.count(42, 60) == pytest.approx(200 * 18 * 1.875, rel=0.06)
    assert drawn.failed(42, 60) == pytest.approx(0.5, abs=0.03)
    assert drawn.count(0, 40) == pytest.approx(8000, rel=0.05)
    assert drawn.count(63, 100) == pytest.approx(37 * 200, rel=0.05)


def test_surges_and_shifts_change_the_rate() -> None:
    """A surge is rectangular; a flash crowd is full after its rise and nearly over at its end; a shift stays."""
    surge = fault("kind: surge, size: 3")
    assert [surge.count(a, b) / (b - a) for a, b in ((0, 40), (40, 60), (60, 100))] == pytest.approx(
        [200, 600, 200], rel=0.05
    )
    crowd = fault("kind: flash_crowd, size: 3, rise: 2s")
    assert crowd.count(42, 43) > 500
    assert crowd.count(58, 60) / 2 == pytest.approx(200 + 400 * 0.058, rel=0.12)
    shift = one("", faults="{kind: level_shift, start: 40s, size: 0.5}")
    assert shift.count(40, 100) == pytest.approx(6000, rel=0.05)
    slower = one("", faults="{kind: level_shift, start: 40s, size: 2, of: latency}")
    assert slower.median_ms(41, 100) == pytest.approx(2, rel=0.02)


def test_a_wrong_clock_changes_the_time_and_not_the_sending() -> None:
    drawn = fault("kind: clock_skew, size: -7.5")
    shift = drawn.time_s - drawn.due_s
    inside = drawn.where(40, 60)
    assert shift[inside] == pytest.approx(np.full(inside.sum(), -7.5), abs=1e-6)
    assert (shift[~inside] == 0).all()


def test_duplicates_have_the_id_of_the_first_and_come_later() -> None:
    drawn = fault("kind: duplicates, size: 0.25, delay: 2s")
    numbers, counts = np.unique(drawn.all.number, return_counts=True)
    twice = numbers[counts == 2]
    assert counts.max() == 2
    assert len(twice) == pytest.approx(0.25 * 20 * 200, rel=0.1)
    firsts = np.flatnonzero(np.isin(drawn.all.number, twice))
    pairs = firsts[np.argsort(drawn.all.number[firsts], kind="stable")].reshape(-1, 2)
    assert (drawn.due_s[pairs[:, 1]] - drawn.due_s[pairs[:, 0]]) == pytest.approx(
        np.full(len(pairs), 2.0), abs=1e-6
    )
    assert (drawn.all.time_us[pairs[:, 1]] == drawn.all.time_us[pairs[:, 0]]).all()


def test_late_events_are_held_back_and_keep_their_time() -> None:
    drawn = fault("kind: late_events, size: 0.25, delay: 5s")
    late = drawn.due_s - drawn.time_s > 1
    assert late.sum() == pytest.approx(0.25 * 20 * 200, rel=0.1)
    assert (drawn.due_s - drawn.time_s)[late] == pytest.approx(np.full(late.sum(), 5.0), abs=1e-6)
    assert drawn.time_s[late].min() >= 40
    assert drawn.time_s[late].max() < 60


def test_a_gap_hides_everything_or_only_the_metrics() -> None:
    more = ", capacity: {per_s: 1000}, metrics: {interval: 1s}"
    hidden = one(more, faults="{kind: data_gap, start: 40s, duration: 20s}")
    assert hidden.count(40, 60) == hidden.count(40, 60, "metric") == 0
    metrics = one(more, faults="{kind: data_gap, start: 40s, duration: 20s, of: metrics}")
    assert metrics.count(40, 60, "metric") == 0
    assert metrics.count(40, 60) > 3500


def test_a_fault_concerns_the_services_it_names() -> None:
    load = load_of(
        "{duration: 20s, services: [{name: a, rate: 50}, {name: b, rate: 50}], "
        "faults: [{kind: drop_to_zero, start: 5s, services: [b]}]}"
    )
    assert [len(source.faults) for source in load.sources] == [0, 1]


def test_retries_that_would_arrive_in_a_silence_are_gone_for_good() -> None:
    """A storm of long delays into a silence of minutes: nothing arrives in it, whatever the blocks."""
    drawn = one(
        "",
        rate=20,
        duration="300s",
        faults="{kind: retry_storm, start: 0s, duration: 60s, size: 1, delay: 60s}, "
        "{kind: drop_to_zero, start: 60s, duration: 240s}",
    )
    assert drawn.count(60.1, 10**6) == 0
    assert drawn.count(0, 60) > 1200
