"""Predict first, learn only when the truth has arrived: our forecaster over one history.

::

    values   v0 v1 v2 … v(o-1) vo │ v(o+1) … v(o+H)
             └──── learned, in order ────┘ └─ forecast at origin o, scored against these

The state at an origin has learned the values up to it, one by one, as in production, and nothing else: no constant, scale
or weight is fitted to the file as a whole. One history is one row, so its forecasts do not depend on other files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from smartscale.errors import UserError
from smartscale.evaluate.forecasts.scores import ALL_LEVELS
from smartscale.history_csv import History
from smartscale.ml.forecast.ensemble import Forecaster

Array = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]

HISTORY_STEPS: Final = 40_320
"""What the forecaster may remember: four weeks of minutes."""
LARGE: Final = 10_000.0
"""Chance alone then moves a step by 1 %."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where forecasts are made and how far ahead."""

    horizons: tuple[int, ...] = (5, 15, 30)
    """Ascending, in steps; forecasts are made for every step up to the last."""
    origins: int = 300
    """At most so many, evenly spaced."""
    warm_up: float = 0.25
    """Share of the history that is only learned."""
    history_steps: int = HISTORY_STEPS

    @property
    def horizon(self) -> int:
        return self.horizons[-1]


@dataclass(frozen=True, slots=True)
class Forecasts:
    """Quantiles in the unit of the history: ``values`` (origins, horizon, levels) of every step ahead, ``peaks`` (origins,
    horizons, levels) of the maximum until each horizon of the plan. Levels are ``ALL_LEVELS``."""

    values: Array
    peaks: Array


def origins(values: Array, plan: Plan) -> Steps:
    """The steps at which forecasts are made, ascending: evenly spaced from the end of the warm-up to the last whose whole
    horizon is in the history; where that is a gap, the last step with a value before it.

    Raises ``UserError`` if the history is too short for any."""
    first = max(int(np.ceil(plan.warm_up * len(values))), 1)
    last = len(values) - 1 - plan.horizon
    known = np.flatnonzero(~np.isnan(values))
    known = known[known <= last]
    if last < first or not len(known):
        raise UserError(
            f"has {len(values)} steps: too few for a warm-up of {plan.warm_up:.0%} and {plan.horizon} steps ahead; "
            "give a longer history or shorter --horizons"
        )
    even = np.unique(np.linspace(first, last, plan.origins).round().astype(np.int64))
    before = np.searchsorted(known, even, side="right") - 1
    return np.unique(known[before[before >= 0]])


def truth(values: Array, at: Steps, horizon: int) -> Array:
    """What came after each origin, (origins, horizon); NaN where that is a gap."""
    ahead: Array = values[at[:, None] + np.arange(1, horizon + 1)]
    return ahead


def roll(history: History, plan: Plan, at: Steps, progress: Callable[[int], None] | None = None) -> Forecasts:
    """Our forecasts at the origins ``at``. ``progress`` is told how many steps are learned, now and then."""
    forecaster = Forecaster(history.step_s, plan.horizon, plan.history_steps, ALL_LEVELS)
    state = forecaster.fresh(1)
    unit = one_a_second(history, int(at[0]))
    rates, wanted = history.values / unit, set(at.tolist())
    # The number of a step is that of the pipeline: whole steps from the epoch to its end.
    number = history.first_us // history.step_us + 1
    values, peaks = [], []
    ends = [h - 1 for h in plan.horizons]
    for step in range(int(at[-1]) + 1):
        forecaster.learn(state, number + step, rates[step : step + 1])
        if step in wanted:
            made = forecaster.forecast(state, state.memory, number + step)
            values.append(made.values[0])
            peaks.append(made.peaks[0, ends])
        if progress is not None and step % 1000 == 0:
            progress(step)
    return Forecasts(np.stack(values) * unit, np.stack(peaks) * unit)


def one_a_second(history: History, until: int) -> float:
    """What one event a second is in the history's values, judged by its steps 0 to ``until``.

    The forecaster works on counts, whose chance it knows. Values that are mostly no whole numbers, and not said to be rates,
    are none (a share, a load in units of its own): they are taken as if a step held ``LARGE`` events on average, so that
    chance is small and the series shows its own."""
    known = history.values[: until + 1]
    known = known[~np.isnan(known)]
    if history.kind == "rates" or 2 * np.count_nonzero(known == np.round(known)) >= len(known):
        return history.unit
    return float(known.mean()) / LARGE * history.step_s
