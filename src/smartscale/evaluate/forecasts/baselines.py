"""What a forecast has to beat: four rules of thumb, each with the quantiles of its own past errors.

Every rule gives a point for each step ahead. Its quantiles are the point plus the empirical quantiles of what it was
wrong by at that distance, over the last ``RESIDUALS`` origins whose truth is known at the origin: distributions are compared
with distributions, and nothing is seen before its time. Below zero is zero.

A seasonal rule is the naive one where the value of a period ago is unknown, and until it has ``LEAST`` errors to go by.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from smartscale.evaluate.forecasts.rolling import Forecasts, Plan, Steps
from smartscale.evaluate.forecasts.scores import ALL_LEVELS

Array = npt.NDArray[np.float64]

NAIVE: Final = "naive"
DAY: Final = "seasonal naive (day)"
WEEK: Final = "seasonal naive (week)"
WINDOW: Final = "window mean"
NAMES: Final = (NAIVE, DAY, WEEK, WINDOW)

RESIDUALS: Final = 2000
LEAST: Final = 30
_PERIODS_S: Final = {DAY: 86_400.0, WEEK: 7 * 86_400.0}


def baselines(values: Array, step_s: float, plan: Plan, at: Steps) -> dict[str, Forecasts]:
    """Forecasts of every rule at the origins ``at``; a seasonal rule that could never be used is left out. The window of
    the mean is as long as the horizon."""
    naive = _with_errors(np.repeat(_last_known(values)[:, None], plan.horizon, axis=1), values, plan, at, 0)
    found = {NAIVE: naive}
    for name, period_s in _PERIODS_S.items():
        season = _with_errors(_seasonal(values, period_s, step_s, plan.horizon), values, plan, at, LEAST)
        if not np.isnan(season.values).all():
            found[name] = _or_else(season, naive)
    mean = _with_errors(_window_mean(values, plan.horizon), values, plan, at, 0)
    found[WINDOW] = _or_else(mean, naive)
    return found


def _last_known(values: Array) -> Array:
    """The last known value at each step; NaN before the first."""
    at = np.maximum.accumulate(np.where(np.isnan(values), -1, np.arange(len(values))))
    return np.where(at >= 0, values[np.maximum(at, 0)], np.nan)


def _seasonal(values: Array, period_s: float, step_s: float, horizon: int) -> Array:
    """The value as many whole periods before the target as it takes to be known at the origin; (steps, horizon)."""
    period = max(round(period_s / step_s), 1)
    ahead = np.arange(1, horizon + 1)
    back = ahead - period * np.ceil(ahead / period).astype(np.int64)
    index = np.arange(len(values))[:, None] + back
    return np.where(index >= 0, values[np.maximum(index, 0)], np.nan)


def _window_mean(values: Array, window: int) -> Array:
    """Mean of the known values of the last ``window`` steps, the same for every step ahead."""
    known = ~np.isnan(values)
    number = np.convolve(known, np.ones(window))[: len(values)]
    total = np.convolve(np.where(known, values, 0.0), np.ones(window))[: len(values)]
    mean = np.where(number > 0.5, total / np.maximum(number, 1), np.nan)
    return np.repeat(mean[:, None], window, axis=1)


def _with_errors(points: Array, values: Array, plan: Plan, at: Steps, least: int) -> Forecasts:
    """Quantiles around ``points`` (steps, horizon): NaN where the point, or ``least`` of its errors, are unknown."""
    steps = len(values)
    target = np.arange(steps)[:, None] + np.arange(1, plan.horizon + 1)
    ahead = np.where(target < steps, values[np.minimum(target, steps - 1)], np.nan)
    tops, ends = np.maximum.accumulate(points, axis=1), [h - 1 for h in plan.horizons]
    seen_tops = np.maximum.accumulate(ahead, axis=1)
    horizons = np.arange(1, plan.horizon + 1)
    return Forecasts(
        _quantiles(points, ahead - points, horizons, at, least),
        _quantiles(tops[:, ends], (seen_tops - tops)[:, ends], horizons[ends], at, least),
    )


def _quantiles(points: Array, errors: Array, horizons: Steps, at: Steps, least: int) -> Array:
    """Points plus quantiles of the errors known at each origin, (origins, horizons, levels)."""
    found = np.empty((len(at), len(horizons), len(ALL_LEVELS)))
    # Row r of ``late`` holds the errors that become known at step r: those of a forecast h steps ahead made at r - h.
    late = np.full_like(errors, np.nan)
    for k, h in enumerate(horizons.tolist()):
        late[h:, k] = errors[:-h, k]
    for o, origin in enumerate(at.tolist()):
        window = late[max(origin - RESIDUALS + 1, 0) : origin + 1].T
        found[o] = np.maximum(points[origin][:, None] + _row_quantiles(window, least), 0.0)
    return found


def _row_quantiles(rows: Array, least: int) -> Array:
    """Quantiles at ``ALL_LEVELS`` of the known values of each row, linear between order statistics; 0 for a row without
    any, NaN for one with fewer than ``least``."""
    ordered = np.sort(rows, axis=1)  # NaN last
    number = (~np.isnan(rows)).sum(axis=1)[:, None]
    position = ALL_LEVELS * np.maximum(number - 1, 0)
    below = position.astype(np.int64)
    left = np.take_along_axis(ordered, below, axis=1)
    right = np.take_along_axis(ordered, np.minimum(below + 1, np.maximum(number - 1, 0)), axis=1)
    found = np.where(number > 0, left + (position - below) * (right - left), 0.0)
    return np.where(number >= least, found, np.nan)


def _or_else(forecasts: Forecasts, other: Forecasts) -> Forecasts:
    return Forecasts(
        np.where(np.isnan(forecasts.values), other.values, forecasts.values),
        np.where(np.isnan(forecasts.peaks), other.peaks, forecasts.peaks),
    )
