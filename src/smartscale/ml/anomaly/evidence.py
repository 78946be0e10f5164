"""How strange one step of every service is, kind by kind.

Each kind has a p-value, the chance of something as extreme if all is as it was, and an **effect**, how many
times the usual it is. A kind is *raised* when the p-value is small enough and the effect large enough to be worth
waking for: with enough traffic, every difference is significant. ``RULES`` is the whole table.

========  =====================================================================================================
surge     demand above what was forecast for this step, and above what it was lately, so that a forecast gone astray is
          no alarm: residual of square roots (Anscombe 1948), in units of its own spread
drop      demand below it
zero      nothing at all, or no row, where something was sure
errors    more errors than the service's own past explains: binomial tail at the upper 97.5 % bound of its
          error rate (Clopper and Pearson 1934: the bound is a beta quantile)
latency   log p99 above its own running level
median    log p50 above its own running level: less noisy than a p99, so it tells a change of all requests sooner
creep     log p50, smoothed over minutes, above what it was for the last hours *at this demand*: a slow leak
gauge     one of its system metrics (CPU, memory, a queue) above its own running level
combined  an isolation forest finds that rate, errors, latency and gauges do not belong together (``forest``)
========  =====================================================================================================

The p-value of every score is that of its own past (``tails``), so a service that is always noisy has to be
noisier to be raised. The probability of an anomaly follows from the p-value by the bound of Sellke, Bayarri and
Berger (2001): the Bayes factor in favour of "as usual" is at least ``-e p ln p``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from smartscale.ml.anomaly import calibration, tails

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

SURGE: Final = "surge"
DROP: Final = "drop"
ZERO: Final = "zero"
ERRORS: Final = "errors"
LATENCY: Final = "latency"
MEDIAN: Final = "median"
CREEP: Final = "creep"
GAUGE: Final = "gauge"
COMBINED: Final = "combined"


class Rule(NamedTuple):
    """Raised at a p-value up to ``p`` with an effect of at least ``effect``; believed after ``steps`` steps beyond
    the band, or at once from the effect ``strong`` on."""

    p: float
    effect: float
    steps: int
    strong: float


RULES: Final = {
    # p: a service-day has 8,640 steps of 10 s; the effect and a second step leave chance far under one a week.
    SURGE: Rule(p=2e-5, effect=1.3, steps=2, strong=1.8),
    DROP: Rule(p=1e-3, effect=1 / 0.7, steps=6, strong=np.inf),
    ZERO: Rule(p=1e-3, effect=1.0, steps=1, strong=1.0),
    ERRORS: Rule(p=1e-4, effect=0.05, steps=2, strong=0.2),  # effect: points above the usual error rate
    LATENCY: Rule(p=1e-4, effect=1.5, steps=3, strong=np.inf),
    MEDIAN: Rule(p=1e-4, effect=1.5, steps=3, strong=np.inf),
    CREEP: Rule(p=1e-4, effect=1.12, steps=3, strong=np.inf),
    GAUGE: Rule(p=1e-5, effect=1.5, steps=3, strong=np.inf),
    COMBINED: Rule(p=1e-3, effect=1.3, steps=3, strong=np.inf),  # effect: times the usual isolation score
}
KINDS: Final = tuple(RULES)

GROUPS: Final = ((SURGE, DROP, ZERO), (ERRORS,), (LATENCY, MEDIAN, CREEP), (GAUGE,), (COMBINED,))
"""Kinds that see the same thing count once, as the strongest of them."""
MIN_EVENTS: Final = 10.0
"""Fewer events of difference in a step are never raised."""
MIN_ERRORS: Final = 5
MIN_SAMPLE: Final = 20
"""Fewer requests have no p99 to speak of."""
MEMORY_STEPS: Final = 120.0
"""The baselines of errors and latency fade by 1/e in 20 minutes of 10 s."""
MEMORY_EVENTS: Final = 1000.0
"""Weight of the past error rate, in events at most: errors come in clusters, so more would be overconfident."""
SPREAD_STEPS: Final = 720.0
"""Spreads of residuals fade by 1/e in 2 hours of 10 s."""
PRIOR_STEPS: Final = 12.0
"""Weight of a prior spread, in steps."""
BAND: Final = 1e-3
"""The band told with an incident is left upwards, or downwards, with this chance."""

RECENT_STEPS: Final = 12.0
"""What demand was lately fades by 1/e in 2 minutes of 10 s."""
SMOOTH_STEPS: Final = 18.0
"""Creeping latency is smoothed over 3 minutes of 10 s."""
LONG_STEPS: Final = 2160.0
"""And compared with that of 6 hours at the same demand."""
SHRINK_STEPS: Final = 60.0
"""A demand rarely seen borrows the latency of its neighbour, for so many steps."""
WARM_GAUGE: Final = 12
"""Steps before a gauge has a level to speak of."""
LEVELS: Final = 48
"""Demand levels, two an octave from 1/16 a second up."""
CREEP_FROM: Final = 90.0
"""Steps at a demand, at least, before latency there can be told to creep: a quarter of an hour."""

GAUGES: Final = 8
"""System metrics that are watched of a service, at most: the first of which it had a row."""
GAUGE_STEPS: Final = 30.0
"""The level of a gauge fades by 1/e in 5 minutes of 10 s: it may follow demand, only not suddenly."""
OWN: Final = 6
FEATURES: Final = OWN + GAUGES
UP, DOWN, FAILING, P99, P50, CREEPING = range(OWN)
"""Columns of residuals; those of the gauges follow."""
TOGETHER: Final = 6
"""Features of the forest: demand, errors, log p99, log p50, and the highest and lowest gauge."""
PACE: Final = np.array([1, 1, 1, 1, 1, 1 / SMOOTH_STEPS, *[1] * GAUGES])
"""A smoothed value is news once in its span."""
GROWTH: Final = 0.03
"""Prior error of a demand forecast a step, on the square-root scale: 6 % of the rate."""


@dataclass(slots=True)
class Baseline:
    """What is usual for each service (first axis): levels, learned from its quiet, final steps, and how far scores
    stray from them, learned from its quiet steps as judged."""

    seen: npt.NDArray[np.int64]  # (n,) steps learned
    errors: Array  # (n, 2): discounted errors, events
    latency: Array  # (n, 2, 2): of log p99 and log p50: level, steps
    smooth: Array  # (n, 3): log p50 and log2 demand, smoothed over minutes; steps
    usual: Array  # (n, LEVELS, 2): log p50 at each demand over hours, steps there
    gauges: Array  # (n, GAUGES, 2): level, steps
    recent: Array  # (n, 2): demand over the last minutes, steps
    spread: Array  # (n, features, 2): mean absolute residual, steps
    tails: Array  # (n, features, tails.WIDTH)


def fresh(n_services: int) -> Baseline:
    """Services of which nothing is known."""
    n = n_services
    return Baseline(
        seen=np.zeros(n, np.int64),
        errors=np.zeros((n, 2)),
        latency=np.zeros((n, 2, 2)),
        smooth=np.zeros((n, 3)),
        usual=np.zeros((n, LEVELS, 2)),
        gauges=np.zeros((n, GAUGES, 2)),
        recent=np.zeros((n, 2)),
        spread=np.zeros((n, FEATURES, 2)),
        tails=tails.fresh(n, FEATURES),
    )


@dataclass(frozen=True, slots=True)
class Observed:
    """One step of every service, shape (n,). ``demand`` a second (NaN: unknown); ``missing``: no row although the
    window was complete; ``count``, ``errors``, ``p50_ms`` and ``p99_ms`` of its interactions (NaN without any);
    ``gauges`` (n, GAUGES): means of its system metrics in the order of their discovery, NaN where unknown."""

    demand: Array
    missing: Mask
    count: Array
    errors: Array
    p50_ms: Array
    p99_ms: Array
    gauges: Array


@dataclass(frozen=True, slots=True)
class Evidence:
    """Per kind and service. ``score`` (n,) is the probability that the step is out of the ordinary; ``seen``,
    ``low``, ``high`` and ``effect`` per kind as in the module's table; ``raised`` where both bars are passed.
    ``residuals`` and ``spreads`` (n, features): what was seen less what is usual, NaN where unknown."""

    score: Array
    seen: dict[str, Array]
    expected: dict[str, Array]
    low: dict[str, Array]
    high: dict[str, Array]
    effect: dict[str, Array]
    raised: dict[str, Mask]
    p: dict[str, Array]
    strength: dict[str, Array]
    residuals: Array
    spreads: Array
    gauge: npt.NDArray[np.int64]
    """Which of its gauges is the strangest."""


Combined = Callable[[Array], tuple[Array, Array, float]]
"""Isolation scores and p-values of rows of ``TOGETHER`` features in spreads, and the usual score: ``Forest.judge``."""


def unseen(together: Array) -> tuple[Array, Array, float]:
    """What ``Combined`` says without a forest."""
    return np.full(len(together), np.nan), np.ones(len(together)), np.nan


def judge(
    baseline: Baseline,
    now: Observed,
    expected: Array,
    step_s: float,
    warm: Mask,
    combined: Combined = unseen,
) -> Evidence:
    """The evidence of one step. ``expected``: the demand forecast for it, a second, NaN where unknown.
    ``warm``: services past their warm-up; the others score 0 and raise nothing."""
    seen = np.where(now.missing, 0.0, now.demand)
    most, least = _bounds(baseline, expected)
    root = _root(expected, step_s)
    above, below = _root(most, step_s), _root(least, step_s)
    root_seen = _root(seen, step_s)
    usual_errors, share, failing, p_errors = _errors(baseline, now)
    usual_ms, slow = _latency(baseline, now)
    smooth, usual_log = _creep(baseline, now)
    levels, steps = np.moveaxis(baseline.gauges, -1, 0)
    gauges = np.where(steps >= WARM_GAUGE, now.gauges - levels, np.nan)
    creeping = np.where(baseline.smooth[:, 2] >= SMOOTH_STEPS, smooth - usual_log, np.nan)
    residuals = np.column_stack([root_seen - above, below - root_seen, failing, *slow, creeping, gauges])
    spreads = _spreads(baseline, now, root)
    p_own = tails.rarity(baseline.tails, residuals / spreads)
    gauge = p_own[:, OWN:].argmin(axis=1)
    row = np.arange(len(seen))
    gauge_seen, gauge_usual = now.gauges[row, gauge], levels[row, gauge]
    isolation, p_combined, usual_isolation = combined(_together(residuals / spreads))
    reach = tails.edge(baseline.tails, BAND) * spreads
    low, high = _rate(below - reach[:, DOWN], step_s), _rate(above + reach[:, UP], step_s)
    gone = (now.missing | (seen == 0)) & (low > 0) & (expected * step_s >= MIN_EVENTS)
    p = {
        SURGE: np.where((seen - most) * step_s >= MIN_EVENTS, p_own[:, UP], 1.0),
        DROP: np.where(((least - seen) * step_s >= MIN_EVENTS) & (seen > 0), p_own[:, DOWN], 1.0),
        # A Poisson count of mean m is 0 with chance exp(-m), and the lowest expected rate is where to start.
        ZERO: np.where(gone, np.exp(-np.minimum(low * step_s, 700)), 1.0),
        ERRORS: np.maximum(p_errors, p_own[:, FAILING]),
        LATENCY: p_own[:, P99],
        MEDIAN: p_own[:, P50],
        CREEP: p_own[:, CREEPING],
        GAUGE: np.minimum(p_own[row, OWN + gauge] * GAUGES, 1.0),
        COMBINED: p_combined,
    }
    effect = {
        SURGE: _ratio(seen, most),
        DROP: np.where(seen > 0, _ratio(least, seen), 0.0),
        ZERO: np.ones(len(seen)),
        ERRORS: share - usual_errors,
        LATENCY: _ratio(now.p99_ms, usual_ms[0]),
        MEDIAN: _ratio(now.p50_ms, usual_ms[1]),
        CREEP: np.exp(smooth - usual_log),
        GAUGE: _ratio(gauge_seen, gauge_usual),
        COMBINED: isolation / usual_isolation,
    }
    raised = {
        kind: warm & (p[kind] <= rule.p) & (np.nan_to_num(effect[kind]) >= rule.effect)
        for kind, rule in RULES.items()
    }
    strength = {kind: np.where(warm, calibration.strength(p[kind]), 0.0) for kind in KINDS}
    of_demand, zero = (SURGE, DROP, ZERO), np.zeros(len(seen))
    usual = {
        LATENCY: usual_ms[0],
        MEDIAN: usual_ms[1],
        CREEP: np.exp(usual_log),
        GAUGE: gauge_usual,
        COMBINED: np.full(len(seen), usual_isolation),
    }
    return Evidence(
        score=np.where(warm, calibration.probability(total(strength)), 0.0),
        seen={
            **dict.fromkeys(of_demand, seen),
            ERRORS: share,
            LATENCY: now.p99_ms,
            MEDIAN: now.p50_ms,
            CREEP: np.exp(smooth),
            GAUGE: gauge_seen,
            COMBINED: isolation,
        },
        expected={SURGE: most, DROP: least, ZERO: least, ERRORS: usual_errors, **usual},
        low={**dict.fromkeys(of_demand, low), ERRORS: zero, **dict.fromkeys(usual, zero)},
        high={
            **dict.fromkeys(of_demand, high),
            ERRORS: usual_errors + RULES[ERRORS].effect,
            **{kind: level * RULES[kind].effect for kind, level in usual.items()},
        },
        effect=effect,
        raised=raised,
        p=p,
        strength=strength,
        residuals=residuals,
        spreads=spreads,
        gauge=gauge,
    )


def calibrate(baseline: Baseline, found: Evidence, quiet: Mask) -> Baseline:
    """The baseline once the residuals of a step are known: how far they usually stray is learned from them as they
    were judged. Steps that are part of an incident (not ``quiet``) teach nothing."""
    known = quiet[:, None] & ~np.isnan(found.residuals)
    size = np.minimum(np.abs(np.where(known, found.residuals, 0.0)), 4 * found.spreads)
    mean, steps = np.moveaxis(baseline.spread, -1, 0)
    gain = known * PACE / np.minimum(steps + 1, SPREAD_STEPS)
    spread = np.stack([mean + gain * (size - mean), np.minimum(steps + known * PACE, SPREAD_STEPS)], axis=-1)
    learned = tails.learn(baseline.tails, found.residuals / found.spreads, quiet, PACE)
    return replace(baseline, spread=spread, tails=learned)


def learn(baseline: Baseline, now: Observed, quiet: Mask) -> Baseline:
    """The baseline after one final step. Steps that are part of an incident (not ``quiet``) are not usual."""
    known = quiet & ~np.isnan(now.count)
    fade = np.exp(-1 / MEMORY_STEPS)
    grown = baseline.errors * fade + np.stack([now.errors, now.count], axis=1)
    log, timed = _logs(now)
    level, steps = np.moveaxis(baseline.latency, -1, 0)
    calm = timed & quiet[:, None]
    gain = calm / np.minimum(steps + 1, MEMORY_STEPS)
    latency = np.stack([level + gain * (np.where(calm, log, 0.0) - level), steps + calm], axis=-1)
    smooth, _ = _creep(baseline, now)
    felt = timed[:, 1] & (now.demand > 0)
    # Within an incident nothing is smoothed, so that it ends with its cause and leaves no trail behind.
    steps = np.where(quiet, baseline.smooth[:, 2] + 1, 0.0)
    smoothed = np.stack([smooth, _smooth_demand(baseline, now), steps], axis=1)
    return replace(
        baseline,
        seen=baseline.seen + (~np.isnan(now.demand)),
        errors=np.where(known[:, None], grown, baseline.errors),
        latency=latency,
        gauges=_with_gauges(baseline, now, quiet),
        recent=_with_recent(baseline, now),
        smooth=np.where(felt[:, None], smoothed, baseline.smooth),
        usual=_with_usual(baseline, smoothed[:, 1], log[:, 1], felt & quiet),
    )


def total(strength: Mapping[str, Array]) -> Array:
    """The strength of all kinds together; one left out has none."""
    groups = [[strength[kind] for kind in group if kind in strength] for group in GROUPS]
    return np.asarray(np.sum([np.maximum.reduce(group) for group in groups if group], axis=0), np.float64)


def _ratio(a: Array, b: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(a / b, np.float64)


def _root(rate: Array, step_s: float) -> Array:
    """Anscombe's transform of a count: a Poisson count's has a standard deviation of a half."""
    return np.asarray(np.sqrt(np.maximum(rate, 0.0) * step_s + 0.375), np.float64)


def _rate(root: Array, step_s: float) -> Array:
    return np.asarray(np.maximum(np.maximum(root, 0.0) ** 2 - 0.375, 0.0) / step_s, np.float64)


def _spreads(baseline: Baseline, now: Observed, root: Array) -> Array:
    """Spread of every residual, (n, features): the prior gives way to what was seen, down to a floor.

    1.2533 times the mean absolute residual is a normal's standard deviation (sqrt(pi / 2))."""
    demand = np.sqrt(0.25 + (GROWTH * np.nan_to_num(root)) ** 2)
    events = np.nan_to_num(now.count, nan=1.0)
    binomial = np.sqrt(
        1 + events / (baseline.errors[:, 1] + 1)
    )  # this step's chance, and that of the usual rate
    few = 1 / np.sqrt(np.maximum(events, 1.0))
    one = np.ones(len(root))
    size = np.abs(baseline.gauges[:, :, 0])
    own = [demand, demand, binomial, 0.3 * one, 0.05 + few, 0.025 * one]
    prior = np.column_stack([*own, 0.2 * size + 1e-9])
    least = [0.4 * one, 0.4 * one, 0.8 * binomial, 0.05 * one, 0.5 * few + 0.01, 0.015 * one]
    floor = np.column_stack([*least, 0.02 * size + 1e-9])
    mean, steps = np.moveaxis(baseline.spread, -1, 0)
    blended = (PRIOR_STEPS * prior + 1.2533 * mean * steps) / (PRIOR_STEPS + steps)
    return np.asarray(np.maximum(blended, floor), np.float64)


