"""Demand: how many replicas a load asks for, now and over the lead time.

Reactive and predictive demand use the same formula, so an explanation needs only one: replicas so that the load
fits into ``capacityPerReplica * targetUtilization`` each. Scaling load and capacity together changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from smartscale.clock import MICROS, iso

SLACK = 1e-9
"""Relative. A quotient this little above a whole number is that number: floats of one ratio may differ by a few
units in the last place (2e-16 each), and never by this much."""


class DemandRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """The newest window of the demand series. ``load`` in events a second; ``series`` is ``rate`` or ``arrivals``
    (or another metric's name); ``row`` identifies the metrics row."""

    series: str
    row: str
    load: float
    end_us: int
    revision: int
    complete: bool
    final: bool = False


class Peaks(msgspec.Struct, frozen=True, omit_defaults=True):
    """The part of a forecast that decides: ``peaks[h][q]`` is the quantile ``levels[q]`` of the maximum load over
    steps 1 to h + 1 after ``origin_us``. ``influence`` in [0, 1] is what it counts for, because of its live
    ``coverage`` (of the 90 % band) and ``skill`` (1 - loss / loss of the naive forecast)."""

    series: str
    origin_us: int
    step_s: float
    levels: list[float]
    peaks: list[list[float]]
    influence: float = 1.0
    coverage: float | None = None
    skill: float | None = None


class Peak(msgspec.Struct, frozen=True):
    """A forecast maximum: ``load`` is not exceeded before ``until_us`` with probability ``quantile``."""

    load: float
    quantile: float
    until_us: int
    detail: str


def replicas_for(load: float, capacity: float, utilization: float) -> int:
    """Replicas so that each is busy at most the target fraction: ceil(load / (capacity * utilization)).

    >>> replicas_for(300, capacity=50, utilization=0.75)
    8
    >>> replicas_for(0, capacity=50, utilization=0.75)
    0
    """
    return math.ceil(load / (capacity * utilization) * (1 - SLACK))


def peak_over(forecast: Peaks, until_us: int, quantile: float) -> Peak | None:
    """The forecast maximum up to ``until_us`` at ``quantile``, levels interpolated; None for an empty forecast.

    Beyond the last level the last one is taken, beyond the horizon its end, and ``detail`` says so."""
    if not forecast.peaks or not forecast.levels:
        return None
    wanted = math.ceil((until_us - forecast.origin_us) / (forecast.step_s * MICROS) - SLACK)
    step = min(max(wanted, 1), len(forecast.peaks))
    used = min(max(quantile, forecast.levels[0]), forecast.levels[-1])
    load = interpolate(forecast.levels, forecast.peaks[step - 1], used)
    end_us = forecast.origin_us + round(step * forecast.step_s * MICROS)
    detail = f"quantile {used:g} of the peak of {forecast.series} until {iso(end_us)} is {load:.4g}/s"
    if used < quantile:
        detail += f" (the forecast knows no level above {used:g})"
    if wanted > len(forecast.peaks):
        detail += " (the lead time ends after the forecast's horizon)"
    return Peak(load, used, end_us, detail)


def weighed(peak: float, load: float, influence: float) -> float:
    """The load to prepare for, when a forecast of ``peak`` counts for ``influence`` beside the present ``load``: a straight
    line from the present load (0) to the forecast (1). A peak below the present load needs no trust.

    >>> weighed(200, 100, 1.0), weighed(200, 100, 0.4), weighed(200, 100, 0.0), weighed(50, 100, 0.4)
    (200.0, 140.0, 100.0, 50.0)
    """
    if influence >= 1 or peak <= load:
        return float(peak)
    return float(load + max(influence, 0.0) * (peak - load))


def trust_in(forecast: Peaks) -> str:
    """What the forecast counts for and why, in words.

    >>> trust_in(Peaks("rate", 0, 10.0, [0.5], [[1.0]], influence=0.4, coverage=0.71, skill=-0.2))
    'the forecast counts for 0.4: coverage 71 %, skill -0.20'
    """
    reasons = []
    if forecast.coverage is not None:
        reasons.append(f"coverage {forecast.coverage * 100:.0f} %")
    if forecast.skill is not None:
        reasons.append(f"skill {forecast.skill:.2f}")
    why = f": {', '.join(reasons)}" if reasons else ""
    return f"the forecast counts for {forecast.influence:.2g}{why}"


def interpolate(levels: Sequence[float], values: Sequence[float], level: float) -> float:
    """The value at ``level`` on the line between its neighbours. ``levels`` ascend and enclose ``level``.

    >>> interpolate([0.5, 0.9], [10.0, 20.0], 0.7)
    15.0
    """
    for (low, low_value), (high, high_value) in zip(
        zip(levels, values, strict=True), zip(levels[1:], values[1:], strict=True), strict=False
    ):
        if low <= level <= high:
            share = (level - low) / (high - low) if high > low else 1.0
            return low_value + share * (high_value - low_value)
    return values[-1] if level >= levels[-1] else values[0]
