"""One streaming detector for every series: is this value strange, and is it time to tell?

::

    value ─▶ features ─▶ surprise of each (-ln p against its own past) ─┬─ sum ─▶ quiet bar ─▶ alert score
                                                                         └─ sum ─▶ averages over time ─▶ state score

- **Features** are numbers >= 0, larger is stranger: how new the value is (``novelty``), how far the last ``AN_HOUR``
  values were from those of the same time of other days, how far the value is from its smoothed level, how far the last
  few values are from the mean of all, how much they spread.
- **Surprises add up** as in Fisher's method (Fisher, "Statistical Methods for Research Workers", 1932: the logarithms of
  independent p-values add). These are not independent, so the sum is no logarithm of a p-value by itself; ``BAR`` is set by
  what noise does to it (see the alert rate in docs/performance.md).
- **The quiet bar**: after an alert the next must stand out more, at first by as much as the last one did, falling to nothing
  over ``QUIET`` of the history seen. Who has just been told need not be told again, and a series known for long is quiet for
  longer.

The kernel works on one series at a time: a series cannot disturb another, and one row costs what one row costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from smartscale.clock import MICROS
from smartscale.ml.anomaly import surprise
from smartscale.ml.anomaly.novelty import KNOWN, novelty

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]

NEW, SEASON, AWAY, SHORT, DROP, RHYTHM = range(6)
FEATURES: Final = 6
"""In this order: how new the value is; how far the last AN_HOUR values were from those of the same time of other days; how
far the value is from its smoothed level; the mean of the last A_FEW from the mean of all; the value below the mean of all;
how new the spread of the last A_WHILE values is."""

ALERT_WEIGHTS: Final = np.array([1.0, 0.5, 0.0, 0.0, 0.3, 0.0])
"""A drop counts beside its novelty, a rise does not: bursts are what loads do by themselves. With weights of 0.3 to 0.7 for
SEASON and 0.1 to 0.4 for DROP the benchmark's figure stays within 1.5 points."""
STATE_WEIGHTS: Final = np.array([1.0, 0.0, 0.5, 0.5, 0.0, 1.0])
"""What is new, and what lasts: a value seen for an hour is new no more, and its level may be strange still. Each weight
halved or doubled costs at most 0.02 of VUS-PR, SHORT doubled 0.04."""

BAR: Final = 6.0
"""Sum of surprises from which an alert is worth telling: alert score 0.5."""
QUIET_HEIGHT: Final = 0.75
"""How much more the next must be at first, as a share of what was told."""
QUIET: Final = 0.075
"""Share of the history seen after which the bar is back where it was. A height of 0.5 to 1 and a share of 0.025 to 0.1 cost
at most one point of 75."""
STATE_HALF: Final = 15.0
"""Averaged sum of surprises with state score 0.5: noise exceeds it less than once in a hundred steps."""

HISTORY: Final = 20_000
"""Values: beyond it, the past fades by halves. Two weeks of minutes. From 10,000 to 40,000 the figures stay the same."""
LEVEL_GAIN: Final = 0.1
MEAN_GAIN: Final = 1 / HISTORY
BINS_A_DAY: Final = 96
"""Bins of 15 minutes: the profile of a day."""
DAY_GAIN: Final = 0.3
"""How far a day's value moves its bin: a memory of about three days. From 0.07 to 0.3 the figures stay the same."""
AN_HOUR: Final = 12
"""Values that deviation from the day's profile is averaged over: an hour of 5 minutes. 6 and 24 cost one point of 75."""
A_FEW: Final = 6
A_WHILE: Final = 48
MEMORIES: Final = np.array([3.0, 12.0, 50.0])
"""Steps that the state score remembers: the sum of three averages, a short, a middle and a long one."""
NOW: Final = 0.2
"""Weight of the present step beside them."""
KNOWN_SPREADS: Final = 128
ROUNDING: Final = 1e-9
"""Share of a series' range that is taken as nothing."""
LARGEST: Final = 1e150
"""Larger values (squares would overflow) are gaps, as infinities are; differences below its inverse are none."""

_DAY_US: Final = 86_400 * MICROS
_BIN_US: Final = _DAY_US // BINS_A_DAY