def _errors(baseline: Baseline, now: Observed) -> tuple[Array, Array, Array, Array]:
    """Usual error rate, this step's, its residual (variance-stabilised: 2 sqrt(n) times the difference of
    arcsin sqrt of shares) and the binomial p-value of as many errors."""
    errors, events = baseline.errors.T
    usual = (errors + 0.5) / (events + 1.0)
    trust = np.minimum(1.0, MEMORY_EVENTS / np.maximum(events, 1.0))
    failed, fine = trust * errors, trust * np.maximum(events - errors, 0.0)
    bound = special.betaincinv(failed + 0.5, fine + 0.5, 0.975)
    enough = (now.errors >= MIN_ERRORS) & (baseline.seen > 0)
    k, n = np.where(enough, now.errors, 1.0), np.where(enough, now.count, 1.0)
    # P(X >= k) of a binomial (n, bound) is the regularised incomplete beta function I_bound(k, n - k + 1).
    tail = special.betainc(k, n - k + 1, bound)
    share = _ratio(now.errors, now.count)
    residual = 2 * np.sqrt(now.count) * (np.arcsin(np.sqrt(share)) - np.arcsin(np.sqrt(usual)))
    return usual, share, residual, np.where(enough, tail, 1.0)


def together(found: Evidence) -> Array:
    """The features of the forest, (n, TOGETHER)."""
    return _together(found.residuals / found.spreads)


