"""All series forecast together: a weighted mixture of methods with calibrated quantiles.

::

    learn(state, step, values)   1. put the column into the past
                                 2. settle: what was issued for this step meets the truth
                                    (losses, residuals, levels, coverage)
                                 3. every method learns the value
                                 4. issue: keep the forecasts made at this origin until their truth comes
    view(state, step, values)    only 1 and 3, on a copy of the methods' memories: provisional values move the
                                 origin but teach nothing
    forecast(state, memory, origin)  quantiles of the values, and of the maximum so far, for every step ahead

The points come from ``mixture``, what is around them from ``calibrate``: the distribution of each point's own residuals,
an average of whole quantile forecasts with the rules of thumb among them, adapted levels and a tail. It is learned at a
few **anchor** horizons (1, 3, 10, 30 of 30) and interpolated between them, linear in the square root of the horizon, as
errors of a random walk grow. The maximum over 1..h is a target of its own with its own residuals and levels, so its
quantiles are as calibrated as the values': no assumption about how errors of neighbouring steps hang together is needed.

Rows are independent: a series with absurd values harms no other. Nothing here is random.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import numpy.typing as npt

from smartscale.ml.forecast import calibrate, influence, mixture
from smartscale.ml.forecast.calibrate import INSIDE, LOSS, NAIVE_LOSS, SETTLED
from smartscale.ml.forecast.mixture import Mixture, Paths
from smartscale.ml.forecast.pool import DAY_S, WEEK_S
from smartscale.ml.forecast.protocol import Method, count_noise, to_rate, to_root
from smartscale.ml.series.history import GAP, Past, put

Array = npt.NDArray[np.float64]
Small = npt.NDArray[np.float32]

LEVELS: Final = np.array([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9995])
MEAN_STEPS: Final = 30
"""Steps whose mean is one of the rules of thumb."""
LEAST_SETTLED: Final = 50
"""Settled forecasts before anything is said of how good they are."""


@dataclass(slots=True)
class State(mixture.State):
    """What is known of each series; the first axis of every array is the series. See ``mixture.State`` and
    ``calibrate.State``."""

    pending: Small
    bins: Small
    size: Small
    trust: Small
    typical: Small
    adapted: Small
    tail: Small
    volatility: Small
    score: Small
    exceeded: Small


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Rates a second: ``values`` and ``peaks`` of shape (n_series, horizon, Q), and what each method weighed in
    the mixture, mean over the horizon, shape (n_series, K)."""

    values: Array
    peaks: Array
    weights: Array