@dataclass(slots=True)
class DetectorState:
    """What is remembered of each series (first axis, n). About 17 kB a series."""

    seen: npt.NDArray[np.int64]  # (n,) values judged
    last_us: Times  # (n,) event time of the last
    told_at: npt.NDArray[np.int64]  # (n,) ``seen`` at the last alert; -1: none yet
    told: Floats  # (n,) how high it was
    state: Floats  # (n,) the last state score
    averages: Floats  # (n, 3) of the state's sum of surprises, over MEMORIES
    origin: Floats  # (n,) the first value; all others are kept as differences from it
    low: Floats  # (n,)
    high: Floats  # (n,)
    level: Floats  # (n,) exponentially smoothed
    mean: Floats  # (n,)
    recent: Floats  # (n, A_WHILE) last values, a ring
    deviations: Floats  # (n, AN_HOUR) last deviations from the profile, a ring
    profile: Floats  # (n, BINS_A_DAY) usual value by time of day, UTC
    visits: npt.NDArray[np.int32]  # (n, BINS_A_DAY)
    known: Floats  # (n, KNOWN) sorted
    known_at: npt.NDArray[np.int32]  # (n, KNOWN)
    n_known: npt.NDArray[np.int64]  # (n,)
    spreads: Floats  # (n, KNOWN_SPREADS) sorted: known spreads of A_WHILE values
    spreads_at: npt.NDArray[np.int32]  # (n, KNOWN_SPREADS)
    n_spreads: npt.NDArray[np.int64]  # (n,)
    total: Floats  # (n,) numbers in each tail
    unit: Floats  # (n, FEATURES)
    counts: Floats  # (n, FEATURES, surprise.BINS)
    sums: Floats  # (n, FEATURES, surprise.BINS)


class Detector:
    """The univariate detector, see the module. ``step_s`` is taken for the interface's sake: times tell all it needs."""

    def __init__(self, step_s: float | None = None) -> None:
        self.step_s = step_s

    def fresh(self, n_series: int, /) -> DetectorState:
        n = n_series
        return DetectorState(
            seen=np.zeros(n, np.int64),
            last_us=np.zeros(n, np.int64),
            told_at=np.full(n, -1, np.int64),
            told=np.zeros(n),
            state=np.zeros(n),
            averages=np.zeros((n, len(MEMORIES))),
            origin=np.zeros(n),
            low=np.zeros(n),
            high=np.zeros(n),
            level=np.zeros(n),
            mean=np.zeros(n),
            recent=np.zeros((n, A_WHILE)),
            deviations=np.zeros((n, AN_HOUR)),
            profile=np.zeros((n, BINS_A_DAY)),
            visits=np.zeros((n, BINS_A_DAY), np.int32),
            known=np.zeros((n, KNOWN)),
            known_at=np.zeros((n, KNOWN), np.int32),
            n_known=np.zeros(n, np.int64),
            spreads=np.zeros((n, KNOWN_SPREADS)),
            spreads_at=np.zeros((n, KNOWN_SPREADS), np.int32),
            n_spreads=np.zeros(n, np.int64),
            total=np.zeros(n),
            unit=np.zeros((n, FEATURES)),
            counts=np.zeros((n, FEATURES, surprise.BINS)),
            sums=np.zeros((n, FEATURES, surprise.BINS)),
        )

    def step(self, state: DetectorState, times_us: Times, values: Floats, /) -> tuple[Floats, Floats]:
        """(alert scores, state scores) in [0, 1], shape (n,), after one more value of each series.

        An alert score of at least 0.5 is an alert. ``times_us``: event times, microseconds since the epoch. NaN and
        infinities are gaps: alert score 0, state score as before. ``state`` is changed in place."""
        alerts, strange = np.zeros(len(values)), np.zeros(len(values))
        _judge(
            np.ascontiguousarray(times_us, np.int64),
            np.ascontiguousarray(values, np.float64),
            alerts,
            strange,
            state.seen,
            state.last_us,
            state.told_at,
            state.told,
            state.state,
            state.averages,
            state.origin,
            state.low,
            state.high,
            state.level,
            state.mean,
            state.recent,
            state.deviations,
            state.profile,
            state.visits,
            state.known,
            state.known_at,
            state.n_known,
            state.spreads,
            state.spreads_at,
            state.n_spreads,
            state.total,
            state.unit,
            state.counts,
            state.sums,
        )
        return alerts, strange


