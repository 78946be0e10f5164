"""One gradient boosting over all series, trained in the background, as one more method of the pool.

::

    sample(...)   at step s: a bounded, seeded sample of (series, origin, horizon) with what was known and what came  ──▶ Job
    fit(job)      in the background, scikit-learn                                                              ──▶ Trees
    serve         from step s + DELAY on, every forecast

Every feature and the target are differences from the value at the origin in units of the series' own usual change from
step to step, so what is learned of one series holds for another of any size:

==================  ======================================================================================
lags                y(t - k) - y(t)
means               of the last steps, minus y(t), and of the steps before those
each season         its like of t + h minus y(t), and minus its like of t; of the day also two days back
calendar            sine and cosine of the time of day and of the week at t + h (UTC)
shape               horizon, noise of counts and level in units of the usual change, recent change to usual change
==================  ======================================================================================

The loss is absolute error: a median. What a series cannot tell (yet) is NaN, which the trees know how to take.

A sample depends on the past at its step alone, training on the sample alone, and the trees take effect at a fixed later
step, which waits for them if need be: so a replay of the same records gives the same forecasts, bit for bit. A snapshot
holds the trees as plain arrays.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from numba import njit

from smartscale.ml.forecast.protocol import Array, Method, count_noise
from smartscale.ml.series import season
from smartscale.ml.series.history import Codes, Past, mean_between

log = logging.getLogger(__name__)

Small = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

LAGS: Final = np.array([1, 2, 3, 5, 8, 13, 21, 34])
WINDOWS: Final = np.array([3, 10, 30, 100])
FEATURES: Final = len(LAGS) + len(WINDOWS) + 14
LOOK_BACK: Final = 130
"""Steps that a feature of an origin may need, seasons apart."""
KNOTS: Final = 8
"""Horizons that are forecast at most; between them the path is a straight line in the root of the horizon."""
SAMPLES: Final = 20_000
"""Of a training at most: a second of one core."""
LEAST_VALUES: Final = 1_000
"""Values of all series together before the first training, and a fifth of that for a series to be sampled."""
AGAIN_SHARE: Final = 8
"""Trained again when an eighth more steps have come, at least ``AGAIN_STEPS``: seldom enough to cost little."""
AGAIN_STEPS: Final = 256
DELAY: Final = 8
"""Steps from the sample until the trees take effect."""
WAIT_S: Final = 2.0
"""Real. How long a step waits for a training that is not ready, before it does it itself: a second of work."""
BOUND: Final = 50.0
"""Features and targets are clipped to this many usual changes: absurd values teach no more than that."""
LEAST_CHANGE: Final = 1e-3
"""The usual change is at least this share of the level: values are known to about half of that."""


SETTINGS: Final[dict[str, Any]] = {
    "loss": "absolute_error",
    "learning_rate": 0.05,
    "max_iter": 100,
    "max_leaf_nodes": 15,
    "min_samples_leaf": 100,
    "max_bins": 63,
    "early_stopping": False,
    "random_state": 0,
}
"""Of scikit-learn's HistGradientBoostingRegressor: smaller trees and steps than its defaults, as samples of one series
overlap."""


@dataclass(frozen=True, slots=True)
class Trees:
    """A trained ensemble as plain arrays: leaf or test of every node of all trees, and where each tree begins."""

    feature: Ints
    threshold: Array
    left: Ints
    """-1: a leaf."""
    right: Ints
    missing_left: npt.NDArray[np.bool_]
    value: Array
    roots: Ints
    base: Array
    """Shape (1,): what all trees start from."""

    @classmethod
    def stump(cls, base: float) -> Trees:
        """No tree at all: always ``base``."""
        none, empty = np.empty(0, np.int32), np.empty(0)
        return cls(none, empty, none, none, np.empty(0, np.bool_), empty, none, np.array([base]))


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Job:
    """A training begun at step ``made``: features (m, FEATURES), targets (m,) and weights (m,)."""

    made: int
    x: Small
    y: Array
    weight: Array


@dataclass(slots=True)
class Boosted:
    """What there is of the ensemble of a group of series: the trees in use, and the training under way."""

    trees: Trees | None = None
    made: int | None = None
    """Step of the last training."""
    job: Job | None = None


class Boosting(Method):
    """The method. ``trees`` are set by whoever holds them, before every use; without any it sleeps.

    ``day`` and ``week`` are periods in steps, 0 where the history (in steps) cannot hold one; ``half`` steps to either
    side smooth a season."""

    name = "boosting"
    width = 0

    def __init__(self, step_s: float, horizon: int, history: int, day: int, week: int, half: int) -> None:
        self.step_s, self.horizon, self.history = step_s, horizon, history
        self.day, self.week, self.half, self.noise = day, week, half, count_noise(step_s)
        self.knots = np.unique(np.round(np.geomspace(1, horizon, min(KNOTS, horizon))).astype(np.int64))
        self.trees: Trees | None = None

    def fresh(self, n_series: int) -> Array:
        return np.empty((n_series, 0))

    def learn(self, _memory: Array, _values: Array, _past: Past) -> None:
        """Nothing: it is trained."""

    def forecast(self, _memory: Array, past: Past, horizon: int) -> Array:
        path = np.full((len(past.ring), horizon), np.nan)
        if self.trees is None:
            return path
        used = self.knots[: 1 + int(np.searchsorted(self.knots, horizon))]
        found = np.empty((len(past.ring), len(used)))
        t = self.trees
        _serve(
            past.ring, past.origin, used, self.step_s, self.history, self.day, self.week, self.half, self.noise,
            t.feature, t.threshold, t.left, t.right, t.missing_left, t.value, t.roots, t.base[0], found,
        )  # fmt: skip
        steps = np.sqrt(np.arange(1, horizon + 1))
        for i in range(len(path)):
            path[i] = np.interp(steps, np.sqrt(used), found[i])
        return path

    def is_due(self, boosted: Boosted, step: int, begin: int, seen: npt.NDArray[np.int64]) -> bool:
        """Whether a training is to begin once ``step`` is learned; ``begin`` is the first step there was."""
        if boosted.job is not None or boosted.made == step:
            return False
        if boosted.made is None:
            return int(seen.sum()) >= LEAST_VALUES and int(seen.max()) >= LEAST_VALUES // 5
        span = min(step - begin, self.history)
        return step - boosted.made >= max(AGAIN_STEPS, span // AGAIN_SHARE)

    def sample(self, past: Past, seen: npt.NDArray[np.int64]) -> Job:
        """What is learned from the past at its origin. Seeded by the step: the same past gives the same sample."""
        rng = np.random.default_rng(past.origin)
        held = np.minimum(seen, self.history)
        rows = np.flatnonzero(held >= min(LEAST_VALUES // 5, self.history))
        size = int(min(SAMPLES, 4 * held[rows].sum()))
        row, share = rows[rng.integers(len(rows), size=size)], rng.random(size)
        h = self.knots[rng.integers(len(self.knots), size=size)]
        reach = np.maximum(held[row] - LOOK_BACK - h, 1)
        origin = past.origin - h - (share * reach).astype(np.int64)
        x, y = np.empty((size, FEATURES), np.float32), np.empty(size)
        oldest = past.origin - self.history
        _sample(
            past.ring, past.origin, oldest, row, origin, h,
            self.step_s, self.day, self.week, self.half, self.noise, x, y,
        )  # fmt: skip
        known = ~np.isnan(y)
        # Errors grow with the root of the horizon; every horizon counts alike.
        return Job(past.origin, x[known], y[known], 1 / np.sqrt(h[known]))


def fit(job: Job) -> Trees:
    """Train on one thread. The same job gives the same trees."""
    from sklearn.ensemble import HistGradientBoostingRegressor  # a second to import: only where it is used
    from threadpoolctl import threadpool_limits

    model = HistGradientBoostingRegressor(**SETTINGS)
    # scikit-learn refuses a column of one value.
    varied = np.flatnonzero(
        np.nanmax(job.x, axis=0, initial=-np.inf) > np.nanmin(job.x, axis=0, initial=np.inf)
    )
    with threadpool_limits(1):
        model.fit(job.x[:, varied], job.y, job.weight)
    return _trees(model._predictors, float(model._baseline_prediction.ravel()[0]), varied)


def _trees(predictors: list[list[object]], base: float, columns: npt.NDArray[np.int64]) -> Trees:
    """The arrays of scikit-learn's trees, one after another; ``columns`` are the features that it was given."""
    nodes = [predictor.nodes for (predictor,) in predictors]  # type: ignore[attr-defined]  # scikit-learn has no stubs
    roots = np.cumsum([0, *(len(part) for part in nodes)])
    shift = np.repeat(roots[:-1], np.diff(roots))
    whole = np.concatenate(nodes)
    leaf = whole["is_leaf"].astype(np.bool_)
    return Trees(
        feature=columns[whole["feature_idx"]].astype(np.int32),
        threshold=whole["num_threshold"].astype(np.float64),
        left=np.where(leaf, -1, whole["left"] + shift).astype(np.int32),
        right=np.where(leaf, -1, whole["right"] + shift).astype(np.int32),
        missing_left=whole["missing_go_to_left"].astype(np.bool_),
        value=whole["value"].astype(np.float64),
        roots=roots[:-1].astype(np.int32),
        base=np.array([base]),
    )


