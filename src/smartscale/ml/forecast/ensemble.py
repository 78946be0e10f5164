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

Calibration happens at a few **anchor** horizons (1, 3, 10, 30 of 30) and is interpolated between them, linear in
the square root of the horizon, as errors of a random walk grow. The maximum over 1..h is a target of its own with
its own residuals and levels, so its quantiles are as calibrated as the values': no assumption about how errors
of neighbouring steps hang together is needed.

Rows are independent: a series with absurd values harms no other. Nothing here is random.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import numpy.typing as npt

from smartscale.ml.forecast import conformal, influence, mixture
from smartscale.ml.forecast.mixture import Mixture
from smartscale.ml.forecast.protocol import Method, count_noise, to_rate, to_root
from smartscale.ml.series.history import GAP, Past, put

Array = npt.NDArray[np.float64]
Small = npt.NDArray[np.float32]

LEVELS: Final = np.array([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999])
PRIOR_STEPS: Final = 4.0
"""Weight of the prior spread, in residuals."""
PRIOR_GROWTH: Final = 0.03
"""Prior error a step, on the square-root scale: 6 % of the rate, growing with the root of the horizon."""
NOISE_FLOOR: Final = 0.3
"""Spread never falls below this share of a Poisson count's: metronomes exist, but not for ever."""
SPREAD_STEPS: Final = 30.0
"""The prior's spread looks back this many steps and one horizon: it stands in until the ring has filled."""
SCORE_STEPS: Final = 300.0
"""Coverage and skill look back over about this many settled forecasts."""