@njit(cache=True)
def _judge(
    times_us: Times,
    values: Floats,
    alerts: Floats,
    strange: Floats,
    seen: Times,
    last_us: Times,
    told_at: Times,
    told: Floats,
    state: Floats,
    averages: Floats,
    origin: Floats,
    low: Floats,
    high: Floats,
    level: Floats,
    mean: Floats,
    recent: Floats,
    deviations: Floats,
    profile: Floats,
    visits: npt.NDArray[np.int32],
    known: Floats,
    known_at: npt.NDArray[np.int32],
    n_known: Times,
    spreads: Floats,
    spreads_at: npt.NDArray[np.int32],
    n_spreads: Times,
    total: Floats,
    unit: Floats,
    counts: Floats,
    sums: Floats,
) -> None:
    """All rows, one after the other."""
    features = np.zeros(FEATURES)
    for row in range(len(values)):
        if not abs(values[row]) < LARGEST:
            strange[row] = state[row]
            continue
        now = seen[row]
        if now == 0:
            origin[row] = values[row]
        value = values[row] - origin[row]
        low[row], high[row] = min(low[row], value), max(high[row], value)
        nothing = ROUNDING * (high[row] - low[row]) + 1e-14 * abs(values[row]) + 1.0 / LARGEST

        features[NEW], n_known[row] = novelty(value, now, known[row], known_at[row], n_known[row], nothing)
        deviations[row, now % AN_HOUR] = _deviation(
            value, times_us[row], last_us[row], now, profile[row], visits[row]
        )
        features[SEASON] = abs(_mean_of_last(AN_HOUR, deviations[row], now))
        features[AWAY] = abs(value - level[row])
        recent[row, now % A_WHILE] = value
        features[SHORT] = abs(_mean_of_last(A_FEW, recent[row], now) - mean[row])
        features[DROP] = max(mean[row] - value, 0.0)
        spread = float(np.std(recent[row, : min(now + 1, A_WHILE)]))
        features[RHYTHM], n_spreads[row] = novelty(
            spread, now, spreads[row], spreads_at[row], n_spreads[row], nothing
        )

        alert, lasting = 0.0, 0.0
        for i in range(FEATURES):
            feature = features[i] if features[i] > nothing else 0.0
            s = surprise.minus_log_p(feature, counts[row, i], sums[row, i], unit[row, i], total[row])
            unit[row, i] = surprise.learn(feature, counts[row, i], sums[row, i], unit[row, i])
            alert += ALERT_WEIGHTS[i] * s
            lasting += STATE_WEIGHTS[i] * s
        total[row] += 1.0
        if total[row] >= HISTORY:
            counts[row] *= 0.5
            sums[row] *= 0.5
            total[row] *= 0.5

        level[row] += max(LEVEL_GAIN, 1.0 / (now + 1)) * (value - level[row])
        mean[row] += max(MEAN_GAIN, 1.0 / (now + 1)) * (value - mean[row])
        last_us[row] = times_us[row]
        seen[row] = now + 1

        bar = 0.0
        if told_at[row] >= 0:
            span = QUIET * min(now + 1, HISTORY)
            bar = QUIET_HEIGHT * told[row] * max(0.0, 1.0 - (now - told_at[row]) / span)
        clear = max(alert - bar, 0.0)
        if clear >= BAR:
            told_at[row], told[row] = now, alert
        alerts[row] = 1.0 - 0.5 ** (clear / BAR)

        remembered = NOW * lasting
        for i in range(len(MEMORIES)):
            averages[row, i] += (lasting - averages[row, i]) / MEMORIES[i]
            remembered += averages[row, i]
        state[row] = 1.0 - 0.5 ** (remembered / STATE_HALF)
        strange[row] = state[row]


@njit(cache=True)
def _mean_of_last(count: int, ring: Floats, now: int) -> float:
    """Of the last ``count`` values (fewer at first) put into the ring, the latest at ``now``."""
    total = 0.0
    for back in range(min(count, now + 1)):
        total += ring[(now - back) % len(ring)]
    return total / min(count, now + 1)


@njit(cache=True)
def _deviation(
    value: float, at_us: int, last_us: int, now: int, profile: Floats, visits: npt.NDArray[np.int32]
) -> float:
    """From the usual value of this time of day, 0 on the first day; the profile then learns it.

    A bin moves by ``DAY_GAIN`` a day however many values fall into it: one that stands for the share x of the bin's
    time moves it by 1 - (1 - DAY_GAIN) ** x."""
    at = (at_us % _DAY_US) // _BIN_US
    share = min((at_us - last_us) / _BIN_US, 1.0) if now > 0 else 1.0
    deviation = value - profile[at] if visits[at] > 0 else 0.0
    visits[at] += 1
    gain = max(1.0 - (1.0 - DAY_GAIN) ** share, 1.0 / visits[at])
    profile[at] += gain * (value - profile[at])
    return deviation