def predict(trees: Trees, x: Small) -> Array:
    """The ensemble's answer for features of shape (m, FEATURES), shape (m,)."""
    found = np.empty(len(x))
    t = trees
    for i in range(len(x)):
        found[i] = _grow(
            x[i], t.feature, t.threshold, t.left, t.right, t.missing_left, t.value, t.roots, t.base[0]
        )
    return found


@dataclass(slots=True)
class Trainer:
    """Trains in the background: one thread of low priority, started at the first job."""

    _pool: ThreadPoolExecutor | None = None
    _running: WeakKeyDictionary[Job, Future[Trees]] = field(default_factory=WeakKeyDictionary)

    def start(self, job: Job) -> Future[Trees]:
        """Begin, unless begun already."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "boosting", _yield_to_others)
        if job not in self._running:
            self._running[job] = self._pool.submit(fit, job)
        return self._running[job]

    def finish(self, job: Job) -> Trees | None:
        """The trees. Not ready ``WAIT_S`` after they are due, as the machine has no time to spare, they are trained on the
        spot: a replay gives the same whatever else goes on. None, told in the log, if the training failed."""
        try:
            try:
                return self.start(job).result(WAIT_S)
            except TimeoutError:
                log.warning("boosting: not ready %g s after it was due: trained on the spot", WAIT_S)
                return fit(job)
        except ValueError as error:
            log.error("boosting: training on %d samples failed: %s", len(job.y), error)
            return None


def _yield_to_others() -> None:
    """The lowest priority but one for this thread, where threads have one of their own."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 15)


