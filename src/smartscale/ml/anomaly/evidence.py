"""How strange one step of every service is, kind by kind.

Each kind has a p-value, the chance of something as extreme if all is as it was, and an **effect**, how many
times the usual it is. A kind is *raised* when the p-value is small enough and the effect large enough to be worth
waking for: with enough traffic, every difference is significant. ``RULES`` is the whole table.

========  =====================================================================================================
surge     demand above what was forecast for this step (tail of the calibrated one-step residuals)
drop      demand below it
zero      nothing at all, or no row, where something was sure
errors    more errors than the service's own past explains: binomial tail at the upper 97.5 % bound of its
          error rate (Clopper and Pearson 1934: the bound is a beta quantile)
latency   log p99 above its own running level: Laplace tail, as p99 is heavier than normal
========  =====================================================================================================

The probability of an anomaly follows from the p-value by the bound of Sellke, Bayarri and Berger (2001): the Bayes
factor in favour of "as usual" is at least ``-e p ln p``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

SURGE: Final = "surge"
DROP: Final = "drop"
ZERO: Final = "zero"
ERRORS: Final = "errors"
LATENCY: Final = "latency"


class Rule(NamedTuple):
    """Raised at a p-value up to ``p`` with an effect of at least ``effect``; believed after ``steps`` steps beyond
    the band, or at once from the effect ``strong`` on."""

    p: float
    effect: float
    steps: int
    strong: float


RULES: Final = {
    # p: a raised service-day has 8,640 steps of 10 s; 2e-5 and an effect of 1.3 leave chance under one a week.
    SURGE: Rule(p=2e-5, effect=1.3, steps=2, strong=1.8),
    DROP: Rule(p=1e-3, effect=1 / 0.7, steps=6, strong=np.inf),
    ZERO: Rule(p=1e-3, effect=1.0, steps=1, strong=1.0),
    ERRORS: Rule(p=2e-5, effect=0.05, steps=2, strong=0.2),  # effect: points above the usual error rate
    LATENCY: Rule(p=1e-3, effect=1.5, steps=2, strong=np.inf),
}
KINDS: Final = tuple(RULES)

PRIOR: Final = 0.01
"""Share of steps that are out of the ordinary: one in a hundred (our choice; the score is monotone in it)."""
MIN_EVENTS: Final = 10.0
"""Fewer events of difference in a step are never raised."""
MIN_ERRORS: Final = 5
MIN_SAMPLE: Final = 20
"""Fewer requests have no p99 to speak of."""
MEMORY_STEPS: Final = 120.0
"""The baselines of errors and latency fade by 1/e in 20 minutes of 10 s."""
MEMORY_EVENTS: Final = 1000.0
"""Weight of the past error rate, in events at most: errors come in clusters, so more would be overconfident."""


@dataclass(slots=True)
class Baseline:
    """What is usual for each service (first axis), learned from its quiet, final steps."""

    seen: npt.NDArray[np.int64]  # (n,) steps learned
    errors: Array  # (n, 2): discounted errors, events
    latency: Array  # (n, 3): level of log p99, mean absolute deviation, steps with a p99


def fresh(n_services: int) -> Baseline:
    """Services of which nothing is known."""
    return Baseline(np.zeros(n_services, np.int64), np.zeros((n_services, 2)), np.zeros((n_services, 3)))


@dataclass(frozen=True, slots=True)
class Observed:
    """One step of every service, shape (n,). ``demand`` a second (NaN: unknown); ``missing``: no row although the
    window was complete; ``count``, ``errors`` and ``p99_ms`` of its interactions (NaN without any)."""

    demand: Array
    missing: Mask
    count: Array
    errors: Array
    p99_ms: Array


@dataclass(frozen=True, slots=True)
class Demand:
    """What was expected of ``Observed.demand``; see ``ensemble.Surprise``. Shape (n,), NaN where unknown."""

    expected: Array
    low: Array
    high: Array
    p_low: Array
    p_high: Array


@dataclass(frozen=True, slots=True)
class Evidence:
    """Per kind and service. ``score`` (n,) is the probability that the step is out of the ordinary; ``seen``,
    ``low``, ``high`` and ``effect`` per kind as in the module's table; ``raised`` where both bars are passed."""

    score: Array
    seen: dict[str, Array]
    expected: dict[str, Array]
    low: dict[str, Array]
    high: dict[str, Array]
    effect: dict[str, Array]
    raised: dict[str, Mask]