def _together(scores: Array) -> Array:
    gauges = np.nan_to_num(scores[:, OWN:], nan=0.0)
    own = scores[:, [UP, FAILING, P99, P50]]
    return np.column_stack([own, np.maximum(gauges.max(axis=1), 0.0), np.minimum(gauges.min(axis=1), 0.0)])


def _bounds(baseline: Baseline, expected: Array) -> tuple[Array, Array]:
    """The most and the least demand that is no surprise: forecast, or what it was lately."""
    recent, steps = baseline.recent.T
    known = steps > 0
    most = np.where(known, np.maximum(expected, recent), expected)
    return most, np.where(known, np.minimum(expected, recent), expected)


def _with_recent(baseline: Baseline, now: Observed) -> Array:
    """``Baseline.recent`` after one more step, of an incident too."""
    recent, steps = baseline.recent.T
    known = ~np.isnan(now.demand)
    gain = known / np.minimum(steps + 1, RECENT_STEPS)
    return np.column_stack([recent + gain * (np.where(known, now.demand, 0.0) - recent), steps + known])


def _with_gauges(baseline: Baseline, now: Observed, quiet: Mask) -> Array:
    """``Baseline.gauges`` after one more step."""
    level, steps = np.moveaxis(baseline.gauges, -1, 0)
    known = quiet[:, None] & ~np.isnan(now.gauges)
    gain = known / np.minimum(steps + 1, GAUGE_STEPS)
    moved = level + gain * (np.where(known, now.gauges, 0.0) - level)
    return np.stack([moved, steps + known], axis=-1)


