"""The methods that a series' forecast is mixed from."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Final

from smartscale.errors import ConfigError
from smartscale.ml.forecast.baselines import Drift, Mean, Naive, Trend
from smartscale.ml.forecast.boosting import Boosting
from smartscale.ml.forecast.period import Periodic
from smartscale.ml.forecast.protocol import Method, Rung
from smartscale.ml.forecast.regression import Regression
from smartscale.ml.forecast.seasonal import Seasonal, SeasonalTrend

DAY_S: Final = 86_400.0
WEEK_S: Final = 7 * DAY_S
SMOOTH_S: Final = DAY_S / 288
"""A season is smoothed over five minutes to either side."""


Factory = Callable[[float, int, int], Method]
"""Makes a method for series of a step in seconds, a horizon and a history in steps."""
_ENROLLED: dict[str, Factory] = {}


def enrol(names: Sequence[str]) -> None:
    """Let methods of third parties join every pool made from now on: ``MODULE:NAME`` of a class or function that is called
    with ``step_s``, ``horizon`` and ``history_steps``. Named twice, it joins once.

    Raises ``ConfigError`` for what cannot be imported or is no method."""
    for name in names:
        module, _, attribute = name.partition(":")
        try:
            factory = getattr(importlib.import_module(module), attribute)
            made = factory(60.0, 30, 1440)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"ml.methods: {name!r} cannot be made: {error}; give MODULE:NAME of something called with step_s, horizon "
                "and history_steps, in a module on PYTHONPATH"
            ) from error
        if not isinstance(made, Method):
            raise ConfigError(
                f"ml.methods: {name!r} makes a {type(made).__name__}, which is no forecast Method"
            )
        _ENROLLED[name] = factory


def pool(step_s: float, horizon: int, history_steps: int, boosting: bool = False) -> tuple[Method, ...]:
    """The methods for series of this step: a season joins where the history is long enough to hold it, ``boosting`` if it
    is asked for, and those enrolled. Raises ``ConfigError`` if two have one name."""
    day, week = (_steps(period_s, step_s, history_steps) for period_s in (DAY_S, WEEK_S))
    half = int(SMOOTH_S / step_s)
    seasons: list[Method] = []
    for name, period, on in (("day", day, Rung.DAILY), ("week", week, Rung.WEEKLY)):
        if period:
            seasons += [
                Seasonal(name, period, half, False, on),
                Seasonal(f"{name}-level", period, half, True, on),
            ]
    if day:
        seasons.append(SeasonalTrend("day-trend", day, half, Rung.DAILY))
    methods = (
        Naive(),
        Drift(),
        Mean("mean-fast", 0.5),
        Mean("mean", 0.2),
        Mean("mean-slow", 0.05),
        Trend("trend-fast", alpha=0.5, beta=0.3, phi=0.95),
        Trend("trend", alpha=0.3, beta=0.1, phi=0.98),
        *seasons,
        Periodic(known=(day, week)),
        Regression(horizon, day, week, half),
        *(make(step_s, horizon, history_steps) for make in _ENROLLED.values()),
        *([Boosting(step_s, horizon, history_steps, day, week, half)] if boosting else []),
    )
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise ConfigError(f"ml.methods: two methods have one name: {', '.join(sorted(names))}; rename yours")
    return methods


def _steps(period_s: float, step_s: float, history_steps: int) -> int:
    """The period in steps, 0 if it is not a whole number of at least 4 or the history cannot hold it."""
    period = period_s / step_s
    return int(period) if period == int(period) and 4 <= period <= history_steps else 0
