"""The point path: every method's forecast, mixed by how well each has done on this series lately.

::

    settle(state, step, truth)       what was noted for this step meets the truth: every method is charged
    learn(memory, truth)             every method learns the value
    paths(state, memory, origin)     the mixture's path, each method's, and each one's share
    note(state, step, paths)         keep what was said at this origin until its truth comes

All values are on the square-root scale. Weights are learned at a few **anchor** horizons (1, 3, 10, 30 of 30) and
interpolated between them, linear in the square root of the horizon, as errors of a random walk grow.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from smartscale.ml.forecast import weighting
from smartscale.ml.forecast.baselines import DAY_S, WEEK_S, pool
from smartscale.ml.forecast.protocol import Method
from smartscale.ml.series.history import Past

Array = npt.NDArray[np.float64]
Small = npt.NDArray[np.float32]

MARGIN_STEPS = 64
"""Columns kept beyond the asked-for history: a day's season also needs the level of a day ago."""
WARM_UP = 12
"""Values seen before the trend rung, and before any alert: two minutes of 10 s."""


@dataclass(slots=True)
class State:
    """What the methods know of each series; the first axis of every array is the series. A anchors, K methods.

    ``points`` holds what awaits its truth: for a horizon of h the h slots ``offset + step % h``."""

    past: Small  # (n, width)
    seen: npt.NDArray[np.int64]  # (n,) values learned
    memory: Array  # (n, sum of the methods' widths)
    lost: Array  # (n, A, K)
    points: Small  # (n, sum of anchors, K)


class Paths(NamedTuple):
    """Steps 1 to horizon after an origin, square-root scale; NaN where nothing is known."""

    mixture: Array  # (n, horizon)
    methods: Array  # (n, horizon, K)
    share: Array  # (n, horizon, K), sums to 1 over the methods that have something to say


class Mixture:
    """The plan: which methods and horizons. Holds no data; every call is given the ``State``.

    ``step_s`` is the spacing of the series in seconds, ``horizon`` the number of steps ahead."""

    def __init__(self, step_s: float, horizon: int, history_steps: int) -> None:
        self.horizon = horizon
        self.width = history_steps + MARGIN_STEPS
        self.methods: tuple[Method, ...] = pool(step_s, history_steps)
        self.names = [method.name for method in self.methods]
        edges = np.cumsum([0, *(method.width for method in self.methods)])
        self._slices = [slice(int(a), int(b)) for a, b in pairwise(edges)]
        self.anchors = anchors(horizon)
        self._slots = [int(x) for x in np.cumsum([0, *self.anchors[:-1]])]
        self.between = interpolation(self.anchors, horizon)
        self._day, self._week = DAY_S / step_s, WEEK_S / step_s

    def fresh(self, n_series: int) -> State:
        """Series of which nothing is known yet."""
        methods = len(self.methods)
        return State(
            past=np.full((n_series, self.width), np.nan, np.float32),
            seen=np.zeros(n_series, np.int64),
            memory=np.concatenate([method.fresh(n_series) for method in self.methods], axis=1),
            lost=np.zeros((n_series, len(self.anchors), methods)),
            points=np.full((n_series, sum(self.anchors), methods), np.nan, np.float32),
        )

    def settle(self, state: State, step: int, truth: Array) -> None:
        """Charge every method for what it said of ``step``; ``state`` is changed in place."""
        for a, h in enumerate(self.anchors):
            points = state.points[:, self._slots[a] + step % h].astype(np.float64)
            awake = ~np.isnan(points)
            share = weighting.weights(state.lost[:, a], awake, h)
            known = awake.any(axis=1)
            mixed = np.where(known, (np.where(awake, points, 0.0) * share).sum(axis=1), np.nan)
            state.lost[:, a] = weighting.charge(state.lost[:, a], points, mixed, truth, h)

    def said(self, state: State, step: int, anchor: int) -> Array:
        """What each method said of ``step`` at its origin ``anchors[anchor]`` steps before it, shape (n, K)."""
        slot = self._slots[anchor] + step % self.anchors[anchor]
        return state.points[:, slot].astype(np.float64)

    def learn(self, memory: Array, truth: Array) -> Array:
        """The methods' memories after one more step, NaN for a gap."""
        parts = [m.learn(memory[:, s], truth) for m, s in zip(self.methods, self._slices, strict=True)]
        return np.concatenate(parts, axis=1)

    def paths(self, state: State, memory: Array, origin: int, horizon: int | None = None) -> Paths:
        """What is expected after ``origin``; of the first ``horizon`` steps if not all."""
        steps = self.horizon if horizon is None else horizon
        past = Past(state.past, origin)
        methods = np.stack(
            [m.forecast(memory[:, s], past, steps) for m, s in zip(self.methods, self._slices, strict=True)],
            axis=2,
        )
        awake = ~np.isnan(methods)
        at_anchors = np.stack(
            [
                weighting.weights(state.lost[:, a], awake[:, min(h, steps) - 1], h)
                for a, h in enumerate(self.anchors)
            ],
            axis=1,
        )
        share = np.matmul(self.between[:steps], at_anchors)  # (n, steps, K)
        share = np.where(awake, share, 0.0)
        total = share.sum(axis=2, keepdims=True)
        share = np.divide(share, total, out=np.zeros_like(share), where=total > 0)
        mixture = np.where(total[:, :, 0] > 0, (np.where(awake, methods, 0.0) * share).sum(axis=2), np.nan)
        return Paths(mixture, methods, share)

    def note(self, state: State, step: int, paths: Paths) -> None:
        """Keep what was said at origin ``step`` until its truth comes; ``state`` is changed in place."""
        for a, h in enumerate(self.anchors):
            state.points[:, self._slots[a] + step % h] = paths.methods[:, h - 1]

    def forget(self, state: State) -> None:
        """Give up what awaits its truth, in place."""
        state.points[:] = np.nan

    def stage(self, state: State) -> list[str]:
        """The rung of the cold-start ladder each series stands on."""
        rungs = [
            ("weekly", self._week if "week" in self.names else np.inf),
            ("daily", self._day if "day" in self.names else np.inf),
            ("trend", WARM_UP),
            ("naive", 0),
        ]
        return [next(name for name, needed in rungs if seen >= needed) for seen in state.seen.tolist()]


def anchors(horizon: int) -> list[int]:
    """Up to four horizons, geometric from 1 to the last.

    >>> anchors(30), anchors(1)
    ([1, 3, 10, 30], [1])
    """
    return sorted({round(horizon ** (i / 3)) for i in range(4)})


def interpolation(at: list[int], horizon: int) -> Array:
    """Matrix (horizon, A): each step's shares of the anchors, linear in the square root of the horizon."""
    steps, roots = np.sqrt(np.arange(1, horizon + 1)), np.sqrt(at)
    return np.stack([np.interp(steps, roots, unit) for unit in np.eye(len(at))], axis=1)