class Forecaster:
    """The plan: which methods, horizons and levels. Holds no data; every call is given the ``State``.

    ``step_s`` is the spacing of the series in seconds, ``horizon`` the number of steps ahead, ``levels`` the quantiles
    wanted, ascending in (0, 1). Whatever they are, the state is the same."""

    def __init__(
        self,
        step_s: float,
        horizon: int,
        history_steps: int,
        levels: Array = LEVELS,
        boosting: bool = False,
    ) -> None:
        self.step_s = step_s
        self.levels = levels
        self.horizon = horizon
        self.long_gap = 4 * horizon
        """Steps of a gap beyond which it is passed over at once (``skip``): nothing issued before it is still awaited."""
        self.mixture = Mixture(step_s, horizon, history_steps, boosting)
        self.width = self.mixture.width
        self.methods: tuple[Method, ...] = self.mixture.methods
        self.anchors = self.mixture.anchors
        self.plan = calibrate.plan(self.anchors, count_noise(step_s))
        self._naive = self.mixture.names.index("naive")
        self._seasons = [
            (expert, int(period))
            for expert, period in ((calibrate.DAY, DAY_S / step_s), (calibrate.WEEK, WEEK_S / step_s))
            if period == int(period) and period <= history_steps
        ]

    def fresh(self, n_series: int) -> State:
        """Series of which nothing is known yet."""
        base = self.mixture.fresh(n_series)
        return State(
            **{field.name: getattr(base, field.name) for field in fields(base)},
            **calibrate.fresh(self.plan, n_series)._asdict(),
        )

    def learn(self, state: State, step: int, rates: Array) -> None:
        """Learn the final values of ``step``, shape (n_series,), NaN for a gap. Steps come in order, without
        holes; ``state`` is changed in place."""
        truth = to_root(rates, self.step_s)
        put(state.past, step, truth)
        calibrate.settle(self.plan, _calibration(state), step, truth)
        self.mixture.settle(state, step, truth)
        self.mixture.learn(state, step, truth)
        paths = self.mixture.paths(state, state.memory, step)
        self.mixture.note(state, step, paths)
        calibrate.issue(self.plan, _calibration(state), step, self._points(state, paths, step))

    def skip(self, state: State, first: int, last: int) -> None:
        """Pass over steps ``first`` to ``last`` of which nothing is known (a long outage), in place and at once.
        What awaited its truth is given up."""
        gone = np.arange(max(first, last - self.width + 1), last + 1) % self.width
        state.past[:, gone] = GAP
        self.mixture.forget(state)
        state.pending[:] = np.nan

    def view(self, state: State, memory: Array, step: int, rates: Array) -> Array:
        """The methods' memories after provisional values of ``step``. Writes the column into the past (the final
        one will replace it), and changes nothing else of ``state``."""
        root = to_root(rates, self.step_s)
        put(state.past, step, root)
        return self.mixture.follow(state, memory, step, root)

    def forecast(self, state: State, memory: Array, origin: int) -> Quantiles:
        """Quantiles at ``levels`` for every step ahead of ``origin``. NaN for a series without any value."""
        paths = self.mixture.paths(state, memory, origin)
        points = self._points(state, paths, origin)
        values = np.empty((len(points), self.horizon, len(self.levels)))
        peaks = np.empty_like(values)
        calibrate.forecast(self.plan, _calibration(state), points, self.levels, values, peaks)
        return Quantiles(to_rate(values, self.step_s), to_rate(peaks, self.step_s), paths.share)

    def surprise(self, state: State, memory: Array, origin: int, rates: Array) -> Surprise:
        """How far the values of step ``origin + 1`` are from what was expected of them, see ``Surprise``."""
        paths = self.mixture.paths(state, memory, origin, horizon=1)
        points, truth = self._points(state, paths, origin), to_root(rates, self.step_s)
        found = np.empty((len(truth), 5))
        calibrate.surprise(self.plan, _calibration(state), points, truth, found)
        return Surprise(
            expected=to_rate(found[:, 0], self.step_s),
            low=to_rate(found[:, 1], self.step_s),
            high=to_rate(found[:, 2], self.step_s),
            p_low=found[:, 3],
            p_high=found[:, 4],
        )

    def coverage(self, state: State) -> Array:
        """Share of truths inside the 90 % band lately, (n_series,); NaN with under ``LEAST_SETTLED`` of them."""
        return _ratio(state.score[:, INSIDE], state.score[:, SETTLED], state.score[:, SETTLED])

    def skill(self, state: State) -> Array:
        """1 - loss / loss of the naive forecast with the quantiles of its own residuals (pinball over 0.05 to 0.95,
        square-root scale); NaN as ``coverage``."""
        return 1 - _ratio(state.score[:, LOSS], state.score[:, NAIVE_LOSS], state.score[:, SETTLED])

    def influence(self, state: State) -> Array:
        """What each series' forecast should count for, (n_series,) in [0, 1]: see ``influence``."""
        return influence.influence(
            self.coverage(state), self.skill(state), state.score[:, SETTLED].astype(np.float64)
        )

    def exceedance(self, state: State) -> Array:
        """Share of truths above each of ``calibrate.TAIL_LEVELS`` lately, of values and of maxima, (n_series, 2, 4); NaN
        with too few truths to expect ten above."""
        counted = state.exceeded[:, :, -1:].astype(np.float64)
        enough = counted * (1 - calibrate.TAIL_LEVELS) >= 10
        return np.where(enough, state.exceeded[:, :, :-1] / np.maximum(counted, 1), np.nan)

    def stage(self, state: State) -> list[str]:
        """The rung of the cold-start ladder each series stands on."""
        return self.mixture.stage(state)

    def _points(self, state: State, paths: Paths, origin: int) -> Array:
        """What each expert of ``calibrate`` expects, (n, EXPERTS, steps)."""
        n_series, steps = paths.mixture.shape
        past = Past(state.past, origin)
        points = np.full((n_series, calibrate.EXPERTS, steps), np.nan)
        points[:, calibrate.MIXTURE] = paths.mixture
        points[:, calibrate.NAIVE] = paths.methods[self._naive]
        for expert, period in self._seasons:
            first = origin + 1 - period
            season = past.between(first, first + min(steps, period) - 1)
            points[:, expert] = season if steps <= period else season[:, np.arange(steps) % period]
        points[:, calibrate.MEAN] = _mean(past.between(origin - MEAN_STEPS + 1, origin))[:, None]
        return points


def _calibration(state: State) -> calibrate.State:
    return calibrate.State(*(getattr(state, name) for name in calibrate.State._fields))


def _mean(values: Small) -> Array:
    """Mean over axis 1 of what is known; NaN if nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _ratio(part: Small, whole: Small, settled: Small) -> Array:
    known = (settled >= LEAST_SETTLED) & (whole > 0)
    return np.where(known, part.astype(np.float64) / np.where(known, whole, 1.0), np.nan)


@dataclass(frozen=True, slots=True)
class Surprise:
    """What was expected of a step before it was seen. Rates a second, shape (n_series,).

    ``low`` and ``high`` are the 0.001 and 0.999 quantiles; ``p_low`` and ``p_high`` the chances of a value as
    low, or as high, as the one seen (1 where nothing is known)."""

    expected: Array
    low: Array
    high: Array
    p_low: Array
    p_high: Array