def judge(baseline: Baseline, now: Observed, demand: Demand, step_s: float, warm: Mask) -> Evidence:
    """The evidence of one step. ``warm``: services past their warm-up; the others score 0 and raise nothing."""
    seen = np.where(now.missing, 0.0, now.demand)
    gone = (now.missing | (seen == 0)) & (demand.low > 0) & (demand.expected * step_s >= MIN_EVENTS)
    surge = _ratio(seen, demand.expected)
    drop = np.where(seen > 0, _ratio(demand.expected, seen), 0.0)
    usual_errors, share, p_errors = _errors(baseline, now)
    usual_p99, p_latency = _latency(baseline, now)
    difference = np.abs(seen - demand.expected) * step_s
    none = np.ones(len(seen))

    p = {
        SURGE: np.where(difference >= MIN_EVENTS, demand.p_high, 1.0),
        DROP: np.where((difference >= MIN_EVENTS) & (seen > 0), demand.p_low, 1.0),
        # A Poisson count of mean m is 0 with chance exp(-m), and the lowest expected rate is where to start.
        ZERO: np.where(gone, np.exp(-np.minimum(demand.low * step_s, 700)), 1.0),
        ERRORS: p_errors,
        LATENCY: p_latency,
    }
    effect = {
        SURGE: surge,
        DROP: drop,
        ZERO: none,
        ERRORS: share - usual_errors,
        LATENCY: _ratio(now.p99_ms, usual_p99),
    }
    raised = {
        kind: warm & (p[kind] <= rule.p) & (np.nan_to_num(effect[kind]) >= rule.effect)
        for kind, rule in RULES.items()
    }
    least = np.minimum.reduce([np.nan_to_num(p[kind], nan=1.0) for kind in KINDS])
    zero, high_share = np.zeros(len(seen)), usual_errors + RULES[ERRORS].effect
    return Evidence(
        score=np.where(warm, probability(np.minimum(least * len(KINDS), 1.0)), 0.0),
        seen={SURGE: seen, DROP: seen, ZERO: seen, ERRORS: share, LATENCY: now.p99_ms},
        expected={
            **dict.fromkeys((SURGE, DROP, ZERO), demand.expected),
            ERRORS: usual_errors,
            LATENCY: usual_p99,
        },
        low={**dict.fromkeys((SURGE, DROP, ZERO), demand.low), ERRORS: zero, LATENCY: zero},
        high={
            **dict.fromkeys((SURGE, DROP, ZERO), demand.high),
            ERRORS: high_share,
            LATENCY: usual_p99 * RULES[LATENCY].effect,
        },
        effect=effect,
        raised=raised,
    )


def learn(baseline: Baseline, now: Observed, quiet: Mask) -> Baseline:
    """The baseline after one final step. Steps that are part of an incident (not ``quiet``) are not usual."""
    known = quiet & ~np.isnan(now.count)
    fade = np.exp(-1 / MEMORY_STEPS)
    grown = baseline.errors * fade + np.stack([now.errors, now.count], axis=1)
    grown = grown * np.minimum(1.0, MEMORY_EVENTS / np.maximum(grown[:, 1:], 1.0))
    level, deviation, steps = baseline.latency.T
    timed = known & (now.p99_ms > 0) & (now.count >= MIN_SAMPLE)
    log = np.log(np.where(timed, now.p99_ms, 1.0))
    gain = np.maximum(1 / MEMORY_STEPS, 1 / (steps + 1))
    moved = np.stack(
        [level + gain * (log - level), deviation + gain * (np.abs(log - level) - deviation), steps + 1],
        axis=1,
    )
    moved[:, 1] = np.where(steps == 0, 0.0, moved[:, 1])
    return Baseline(
        seen=baseline.seen + (~np.isnan(now.demand)),
        errors=np.where(known[:, None], grown, baseline.errors),
        latency=np.where(timed[:, None], moved, baseline.latency),
    )


def probability(p: Array) -> Array:
    """Probability of an anomaly from a p-value.

    >>> probability(np.array([1.0, 1e-3, 1e-5])).round(2).tolist()
    [0.01, 0.35, 0.97]
    """
    small = np.clip(p, 1e-300, np.exp(-1))
    factor = -np.e * small * np.log(small)
    return np.asarray(1 / (1 + factor * (1 - PRIOR) / PRIOR), np.float64)


def _ratio(a: Array, b: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(a / b, np.float64)


def _errors(baseline: Baseline, now: Observed) -> tuple[Array, Array, Array]:
    """Usual error rate, this step's, and the p-value of as many errors."""
    errors, events = baseline.errors.T
    usual = (errors + 0.5) / (events + 1.0)
    bound = special.betaincinv(errors + 0.5, np.maximum(events - errors, 0.0) + 0.5, 0.975)
    enough = (now.errors >= MIN_ERRORS) & (baseline.seen > 0)
    k, n = np.where(enough, now.errors, 1.0), np.where(enough, now.count, 1.0)
    # P(X >= k) of a binomial (n, bound) is the regularised incomplete beta function I_bound(k, n - k + 1).
    tail = special.betainc(k, n - k + 1, bound)
    return usual, _ratio(now.errors, now.count), np.where(enough, tail, 1.0)


def _latency(baseline: Baseline, now: Observed) -> tuple[Array, Array]:
    """Usual p99 in milliseconds, and the p-value of one as high."""
    level, deviation, steps = baseline.latency.T
    known = (now.p99_ms > 0) & (now.count >= MIN_SAMPLE) & (steps >= 6)
    usual = np.where(steps > 0, np.exp(level), np.nan)
    # A p99 of n requests has about n / 100 above it; its own noise is taken as at least a tenth.
    spread = np.maximum(1.2533 * deviation, 0.1)
    z = np.where(known, (np.log(np.where(known, now.p99_ms, 1.0)) - level) / spread, 0.0)
    tail = 0.5 * np.exp(-np.sqrt(2) * np.maximum(z, 0.0))
    return usual, np.where(known & (z > 0), tail, 1.0)