@njit(cache=True, nogil=True)
def _grow(
    x: Small,
    feature: Ints,
    threshold: Array,
    left: Ints,
    right: Ints,
    missing_left: npt.NDArray[np.bool_],
    value: Array,
    roots: Ints,
    base: float,
) -> float:
    total = base
    for root in roots:
        node = root
        while left[node] >= 0:
            seen = x[feature[node]]
            goes_left = missing_left[node] if np.isnan(seen) else seen <= threshold[node]
            node = left[node] if goes_left else right[node]
        total += value[node]
    return total


@njit(cache=True, nogil=True)
def _serve(
    ring: Codes,
    origin: int,
    knots: npt.NDArray[np.int64],
    step_s: float,
    history: int,
    day: int,
    week: int,
    half: int,
    noise: float,
    feature: Ints,
    threshold: Array,
    left: Ints,
    right: Ints,
    missing_left: npt.NDArray[np.bool_],
    value: Array,
    roots: Ints,
    base: float,
    found: Array,
) -> None:
    x = np.empty(FEATURES, np.float32)
    for i in range(len(ring)):
        now = season.value(ring[i], origin, origin)
        unit = _unit(ring[i], origin, now, noise)
        for k in range(len(knots)):
            found[i, k] = np.nan
            if unit > 0:
                _features(
                    ring[i], origin, origin - history, knots[k], now, unit, step_s, day, week, half, noise, x
                )
                moved = _grow(x, feature, threshold, left, right, missing_left, value, roots, base)
                found[i, k] = max(now + unit * moved, 0.0)