def _logs(now: Observed) -> tuple[Array, Mask]:
    """Log p99 and log p50, (n, 2), and where there are enough requests to have them."""
    ms = np.stack([now.p99_ms, now.p50_ms], axis=1)
    timed = (ms > 0) & (now.count >= MIN_SAMPLE)[:, None]
    return np.log(np.where(timed, ms, 1.0)), timed


def _latency(baseline: Baseline, now: Observed) -> tuple[Array, Array]:
    """Usual p99 and p50 in milliseconds, and how far their logs are above the usual, both (2, n)."""
    log, timed = _logs(now)
    level, steps = np.moveaxis(baseline.latency, -1, 0)
    known = timed & (steps >= 6)
    return np.where(steps > 0, np.exp(level), np.nan).T, np.where(known, log - level, np.nan).T


def _creep(baseline: Baseline, now: Observed) -> tuple[Array, Array]:
    """Log p50 smoothed to this step, and what it usually is at this demand (NaN where unknown)."""
    log, timed = _logs(now)
    before, _, steps = baseline.smooth.T
    gain = np.where(timed[:, 1] & (now.demand > 0), 1 / np.minimum(steps + 1, SMOOTH_STEPS), 0.0)
    smooth = before + gain * (log[:, 1] - before)
    usual, weight = _usual(baseline, _smooth_demand(baseline, now))
    known = (gain > 0) & (weight >= CREEP_FROM)
    return smooth, np.where(known, usual, np.nan)


