"""Arrival processes: reproducible however they are taken, and with the statistics that they are named for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from smartscale.clock import MICROS
from smartscale.producer.arrivals import (
    CELL_US,
    Constant,
    Hawkes,
    Poisson,
    Process,
    SelfSimilar,
    Sessions,
    Taken,
    stream,
)
from smartscale.producer.parts import Seconds
from smartscale.producer.rates import Micros, Rates

PROCESSES: list[Process] = [Poisson(), Constant(), Hawkes(branching=0.6), SelfSimilar(sessions=20)]
ids = [type(process).__name__ for process in PROCESSES]


def rates_at(start_us: int, cells: int) -> Rates:
    """A rate that changes every half second: 5, 40, 0, 10."""
    levels = np.array([5.0, 40.0, 0.0, 10.0])
    return levels[(start_us // CELL_US + np.arange(cells)) // 5 % 4]


def taken(process: Process, seed: int, end_us: int = 20 * MICROS + 55_555) -> Taken:
    return Taken(stream(process, np.random.default_rng(seed)), rates_at, 0, end_us)


@pytest.mark.parametrize("process", PROCESSES, ids=ids)
@given(cuts=st.lists(st.integers(-MICROS, 22 * MICROS), max_size=6), seed=st.integers(0, 2**40))
@settings(max_examples=20)
def test_arrivals_do_not_depend_on_how_they_are_taken(process: Process, cuts: list[int], seed: int) -> None:
    """Any instants to take them at give the same arrivals, sorted, none after the end."""
    source = taken(process, seed)
    pieces = [source.until(cut) for cut in sorted(cuts)] + [source.until(10**12)]
    for (cut, _), piece in zip(pairwise([*sorted(cuts), 10**12]), pieces, strict=False):
        assert (piece < cut).all()
    whole = taken(process, seed).until(10**12)
    assert np.concatenate(pieces).tolist() == whole.tolist()
    assert (np.diff(whole) >= 0).all()
    assert not len(whole) or (whole[0] >= 0 and whole[-1] < 20 * MICROS + 55_555)


def points(process: Process, rate: float, seconds: int, seed: int) -> Micros:
    """Arrivals at a constant rate, drawn a minute at a time."""
    source = stream(process, np.random.default_rng(seed))
    blocks = range(0, seconds * MICROS, 60 * MICROS)
    return np.concatenate([source.block(at, np.full(600, rate), CELL_US) for at in blocks])


def counts(process: Process, rate: float, seconds: int, window_s: int, seed: int) -> Rates:
    return np.bincount(points(process, rate, seconds, seed) // (window_s * MICROS)).astype(np.float64)


@pytest.mark.parametrize(
    ("process", "dispersion"),
    [(Poisson(), 1.0), (Constant(), 0.0), (Hawkes(branching=0.5, decay=Seconds(0.5)), 4.0)],
    ids=["poisson", "constant", "hawkes"],
)
def test_counts_have_the_mean_and_the_dispersion_of_their_process(
    process: Process, dispersion: float
) -> None:
    """6,000 windows of 10 s at 20/s. Hawkes: variance / mean is 1 / (1 - 0.5)^2 over windows long beside a second."""
    found = counts(process, 20.0, 60_000, 10, seed=4)
    assert found.mean() == pytest.approx(200, rel=0.01)
    assert found.var() / found.mean() == pytest.approx(dispersion, rel=0.12, abs=0.01)


def test_poisson_arrivals_follow_the_rate_cell_by_cell() -> None:
    """Through 2,000 rounds of four levels: counts in each within five standard deviations."""
    source = stream(Poisson(), np.random.default_rng(1))
    found = np.concatenate([source.block(at * 2 * MICROS, rates_at(0, 20), CELL_US) for at in range(2000)])
    per_level = np.bincount(found // (MICROS // 2) % 4, minlength=4)
    expected = np.array([5, 40, 0, 10]) * 0.5 * 2000
    assert (abs(per_level - expected) <= 5 * np.sqrt(expected)).all()


def test_constant_arrivals_are_evenly_spaced_where_the_rate_is() -> None:
    """At 7/s for an hour the distance is a seventh of a second, to the microsecond."""
    gaps = np.diff(points(Constant(), 7.0, 3600, seed=2))
    assert abs(gaps - MICROS / 7).max() <= 1


def test_hawkes_arrivals_are_exactly_those_of_their_intensity() -> None:
    """Time rescaling (Ogata 1988): the intensity's integral between neighbours is exponential with mean 1 only for the true
    intensity, mu + (n / decay) * sum of exp(-(t - t_i) / decay)."""
    branching, decay, rate = 0.6, 2.0, 5.0
    times = points(Hawkes(branching=branching, decay=Seconds(decay)), rate, 12_000, seed=8) / MICROS
    excited, gaps = 0.0, np.diff(times)
    rescaled = np.empty(len(gaps))
    for i, gap in enumerate(gaps.tolist()):
        excited += 1.0  # the arrival just before, in units of what is provoked in all
        faded = excited * np.exp(-gap / decay)
        rescaled[i] = rate * (1 - branching) * gap + branching * (excited - faded)
        excited = faded
    assert stats.kstest(rescaled[500:], "expon").pvalue > 0.01


def test_hawkes_arrivals_begin_as_crowded_as_they_stay() -> None:
    """The first second of 3,000 streams has the mean and the variance that a later one has."""
    process = Hawkes(branching=0.7, decay=Seconds(1))
    first, later = [], []
    for seed in range(3000):
        block = stream(process, np.random.default_rng(seed)).block(0, np.full(200, 4.0), CELL_US)
        first.append(int((block < MICROS).sum()))
        later.append(int((block >= 19 * MICROS).sum()))
    assert np.mean(first) == pytest.approx(4, abs=0.25)
    assert np.mean(later) == pytest.approx(4, abs=0.25)
    assert stats.ks_2samp(first, later).pvalue > 0.01


def hurst(series: Rates | Micros, frequencies: int) -> float:
    """Local Whittle estimate (Robinson 1995) from the lowest frequencies of the periodogram."""
    periodogram = abs(np.fft.rfft(series - series.mean())[1 : frequencies + 1]) ** 2
    logs = np.log(np.arange(1, frequencies + 1))

    def objective(h: float) -> float:
        return float(np.log(np.mean(periodogram * np.exp((2 * h - 1) * logs))) - (2 * h - 1) * logs.mean())

    return float(optimize.minimize_scalar(objective, bounds=(0.01, 0.99), method="bounded").x)


@pytest.mark.parametrize("wanted", [0.6, 0.75, 0.9])
def test_self_similar_counts_have_the_hurst_parameter_asked_for(wanted: float) -> None:
    """131,072 windows of 1 s, periods above 200 s: within 0.05."""
    process = SelfSimilar(hurst=wanted, sessions=20)
    factor = Sessions(process, np.random.default_rng(17)).factor(0.0, 1 << 17, 1.0)
    assert hurst(np.random.default_rng(1).poisson(200 * factor), 600) == pytest.approx(wanted, abs=0.05)


def test_the_estimate_finds_no_long_memory_in_poisson_counts() -> None:
    """The yardstick itself: independent counts have a Hurst parameter of 0.5."""
    assert hurst(np.random.default_rng(2).poisson(200.0, 1 << 17), 600) == pytest.approx(0.5, abs=0.05)


def test_sessions_are_stationary_from_the_beginning() -> None:
    """Of 3,000 streams, open sessions at the start and after a minute: Poisson with the same mean, whose deviation the
    scenario's reader is promised, 1 / sqrt(sessions)."""
    process = SelfSimilar(hurst=0.8, sessions=16)
    factors = np.array(
        [Sessions(process, np.random.default_rng(seed)).factor(0.0, 600, 0.1) for seed in range(3000)]
    )
    for at in (0, 10, 599):
        assert factors[:, at].mean() == pytest.approx(1, abs=0.02)
        assert factors[:, at].std() == pytest.approx(1 / 4, rel=0.06)


def test_sessions_do_not_depend_on_how_time_is_cut_into_blocks_in_law() -> None:
    """A span in one block and in sixty: the same mean, deviation and memory over a minute."""
    process = SelfSimilar(hurst=0.8, sessions=16)

    def memory(blocks: int) -> tuple[float, float]:
        ends = []
        for seed in range(500):
            sessions = Sessions(process, np.random.default_rng(seed))
            parts = [sessions.factor(b * 60 / blocks, 60 // blocks, 1.0) for b in range(blocks)]
            ends.append(np.concatenate(parts)[[0, -1]])
        values = np.array(ends)
        return float(values.std()), float(stats.pearsonr(values[:, 0], values[:, 1]).statistic)

    one, sixty = memory(1), memory(60)
    assert one[0] == pytest.approx(sixty[0], rel=0.1)
    assert one[1] == pytest.approx(sixty[1], abs=0.12)