@dataclass(slots=True)
class State(mixture.State):
    """What is known of each series; the first axis of every array is the series.

    A anchors, K methods, G targets (A values and the A - 1 peaks), Q levels, R residuals. ``issued`` holds what
    awaits its truth: for a horizon of h the h slots ``offset + step % h``."""

    issued: Small  # (n, sum of targets' horizons, 1 + Q): mixture, quantiles
    spread: Array  # (n, G, 2): discounted sum of absolute residuals, and of their weights
    ring: Small  # (n, G, R)
    inserted: npt.NDArray[np.int64]  # (n, G)
    levels: Array  # (n, G, Q)
    score: Array  # (n, 4): discounted hits of the 90 % band, loss, the naive's loss, weight


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Rates a second: ``values`` and ``peaks`` of shape (n_series, horizon, Q), and what each method weighed in
    the mixture, mean over the horizon, shape (n_series, K)."""

    values: Array
    peaks: Array
    weights: Array


@dataclass(frozen=True, slots=True)
class Target:
    """What is calibrated: the value ``horizon`` steps ahead, or the maximum until then."""

    horizon: int
    is_peak: bool
    anchor: int
    slot: int
    """First of its ``horizon`` slots in ``State.issued``."""


class Forecaster:
    """The plan: which methods, horizons and levels. Holds no data; every call is given the ``State``.

    ``step_s`` is the spacing of the series in seconds, ``horizon`` the number of steps ahead, ``levels`` the quantiles
    wanted, ascending in (0, 1), 0.05 and 0.95 among them."""

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
        self._low, self._high = (int(np.searchsorted(levels, level)) for level in (0.05, 0.95))
        self.horizon = horizon
        self.mixture = Mixture(step_s, horizon, history_steps, boosting)
        self.width = self.mixture.width
        self.methods: tuple[Method, ...] = self.mixture.methods
        self.anchors = self.mixture.anchors
        self.targets = _targets(self.anchors)
        self._values = [i for i, target in enumerate(self.targets) if not target.is_peak]
        self._peaks = [0, *(i for i, target in enumerate(self.targets) if target.is_peak)]
        lift = [conformal.peak_shift(t.horizon) if t.is_peak else 0.0 for t in self.targets]
        self._shift = np.array(lift) * count_noise(step_s)

    def fresh(self, n_series: int) -> State:
        """Series of which nothing is known yet."""
        targets, base = len(self.targets), self.mixture.fresh(n_series)
        return State(
            **{field.name: getattr(base, field.name) for field in fields(base)},
            issued=np.full(
                (n_series, sum(t.horizon for t in self.targets), 1 + len(self.levels)), np.nan, np.float32
            ),
            spread=np.zeros((n_series, targets, 2)),
            ring=np.full((n_series, targets, conformal.RING), np.nan, np.float32),
            inserted=np.zeros((n_series, targets), np.int64),
            levels=np.broadcast_to(self.levels, (n_series, targets, len(self.levels))).copy(),
            score=np.zeros((n_series, 4)),
        )

    def learn(self, state: State, step: int, rates: Array) -> None:
        """Learn the final values of ``step``, shape (n_series,), NaN for a gap. Steps come in order, without
        holes; ``state`` is changed in place."""
        truth = to_root(rates, self.step_s)
        put(state.past, step, truth)
        self._settle(state, step, truth)
        self.mixture.learn(state, step, truth)
        self._issue(state, step)

    def skip(self, state: State, first: int, last: int) -> None:
        """Pass over steps ``first`` to ``last`` of which nothing is known (a long outage), in place and at once.
        What awaited its truth is given up."""
        gone = np.arange(max(first, last - self.width + 1), last + 1) % self.width
        state.past[:, gone] = GAP
        self.mixture.forget(state)
        state.issued[:] = np.nan

    def view(self, state: State, memory: Array, step: int, rates: Array) -> Array:
        """The methods' memories after provisional values of ``step``. Writes the column into the past (the final
        one will replace it), and changes nothing else of ``state``."""
        root = to_root(rates, self.step_s)
        put(state.past, step, root)
        return self.mixture.follow(state, memory, step, root)

    def forecast(self, state: State, memory: Array, origin: int) -> Quantiles:
        """Quantiles at ``levels`` for every step ahead of ``origin``. NaN for a series without any value."""
        path, _, share = self.mixture.paths(state, memory, origin)
        offsets = self._offsets(state, path)
        tops = np.maximum.accumulate(path, axis=1)
        values = np.sort(path[:, :, None] + self._between(offsets[:, self._values]), axis=2)
        peaks = np.sort(tops[:, :, None] + self._between(offsets[:, self._peaks]), axis=2)
        # A maximum is at least each of its values, and never falls as more steps join it.
        peaks = np.maximum.accumulate(np.maximum(peaks, values), axis=1)
        return Quantiles(to_rate(values, self.step_s), to_rate(peaks, self.step_s), share)

    def surprise(self, state: State, memory: Array, origin: int, rates: Array) -> Surprise:
        """How far the values of step ``origin + 1`` are from what was expected of them, see ``Surprise``."""
        path = self.mixture.paths(state, memory, origin, horizon=1).mixture
        spread = self._spread(state, path)[:, 0]
        ring = conformal.fill(state.ring[:, 0], spread, self._shift[:1])
        residual = to_root(rates, self.step_s) - path[:, 0]
        low, high = conformal.tail_probabilities(ring, residual, spread)
        edges = np.broadcast_to(np.array([0.001, 0.999]), (len(residual), 2))
        band = path + conformal.quantiles(ring, edges, spread)
        return Surprise(
            expected=to_rate(path[:, 0], self.step_s),
            low=to_rate(band[:, 0], self.step_s),
            high=to_rate(band[:, 1], self.step_s),
            p_low=low,
            p_high=high,
        )

    def coverage(self, state: State) -> Array:
        """Share of truths inside the 90 % band lately, (n_series,); NaN with under 50 settled forecasts."""
        weight = state.score[:, 3]
        return np.where(weight >= 50, state.score[:, 0] / np.maximum(weight, 1), np.nan)

    def skill(self, state: State) -> Array:
        """1 - loss / loss of the naive method (pinball at the median, square-root scale); NaN as ``coverage``."""
        naive = state.score[:, 2]
        known = (state.score[:, 3] >= 50) & (naive > 0)
        return np.where(known, 1 - state.score[:, 1] / np.where(naive > 0, naive, 1.0), np.nan)

    def influence(self, state: State) -> Array:
        """What each series' forecast should count for, (n_series,) in [0, 1]: see ``influence``."""
        return influence.influence(self.coverage(state), self.skill(state), state.score[:, 3])

    def stage(self, state: State) -> list[str]:
        """The rung of the cold-start ladder each series stands on."""
        return self.mixture.stage(state)

    # --- the steps ------------------------------------------------------------------------------------------

    def _settle(self, state: State, step: int, truth: Array) -> None:
        for a in range(len(self.anchors)):
            self._score(state, self.targets[a], step, truth, self.mixture.said(state, step, a)[:, 0])
        self.mixture.settle(state, step, truth)
        for g, target in enumerate(self.targets):
            actual = truth
            if target.is_peak:
                actual = Past(state.past, step).between(step - target.horizon + 1, step).max(axis=1)
            self._calibrate(state, g, target, step, np.asarray(actual, np.float64))

    def _score(self, state: State, target: Target, step: int, truth: Array, naive: Array) -> None:
        issued = state.issued[:, target.slot + step % target.horizon].astype(np.float64)
        known = ~np.isnan(truth) & ~np.isnan(issued[:, 0])
        inside = (truth >= issued[:, 1 + self._low]) & (truth <= issued[:, 1 + self._high])
        now = np.stack(
            [inside, np.abs(truth - issued[:, 0]), np.abs(truth - naive), np.ones(len(truth))], axis=1
        )
        state.score = np.where(known[:, None], state.score * np.exp(-1 / SCORE_STEPS) + now, state.score)

    def _calibrate(self, state: State, g: int, target: Target, step: int, actual: Array) -> None:
        issued = state.issued[:, target.slot + step % target.horizon].astype(np.float64)
        residual = actual - issued[:, 0]
        known = ~np.isnan(residual)
        if step % target.horizon == 0:  # neighbours share their errors: one burst must not fill the ring
            rows = np.flatnonzero(known)
            state.ring[rows, g, state.inserted[rows, g] % conformal.RING] = residual[rows]
            state.inserted[rows, g] += 1
        fade = np.exp(-1 / (SPREAD_STEPS + target.horizon))
        # Winsorised, so that the spread is that of ordinary steps.
        size = np.minimum(np.abs(residual), 4 * self._spread_of(state, g, issued[:, 0]))
        grown = state.spread[:, g] * fade + np.stack([size, np.ones(len(size))], axis=1)
        state.spread[:, g] = np.where(known[:, None], grown, state.spread[:, g])
        hit = actual[:, None] <= issued[:, 1:]
        state.levels[:, g] = conformal.adapt(state.levels[:, g], self.levels, hit, known, target.horizon)

    def _issue(self, state: State, step: int) -> None:
        paths = self.mixture.paths(state, state.memory, step)
        self.mixture.note(state, step, paths)
        path = paths.mixture
        offsets = self._offsets(state, path)
        tops = np.maximum.accumulate(path, axis=1)
        for g, target in enumerate(self.targets):
            h = target.horizon
            point = (tops if target.is_peak else path)[:, h - 1]
            slot = target.slot + step % h
            state.issued[:, slot, 0] = point
            state.issued[:, slot, 1:] = np.sort(point[:, None] + offsets[:, g], axis=1)

    def _offsets(self, state: State, path: Array) -> Array:
        """Distance of every target's quantiles from its point, (n, G, Q)."""
        spread = self._spread(state, path)
        return conformal.quantiles(conformal.fill(state.ring, spread, self._shift), state.levels, spread)

    def _spread(self, state: State, path: Array) -> Array:
        """Scale of every target's residuals, (n, G)."""
        level = path[:, :1]
        return np.concatenate(
            [self._spread_of(state, g, level[:, 0])[:, None] for g in range(len(self.targets))], 1
        )

    def _spread_of(self, state: State, g: int, level: Array) -> Array:
        """Prior and evidence, weighted as ``PRIOR_STEPS`` and the residuals seen.

        1.25 times the mean absolute residual is a normal's standard deviation (sqrt(pi / 2))."""
        chance = count_noise(self.step_s)
        growth = PRIOR_GROWTH * np.maximum(level, 0.0) * np.sqrt(self.targets[g].horizon)
        prior = np.sqrt(chance**2 + growth**2)
        total, weight = state.spread[:, g, 0], state.spread[:, g, 1]
        blended = (PRIOR_STEPS * prior + 1.2533 * total) / (PRIOR_STEPS + weight)
        spread: Array = np.maximum(blended, NOISE_FLOOR * chance)
        return spread

    def _between(self, at_anchors: Array) -> Array:
        """Anchors to every step: (n, A, Q) to (n, horizon, Q)."""
        steps: Array = np.matmul(self.mixture.between, at_anchors)
        return steps


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


def _targets(anchors: list[int]) -> list[Target]:
    plan = [(h, False, a) for a, h in enumerate(anchors)]
    plan += [(h, True, a) for a, h in enumerate(anchors) if h > 1]
    slots = np.cumsum([0, *(h for h, _, _ in plan)])
    return [Target(h, peak, a, int(slot)) for (h, peak, a), slot in zip(plan, slots[:-1], strict=True)]
