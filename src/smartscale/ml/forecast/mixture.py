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
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from smartscale.ml.forecast import weighting
from smartscale.ml.forecast.boosting import Boosting
from smartscale.ml.forecast.pool import pool
from smartscale.ml.forecast.protocol import Array, Method, Rung, anchors, interpolation
from smartscale.ml.series.history import Codes, Past, empty

Small = npt.NDArray[np.float32]

MARGIN_STEPS: Final = 64
"""Columns kept beyond the history asked for and one horizon: a day's season also needs the level of a day ago, and what is
learned now is seen from an origin a horizon ago."""
WARM_UP: Final = 12
"""Values seen before any alert: two minutes of 10 s."""
HALF: Final = 0.5
"""Share of the weight that must rest on a rung of the ladder, or on those above it, for a forecast to stand there."""


@dataclass(slots=True)
class State:
    """What the methods know of each series; the first axis of every array is the series. A anchors, K methods.

    ``points`` holds what awaits its truth, of the methods and of the mixture: for a horizon of h the h slots
    ``offset + step % h``."""

    past: Codes  # (n, width)
    seen: npt.NDArray[np.int64]  # (n,) values learned
    memory: Array  # (n, sum of the methods' widths)
    regret: Array  # (n, A, K), see ``weighting.charge``
    squares: Array  # (n, A, K)
    usual: Array  # (n, A, 2)
    points: Small  # (n, sum of anchors, K + 1)
    rung: npt.NDArray[np.int8]  # (n,) ``Rung`` of the last forecast


class Paths(NamedTuple):
    """Steps 1 to horizon after an origin, square-root scale; NaN where nothing is known."""

    mixture: Array  # (n, horizon)
    methods: Array  # (K, n, horizon)
    share: Array  # (n, K), mean over the horizon; sums to 1


class Mixture:
    """The plan: which methods and horizons. Holds no data; every call is given the ``State``.

    ``step_s`` is the spacing of the series in seconds, ``horizon`` the number of steps ahead."""

    def __init__(self, step_s: float, horizon: int, history_steps: int, boosting: bool = False) -> None:
        self.horizon = horizon
        self.width = history_steps + horizon + MARGIN_STEPS
        self.methods: tuple[Method, ...] = pool(step_s, horizon, history_steps, boosting)
        self.names = [method.name for method in self.methods]
        self.booster = next((method for method in self.methods if isinstance(method, Boosting)), None)
        edges = np.cumsum([0, *(method.width for method in self.methods)])
        self._slices = [slice(int(a), int(b)) for a, b in pairwise(edges)]
        self.anchors = anchors(horizon)
        self._at = np.array(self.anchors)
        self._keep = [weighting.fade(h) for h in self.anchors]
        self._prior = np.array([method.prior for method in self.methods])
        self._slots = [int(x) for x in np.cumsum([0, *self.anchors[:-1]])]
        self.between = interpolation(self.anchors, horizon)

    def fresh(self, n_series: int) -> State:
        """Series of which nothing is known yet."""
        methods, n_anchors = len(self.methods), len(self.anchors)
        return State(
            past=empty(n_series, self.width),
            seen=np.zeros(n_series, np.int64),
            memory=np.concatenate([method.fresh(n_series) for method in self.methods], axis=1),
            regret=np.zeros((n_series, n_anchors, methods)),
            squares=np.zeros((n_series, n_anchors, methods)),
            usual=np.zeros((n_series, n_anchors, 2)),
            points=np.full((n_series, sum(self.anchors), methods + 1), np.nan, np.float32),
            rung=np.full(n_series, Rung.NAIVE, np.int8),
        )

    def settle(self, state: State, step: int, truth: Array) -> None:
        """Charge every method for what it said of ``step``; ``state`` is changed in place."""
        for a, keep in enumerate(self._keep):
            points = state.points[:, self._slot(a, step)]
            weighting.charge(points, truth, keep, state.regret[:, a], state.squares[:, a], state.usual[:, a])

    def said(self, state: State, step: int, anchor: int) -> Array:
        """What each method said of ``step`` at its origin ``anchors[anchor]`` steps before it, and last the mixture, shape
        (n, K + 1)."""
        return state.points[:, self._slot(anchor, step)].astype(np.float64)

    def learn(self, state: State, step: int, truth: Array) -> None:
        """Every method learns the values of ``step``, NaN for a gap; ``state`` is changed in place."""
        past = Past(state.past, step)
        for method, columns in zip(self.methods, self._slices, strict=True):
            method.learn(state.memory[:, columns], truth, past)
        state.seen += ~np.isnan(truth)

    def follow(self, state: State, memory: Array, step: int, truth: Array) -> Array:
        """The methods' memories after provisional values of ``step``, a copy."""
        memory, past = memory.copy(), Past(state.past, step)
        for method, columns in zip(self.methods, self._slices, strict=True):
            method.follow(memory[:, columns], truth, past)
        return memory

    def paths(self, state: State, memory: Array, origin: int, horizon: int | None = None) -> Paths:
        """What is expected after ``origin``; of the first ``horizon`` steps if not all."""
        steps, n_series = self.horizon if horizon is None else horizon, len(memory)
        past = Past(state.past, origin)
        methods = np.empty((len(self.methods), n_series, steps))
        for k, (method, columns) in enumerate(zip(self.methods, self._slices, strict=True)):
            methods[k] = method.forecast(memory[:, columns], past, steps)
        mixture, share = np.empty((n_series, steps)), np.empty((n_series, len(self.methods)))
        weighting.mix(
            methods, self._at, self.between, self._prior, state.regret, state.squares, mixture, share
        )
        return Paths(mixture, methods, share)

    def note(self, state: State, step: int, paths: Paths) -> None:
        """Keep what was said at origin ``step`` until its truth comes, and where on the ladder it stood; ``state`` is
        changed in place."""
        for a, h in enumerate(self.anchors):
            slot = self._slot(a, step)
            state.points[:, slot, :-1] = paths.methods[:, :, h - 1].T
            state.points[:, slot, -1] = paths.mixture[:, h - 1]
        rungs = np.stack(
            [m.rung(state.memory[:, s]) for m, s in zip(self.methods, self._slices, strict=True)], axis=1
        )
        state.rung[:] = Rung.NAIVE
        for rung in Rung:
            state.rung[np.where(rungs >= rung, paths.share, 0.0).sum(axis=1) >= HALF] = rung

    def forget(self, state: State) -> None:
        """Give up what awaits its truth, in place."""
        state.points[:] = np.nan

    def stage(self, state: State) -> list[str]:
        """The rung of the ladder that each series' last forecast stood on: at least half of its weight rested there or
        higher."""
        names = [rung.name.lower() for rung in Rung]
        return [names[rung] for rung in state.rung.tolist()]

    def _slot(self, anchor: int, step: int) -> int:
        return self._slots[anchor] + step % self.anchors[anchor]