@njit(cache=True, nogil=True)
def _sample(
    ring: Codes,
    last: int,
    oldest: int,
    row: npt.NDArray[np.int64],
    origin: npt.NDArray[np.int64],
    horizon: npt.NDArray[np.int64],
    step_s: float,
    day: int,
    week: int,
    half: int,
    noise: float,
    x: Small,
    y: Array,
) -> None:
    for i in range(len(row)):
        one, t = ring[row[i]], origin[i]
        now, then = season.value(one, t, t), season.value(one, t + horizon[i], last)
        unit = _unit(one, t, now, noise)
        y[i] = np.nan
        if unit > 0 and not np.isnan(then):
            _features(one, t, oldest, horizon[i], now, unit, step_s, day, week, half, noise, x[i])
            y[i] = min(max((then - now) / unit, -BOUND), BOUND)


@njit(cache=True, nogil=True)
def _unit(row: Codes, origin: int, now: float, noise: float) -> float:
    """The usual change from one step to the next over the last 100; 0 where too little is known."""
    if np.isnan(now):
        return 0.0
    before, total, count = now, 0.0, 0
    for lag in range(1, 101):
        value = season.value(row, origin - lag, origin)
        if not np.isnan(value - before):
            total += abs(value - before)
            count += 1
        before = value
    if count < 20:
        return 0.0
    return max(total / count, 0.3 * noise, LEAST_CHANGE * now)


@njit(cache=True, nogil=True)
def _features(
    row: Codes,
    origin: int,
    oldest: int,
    h: int,
    now: float,
    unit: float,
    step_s: float,
    day: int,
    week: int,
    half: int,
    noise: float,
    x: Small,
) -> None:
    """The features of one origin and horizon; steps up to ``oldest`` are not looked at by the seasons."""
    at = 0
    for lag in LAGS:
        x[at] = _bound((season.value(row, origin - lag, origin) - now) / unit)
        at += 1
    for window in WINDOWS:
        mean, _ = mean_between(row, origin - window + 1, origin, origin)
        x[at] = _bound((mean - now) / unit)
        at += 1
    mean, _ = mean_between(row, origin - LOOK_BACK + 1, origin - 30, origin)
    x[at] = _bound((mean - now) / unit)
    changed, known = 0.0, 0
    for lag in range(10):
        change = season.value(row, origin - lag, origin) - season.value(row, origin - lag - 1, origin)
        if not np.isnan(change):
            changed += abs(change)
            known += 1
    x[at + 1] = changed / known / unit if known > 0 else np.nan
    x[at + 2], x[at + 3], x[at + 4] = np.sqrt(h), noise / unit, np.log(1 + now / unit)
    at += 5
    for period, back in ((day, 1), (day, 2), (week, 1)):
        then = _like(row, origin + h, origin, oldest, period, back, half)
        x[at] = _bound((then - now) / unit)
        if back == 1:
            here = _like(row, origin, origin, oldest, period, back, half)
            x[at + 1] = _bound((then - here) / unit)
            at += 1
        at += 1
    for period_s in (86_400.0, 604_800.0):
        angle = 2 * np.pi * ((origin + h) * step_s % period_s) / period_s
        x[at], x[at + 1] = np.sin(angle), np.cos(angle)
        at += 2


@njit(cache=True, nogil=True)
def _like(row: Codes, step: int, origin: int, oldest: int, period: int, back: int, half: int) -> float:
    if period == 0 or season.reference(step, origin, period) - (back - 1) * period - half <= oldest:
        return np.nan
    return season.like(row, step, origin, period, back, half)


@njit(cache=True, nogil=True)
def _bound(x: float) -> float:
    """NaN stays NaN."""
    return x if np.isnan(x) else min(max(x, -BOUND), BOUND)
