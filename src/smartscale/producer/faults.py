"""Faults: what goes wrong on purpose, when, how much, and what a detector should call it.

A fault is in effect over ``[start, start + duration)``, in seconds from the start of the load; a level shift, and any
fault without a duration, until the load's end. ``services`` are the names it concerns; none given: all.
"""

from __future__ import annotations

import math
from typing import Annotated, Final

import numpy as np
from msgspec import Meta

from smartscale.producer.parts import Label, Part, Positive, Seconds, Share, lasting
from smartscale.producer.rates import Rates
from smartscale.producer.shapes import crowd
from smartscale.records import forecasts

NOTHING: Final = "none"
"""The class of what must not be told at all."""


class Fault(Part, frozen=True):
    """What all faults have."""

    start: Seconds
    duration: Annotated[Seconds | None, Meta(description="None: to the end of the load.")] = None
    services: tuple[Label, ...] = ()

    @property
    def end_s(self) -> float:
        return math.inf if self.duration is None else self.start + self.duration

    def concerns(self, service: str) -> bool:
        return not self.services or service in self.services

    def active(self, since_s: Rates) -> Rates:
        """1.0 while it is in effect, else 0.0."""
        return ((since_s >= self.start) & (since_s < self.end_s)).astype(np.float64)


class ErrorSpike(Fault, frozen=True, tag_field="kind", tag="error_spike"):
    """``size`` is added to the probability that a request fails: 0.2 are 20 points."""

    size: Share = 0.2


class LatencyStep(Fault, frozen=True, tag_field="kind", tag="latency_step"):
    """Requests take ``size`` times as long."""

    size: Positive = 3.0


class SlowLeak(Fault, frozen=True, tag_field="kind", tag="slow_leak"):
    """Latency grows by ``size`` of its normal each minute (0.01: 1 % a minute), until the restart at the end."""

    size: Positive = 0.01


class DropToZero(Fault, frozen=True, tag_field="kind", tag="drop_to_zero"):
    """No request arrives."""


class RetryStorm(Fault, frozen=True, tag_field="kind", tag="retry_storm"):
    """``size`` more requests fail, and whoever fails tries again, up to ``retries`` times, after about ``delay``.

    With failing probability p and r retries arrivals multiply by 1 + p + ... + p^r."""

    size: Share = 0.5
    retries: Annotated[int, Meta(ge=1, le=20)] = 3
    delay: Seconds = lasting(1)


class Surge(Fault, frozen=True, tag_field="kind", tag="surge"):
    """``size`` times the demand, at once and as suddenly over."""

    size: Positive = 3.0


class FlashCrowd(Fault, frozen=True, tag_field="kind", tag="flash_crowd"):
    """Up to ``size`` times the demand within ``rise``, then a slow decay, of which 5 % are left at the end. It needs a
    ``duration``."""

    size: Annotated[float, Meta(ge=1)] = 3.0
    rise: Seconds = lasting(30)


class LevelShift(Fault, frozen=True, tag_field="kind", tag="level_shift"):
    """From now on ``size`` times the rate, or the latency: the new normal."""

    size: Positive = 1.5
    of: Annotated[str, Meta(pattern="^(rate|latency)$")] = "rate"


class ClockSkew(Fault, frozen=True, tag_field="kind", tag="clock_skew"):
    """The service's clock is ``size`` seconds fast (slow, if negative): events carry a wrong time."""

    size: float = -30.0


class Duplicates(Fault, frozen=True, tag_field="kind", tag="duplicates"):
    """A share ``size`` of the events is sent twice, with the same id, the second time after ``delay``."""

    size: Share = 0.2
    delay: Seconds = lasting(1)


class LateEvents(Fault, frozen=True, tag_field="kind", tag="late_events"):
    """A share ``size`` of the events is held back and sent after ``delay``."""

    size: Share = 0.2
    delay: Seconds = lasting(10)


class DataGap(Fault, frozen=True, tag_field="kind", tag="data_gap"):
    """The sender is silent: what happens is not told, or only its metrics are not (``of: metrics``)."""

    of: Annotated[str, Meta(pattern="^(all|metrics)$")] = "all"


AnyFault = (
    ErrorSpike | LatencyStep | SlowLeak | DropToZero | RetryStorm | Surge | FlashCrowd | LevelShift
    | ClockSkew | Duplicates | LateEvents | DataGap
)  # fmt: skip

CLASSES: Final[dict[type[Fault], str]] = {
    ErrorSpike: forecasts.FAULT,
    LatencyStep: forecasts.FAULT,
    SlowLeak: forecasts.FAULT,
    RetryStorm: forecasts.FAULT,
    Surge: forecasts.DEMAND_SURGE,
    FlashCrowd: forecasts.DEMAND_SURGE,
    LevelShift: forecasts.LEVEL_SHIFT,
    DropToZero: forecasts.DATA_GAP,
    DataGap: forecasts.DATA_GAP,
    LateEvents: forecasts.DATA_GAP,
    ClockSkew: forecasts.DATA_GAP,
    Duplicates: NOTHING,
}
"""The class of incident that each should be told as, as control acts on it: scale on a surge, hold on a fault or a gap,
learn anew after a shift. A drop to zero is evidence that something is wrong, not a reason to scale in. Repeated events
are counted once, so nothing is to be seen."""


def kind(fault: Fault) -> str:
    """The name that the file gives it."""
    return str(fault.__struct_config__.tag)


def size(fault: AnyFault) -> float | None:
    """How large it is, in the unit of its kind; None if it is whole."""
    found = getattr(fault, "size", None)
    return None if found is None else float(found)


def demand_factor(fault: AnyFault, since_s: Rates) -> Rates:
    """What the fault does to the demand at each instant, as a factor."""
    match fault:
        case Surge() | LevelShift(of="rate"):
            return 1 + (fault.size - 1) * fault.active(since_s)
        case FlashCrowd():
            left_s = fault.end_s - fault.start - fault.rise
            risen = crowd(since_s - fault.start, fault.rise, left_s / 3)  # exp(-3) is 5 %
            return 1 + (fault.size - 1) * risen * fault.active(since_s)
        case DropToZero():
            return 1 - fault.active(since_s)
        case _:
            return np.ones_like(since_s)


def latency_factor(fault: AnyFault, since_s: Rates) -> Rates:
    """What the fault does to latency at each instant, as a factor."""
    match fault:
        case LatencyStep() | LevelShift(of="latency"):
            return 1 + (fault.size - 1) * fault.active(since_s)
        case SlowLeak():
            return 1 + fault.size * (since_s - fault.start) / 60 * fault.active(since_s)
        case _:
            return np.ones_like(since_s)


def failing_points(fault: AnyFault, since_s: Rates) -> Rates:
    """What the fault adds to the probability of failing at each instant."""
    if isinstance(fault, ErrorSpike | RetryStorm):
        return fault.size * fault.active(since_s)
    return np.zeros_like(since_s)
