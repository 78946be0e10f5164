"""Shapes: how the rate of a load changes over time. Each is a factor, and the shapes of a service multiply.

Seconds count from the start of the load; times of day and days of the week are UTC.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Final

import numpy as np
from msgspec import Meta

from smartscale.clock import MICROS
from smartscale.producer.parts import NotNegative, Part, Positive, Seconds, Share, lasting
from smartscale.producer.rates import RateCurve, Rates

Factor = Callable[[Rates], Rates]
"""The factor at each instant, given in seconds since the start of the load; same shape."""

DAY_S: Final = 86_400.0
WEEK_S: Final = 7 * DAY_S
_MONDAY_S: Final = 4 * DAY_S
"""1970-01-05 was a Monday."""


class Constant(Part, frozen=True, tag_field="kind", tag="constant"):
    """The same factor throughout."""

    factor: NotNegative


class Diurnal(Part, frozen=True, tag_field="kind", tag="diurnal"):
    """A wave a day around 1: 1 + amplitude at ``peak``, 1 - amplitude twelve hours later."""

    peak: Annotated[str, Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")] = "14:00"
    amplitude: Share = 0.5


class Weekly(Part, frozen=True, tag_field="kind", tag="weekly"):
    """A factor for each day, Monday first, reached at its noon; from noon to noon in a straight line."""

    days: Annotated[tuple[NotNegative, ...], Meta(min_length=7, max_length=7)] = (1, 1, 1, 1, 1, 0.6, 0.5)


class Ramp(Part, frozen=True, tag_field="kind", tag="ramp"):
    """1 until ``start``, then in a straight line to ``to`` within ``duration``, and there from then on."""

    to: NotNegative
    duration: Seconds
    start: Seconds = lasting(0)


class Step(Part, frozen=True, tag_field="kind", tag="step"):
    """From ``start`` on, until ``end`` if that is given, ``factor``."""

    factor: NotNegative
    start: Seconds
    end: Seconds | None = None


class FlashCrowd(Part, frozen=True, tag_field="kind", tag="flash_crowd"):
    """From 1 to ``peak`` within ``rise``, then back: the excess decays to 1/e in each ``decay``.

    Ari et al., "Managing flash crowds on the Internet" (2003), describe them by ramp up, plateau and ramp down; here the
    plateau is left out and the decay exponential, chosen because interest that wanes does so by a share a minute."""

    peak: Annotated[float, Meta(ge=1)]
    start: Seconds
    rise: Seconds = lasting(30)
    decay: Seconds = lasting(300)


class Sine(Part, frozen=True, tag_field="kind", tag="sine"):
    """A wave around 1 that begins at ``start``: ``1 + amplitude * sin(2 pi (t - start) / period)``."""

    amplitude: Share
    period: Seconds
    start: Seconds = lasting(0)


class Curve(Part, frozen=True, tag_field="kind", tag="curve"):
    """The rates of a CSV with columns ``timestamp`` and ``column``, beside the scenario; its largest is 1.

    It begins with the load, whatever its own dates, ``speed`` times as fast, and again once it is over."""

    file: Annotated[str, Meta(min_length=1)]
    column: str = "requests"
    speed: Positive = 1.0


Shape = Constant | Diurnal | Weekly | Ramp | Step | FlashCrowd | Sine | Curve


def factor(shape: Shape, start_us: int, curves: Mapping[Curve, RateCurve]) -> Factor:
    """The factor of a shape in a load whose time of day is that of ``start_us``; ``curves`` has its file, read."""
    start_s = start_us / MICROS
    match shape:
        case Constant():
            return lambda t: np.full_like(t, shape.factor)
        case Diurnal():
            hours, minutes = map(int, shape.peak.split(":"))
            peak_s = hours * 3600.0 + minutes * 60.0 - start_s % DAY_S
            return lambda t: 1 + shape.amplitude * np.cos(2 * math.pi * (t - peak_s) / DAY_S)
        case Weekly():
            offset_s = (start_s - _MONDAY_S) % WEEK_S
            noons = (np.arange(-1, 8) + 0.5) * DAY_S
            days = np.array([shape.days[-1], *shape.days, shape.days[0]])
            return lambda t: np.interp((t + offset_s) % WEEK_S, noons, days)
        case Ramp():
            return lambda t: np.interp(t, [shape.start, shape.start + shape.duration], [1.0, shape.to])
        case Step():
            end_s = math.inf if shape.end is None else shape.end
            return lambda t: np.where((t >= shape.start) & (t < end_s), shape.factor, 1.0)
        case FlashCrowd():
            return lambda t: 1 + (shape.peak - 1) * crowd(t - shape.start, shape.rise, shape.decay)
        case Sine():
            return lambda t: 1 + shape.amplitude * np.sin(2 * math.pi * (t - shape.start) / shape.period)
        case Curve():
            return _repeated(curves[shape], shape.speed)


def crowd(since: Rates, rise_s: float, decay_s: float) -> Rates:
    """How much of a flash crowd is there, 0 to 1, this many seconds after it began; 0 before."""
    risen = np.clip(since / rise_s, 0.0, 1.0) if rise_s else (since >= 0).astype(np.float64)
    return risen * np.exp(-np.maximum(since - rise_s, 0.0) / decay_s)


def _repeated(curve: RateCurve, speed: float) -> Factor:
    length_us, largest = curve.end_us - curve.start_us, curve.peak_per_s

    def at(t: Rates) -> Rates:
        us = np.rint(t * speed * MICROS).astype(np.int64) % length_us
        return curve.rate_at(curve.start_us + us) / largest

    return at