def _smooth_demand(baseline: Baseline, now: Observed) -> Array:
    """Log2 of demand, smoothed to this step."""
    _, before, steps = baseline.smooth.T
    known = now.demand > 0
    log = np.log2(np.where(known, now.demand, 1.0))
    return np.asarray(np.where(known, before + (log - before) / np.minimum(steps + 1, SMOOTH_STEPS), before))


def _places(demand: Array) -> tuple[npt.NDArray[np.int64], Array]:
    """The lower of the two levels a log2 demand is between, and its share of the upper one."""
    place = np.clip((demand + 4) * 2, 0, LEVELS - 1.001)
    below = place.astype(np.int64)
    return below, place - below


def _usual(baseline: Baseline, demand: Array) -> tuple[Array, Array]:
    """Log p50 usual at a demand, and the steps it is known from. Of two neighbouring levels, one little known
    borrows from the other."""
    below, share = _places(demand)
    row = np.arange(len(demand))
    (low, low_n), (high, high_n) = baseline.usual[row, below].T, baseline.usual[row, below + 1].T
    of_low, of_high = low_n / (low_n + SHRINK_STEPS), high_n / (high_n + SHRINK_STEPS)
    left = np.where(low_n > 0, np.where(high_n > 0, of_low * low + (1 - of_low) * high, low), high)
    right = np.where(high_n > 0, np.where(low_n > 0, of_high * high + (1 - of_high) * low, high), low)
    return (1 - share) * left + share * right, low_n + high_n


def _with_usual(baseline: Baseline, demand: Array, log: Array, rows: Mask) -> Array:
    """``Baseline.usual`` with one more log p50, shared between the two nearest levels."""
    below, share = _places(demand)
    usual, row = baseline.usual.copy(), np.flatnonzero(rows)
    for level, part in ((below[row], 1 - share[row]), (below[row] + 1, share[row])):
        mean, steps = usual[row, level].T
        grown = np.minimum(steps + part, LONG_STEPS)
        moved = mean + part / np.maximum(grown, 1e-9) * (log[row] - mean)
        usual[row, level] = np.stack([moved, grown], axis=1)
    return usual
