"""How strange one thing is that is measured by many metrics, such as a machine: one state score for all of them.

::

    metric 1 ─▶ |distance from its mean| / its deviation ─┐
    metric 2 ─▶                                           ├─ mean of the greatest eighth ─▶ averages over time
    ...                                                   ┘                                         └─▶ state score

A fault shows in some of the metrics and leaves most as they are: the mean over all drowns it, the greatest alone is
whichever metric is noisiest. And how far a metric is out counts, not how rare that is: what is rare for one metric among
dozens is daily for the thing. Against single surprises (``detector``), and against Mahalanobis and principal-component
distances, this measured best (docs/performance.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float64]

SHARE: Final = 8
"""The eighth part of the metrics counts, at least one. A fifth costs 0.04 of VUS-PR, a thirteenth 0.01."""
HISTORY: Final = 40_000
"""Values beyond which the past fades: four weeks of minutes."""
WARM_UP: Final = 50
"""Values before a metric has a say: the deviation of fewer is a guess."""
MOST: Final = 20.0
"""Deviations beyond which a metric is no stranger: a metric that never moved would outweigh all others."""
LEAST: Final = 1e-3
"""Share of a metric's range that counts as its deviation at least."""
MEMORIES: Final = np.array([3.0, 12.0, 50.0])
"""Steps that are remembered, as in ``detector``: the sum of three averages, a short, a middle and a long one."""
NOW: Final = 0.2
"""Weight of the present step beside them."""
HALF: Final = 4.0 * (len(MEMORIES) + NOW)
"""Remembered sum with state score 0.5: the greatest eighth lies four deviations out, now and in all memories."""
LARGEST: Final = 1e150
"""Larger values are gaps: their squares would overflow."""


@dataclass(slots=True)
class TogetherState:
    """Of each metric (first axis, n), 56 bytes of it, and of the thing."""

    seen: npt.NDArray[np.int64]  # (n,)
    origin: Floats  # (n,) the first value; all others are kept as differences from it
    mean: Floats  # (n,)
    variance: Floats  # (n,)
    low: Floats  # (n,)
    high: Floats  # (n,)
    distance: Floats  # (n,) the last
    averages: Floats  # (3,) of the greatest distances, over MEMORIES


class Together:
    """All metrics of one thing. A change of units of any metric changes nothing."""

    def fresh(self, n_metrics: int) -> TogetherState:
        seen, averages = np.zeros(n_metrics, np.int64), np.zeros(len(MEMORIES))
        origin, mean, variance, low, high, distance = np.zeros((6, n_metrics))
        return TogetherState(seen, origin, mean, variance, low, high, distance, averages)

    def step(self, state: TogetherState, values: Floats) -> float:
        """State score in [0, 1] after one more value of each metric, shape (n,). NaN and infinities are gaps:
        that metric's distance is held. ``state`` is changed in place."""
        _learn(
            np.ascontiguousarray(values, np.float64),
            state.seen,
            state.origin,
            state.mean,
            state.variance,
            state.low,
            state.high,
            state.distance,
        )
        n = len(values)
        counted = max(n // SHARE, 1)
        greatest = np.partition(state.distance, n - counted)[n - counted :].mean()
        state.averages += (greatest - state.averages) / MEMORIES
        return float(1.0 - 0.5 ** ((NOW * greatest + state.averages.sum()) / HALF))


@njit(cache=True)
def _learn(
    values: Floats,
    seen: npt.NDArray[np.int64],
    origin: Floats,
    mean: Floats,
    variance: Floats,
    low: Floats,
    high: Floats,
    distance: Floats,
) -> None:
    for metric in range(len(values)):
        if not abs(values[metric]) < LARGEST:
            continue
        now = seen[metric]
        if now == 0:
            origin[metric] = values[metric]
        value = values[metric] - origin[metric]
        away = value - mean[metric]
        distance[metric] = 0.0
        deviation = max(np.sqrt(variance[metric]), LEAST * (high[metric] - low[metric]))
        if now >= WARM_UP and away != 0.0:
            distance[metric] = min(abs(away) / deviation, MOST) if deviation > 0.0 else MOST
        gain = max(1.0 / (now + 1), 1.0 / HISTORY)
        mean[metric] += gain * away
        variance[metric] = (1.0 - gain) * (variance[metric] + gain * away * away)
        low[metric], high[metric] = min(low[metric], value), max(high[metric], value)
        seen[metric] = now + 1
