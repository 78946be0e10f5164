"""How fast and how far replicas may change: stabilisation windows, rate policies and bounds.

The rules of the Kubernetes HorizontalPodAutoscaler, version 1.33, to the letter
(``pkg/controller/podautoscaler/horizontal.go``: the functions named below):

1. Of the recommendations younger than the scale-up window the lowest, of those younger than the scale-down
   window the highest, and the present one in both, make a band; the current count is moved into it.
2. Each rate policy allows a change counted from the count at the start of its period; ``selectPolicy`` takes the
   policy that allows the largest or the smallest change, or forbids any.
3. Bounds.

Everything is a pure function of its arguments. Times are world time in microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from smartscale.clock import MICROS
from smartscale.control.policy import Rules


class At(msgspec.Struct, frozen=True, array_like=True):
    """A number of replicas (recommended, added or removed) at an instant."""

    time_us: int
    replicas: int


def stabilise(
    current: int, recommended: int, history: Sequence[At], now_us: int, up: Rules, down: Rules
) -> int:
    """The count after both look-back windows (``stabilizeRecommendationWithBehaviors``).

    A recommendation counts while it is strictly younger than the window."""
    up_cutoff = now_us - (up.stabilization_window_seconds or 0) * MICROS
    down_cutoff = now_us - (down.stabilization_window_seconds or 0) * MICROS
    lowest = min([recommended, *(r.replicas for r in history if r.time_us > up_cutoff)])
    highest = max([recommended, *(r.replicas for r in history if r.time_us > down_cutoff)])
    return min(max(current, lowest), highest)


def up_limit(current: int, ups: Sequence[At], downs: Sequence[At], rules: Rules, now_us: int) -> int:
    """The most replicas that the scale-up policies allow now, never below ``current``
    (``calculateScaleUpLimitWithScalingRules``)."""
    if rules.select_policy == "Disabled":
        return current
    allowed = []
    for rate in rules.policies or []:
        start = _at_period_start(current, ups, downs, rate.period_seconds, now_us)
        allowed.append(
            start + rate.value if rate.type == "Pods" else math.ceil(start * (1 + rate.value / 100))
        )
    return max(current, min(allowed) if rules.select_policy == "Min" else max(allowed))


def down_limit(current: int, ups: Sequence[At], downs: Sequence[At], rules: Rules, now_us: int) -> int:
    """The fewest replicas that the scale-down policies allow now, never above ``current``
    (``calculateScaleDownLimitWithBehaviors``)."""
    if rules.select_policy == "Disabled":
        return current
    allowed = []
    for rate in rules.policies or []:
        start = _at_period_start(current, ups, downs, rate.period_seconds, now_us)
        allowed.append(start - rate.value if rate.type == "Pods" else int(start * (1 - rate.value / 100)))
    return min(current, max(allowed) if rules.select_policy == "Min" else min(allowed))


def _at_period_start(current: int, ups: Sequence[At], downs: Sequence[At], period_s: int, now_us: int) -> int:
    """Replicas when the period began: the scale events since are taken back (``getReplicasChangePerPeriod``)."""
    cutoff = now_us - period_s * MICROS
    added = sum(event.replicas for event in ups if event.time_us > cutoff)
    removed = sum(event.replicas for event in downs if event.time_us > cutoff)
    return current - added + removed


class Limited(msgspec.Struct, frozen=True):
    """A count after rates and bounds, and the condition that says which of them held it."""

    replicas: int
    limited: bool
    reason: str
    message: str


WITHIN = "DesiredWithinRange"


def limit(
    current: int,
    wanted: int,
    ups: Sequence[At],
    downs: Sequence[At],
    bounds: tuple[int, int],
    rules: tuple[Rules, Rules],
    now_us: int,
) -> Limited:
    """The count after rate policies and bounds (``convertDesiredReplicasWithBehaviorRate``).

    ``bounds`` are least and most replicas, ``rules`` those for up and down."""
    least, most = bounds
    up, down = rules
    if wanted > current:
        allowed = up_limit(current, ups, downs, up, now_us)
        top = min(most, allowed)
        if wanted > top:
            if most > allowed:
                return Limited(
                    top, True, "ScaleUpLimit", f"the scale-up policies allow {allowed} replicas now"
                )
            return Limited(top, True, "TooManyReplicas", f"maxReplicas is {most}")
    elif wanted < current:
        allowed = down_limit(current, ups, downs, down, now_us)
        bottom = max(least, allowed)
        if wanted < bottom:
            if least < allowed:
                return Limited(
                    bottom, True, "ScaleDownLimit", f"the scale-down policies allow {allowed} replicas now"
                )
            return Limited(bottom, True, "TooFewReplicas", f"minReplicas is {least}")
    return Limited(wanted, False, WITHIN, "the desired count is within the acceptable range")
