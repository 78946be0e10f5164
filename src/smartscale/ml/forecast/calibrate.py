"""From point paths to calibrated quantiles: compiled, a row at a time.

A **target** is the value some steps ahead, or the maximum of the values until then. For each, a few **experts** give a whole
distribution: a point and the distribution of the point's own residuals (``residuals``)::

    mixture    the path of the mixed methods; residuals in units of recent volatility
    naive      the last value
    day, week  the value a day or a week before
    mean       the mean of the last steps

Their quantiles are averaged level by level (Vincentization: Ratcliff 1979; Lichtendahl, Grushka-Cockayne and Winkler 2013 on
why averaging quantiles keeps a band sharp where averaging probabilities blurs it), by weights learned on line from pinball
losses (``aggregation``) for low, middle and high levels apart. So where the mixture is no better than a rule of thumb, the
rule of thumb with its own honest width takes over, and it starts with a good share. Then the levels are adapted
(``conformal``) and the tail beyond 0.95 follows its own excesses (``tails``).

One truth of a horizon h shares most of its way with the next one: it counts ``h ** -0.75`` (between 1, as if independent,
and 1/h, as if nothing else were new; chosen on the tuning half). Forecasts of long horizons are kept for a few origins only
(``MOST_SLOTS``), so memory is bounded however long the horizon.

All values are on the square-root scale. Rows are independent; nothing is random.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from smartscale.ml.forecast import aggregation, conformal, residuals, tails

Array = npt.NDArray[np.float64]
Small = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

GRID: Final = np.arange(1, 20) / 20
"""Levels at which quantiles are averaged: 0.05 to 0.95."""
GROUP: Final = np.repeat([0, 1, 2], [6, 7, 6])
"""Levels that share their weights: low, middle, high."""
GROUPS: Final = 3
TOP: Final = len(GRID) - 1
TAIL_LEVELS: Final = np.array([0.99, 0.995, 0.999, 0.9995])
"""Levels whose exceedance is counted."""

MIXTURE, NAIVE, DAY, WEEK, MEAN = range(5)
EXPERTS: Final = 5
PEAK_EXPERTS: Final = 2
"""Of a maximum: the mixture's path and the last value."""
PRIOR_SHARE: Final = np.array([0.4, 0.3, 0.1, 0.1, 0.1])
"""Weights before any evidence: half of the trust is the rules of thumb's."""

MEMORY: Final = 1000.0
"""Independent truths in which a residual fades to 1/e."""
OVERLAP: Final = 0.75
PRIOR_STEPS: Final = 4.0
"""Weight of the prior scale, in residuals."""
PRIOR_GROWTH: Final = 0.024
"""Prior mean absolute error a step, on the square-root scale: 5 % of the rate, growing with the root of the horizon."""
PRIOR_NOISE: Final = 0.8
"""Prior mean absolute error in standard deviations of a Poisson count: a normal's."""
MOST_SIZE: Final = 8.0
"""A residual moves the scale by so many of its present size at most."""
FAST: Final = 20.0
"""Steps of recent volatility."""
FAST_PRIOR: Final = 10.0
"""Steps that the long-run volatility counts for in the recent one."""
MOST_FAST: Final = 6.0
"""A step counts for so many long-run mean errors at most in the recent volatility."""
FOLLOW: Final = 0.5
"""Power of the ratio of recent to long-run volatility that the scale follows: half-way between not and fully."""
LOSS_STEPS: Final = 100.0
"""Truths over which a typical loss is averaged."""
SCORE_STEPS: Final = 300.0
"""Coverage and skill look back over about this many settled forecasts."""
EXCEED_STEPS: Final = 20_000.0
"""Exceedances of the tail levels look back over about this many: 0.9995 is exceeded ten times."""
MOST_SLOTS: Final = 6
"""Origins whose forecasts are awaited at once, a target."""

# Fields of a pending forecast.
_POINT: Final = 0  # of each expert; a peak has two, and then the maximum so far and the gaps so far
_SO_FAR: Final = 2
_GAPS: Final = 3
_VOLATILITY: Final = 5
_SCALE: Final = 6
_ISSUED: Final = 7
_TAIL: Final = _ISSUED + len(conformal.LEVELS)
FIELDS: Final = _TAIL + len(TAIL_LEVELS)

# Fields of the score.
INSIDE, LOSS, NAIVE_LOSS, SETTLED = range(4)


class Plan(NamedTuple):
    """What is calibrated. G targets: the A values at the anchors, then the maxima until the anchors beyond the first."""

    horizons: Ints  # (G,)
    strides: Ints  # (G,) steps between origins whose forecast is awaited
    slots: Ints  # (G,) first slot
    depth: Ints  # (G,) slots
    streams: Ints  # (G,) first stream of residuals; each expert of a target has one
    experts: Ints  # (G,)
    weights: Array  # (G,) what a truth counts
    prior: Array  # (G, BINS)
    lift: Array  # (G,)
    share: Array  # (EXPERTS,)
    noise: float


class State(NamedTuple):
    """What is known of each series; the first axis is the series. All changed in place."""

    pending: Small  # (n, slots, FIELDS)
    bins: Small  # (n, streams, residuals.BINS)
    size: Small  # (n, streams, 2): sum of absolute residuals, and of their weights
    trust: Small  # (n, streams, GROUPS, aggregation.FIELDS)
    typical: Small  # (n, G, 2): sum of losses, and of their weights
    adapted: Small  # (n, G, 7)
    tail: Small  # (n, G, 2, tails.BINS): lower, upper
    volatility: Small  # (n, 4): recent and long-run sum of absolute one-step errors, each with its weight
    score: Small  # (n, 4), see INSIDE ...
    exceeded: Small  # (n, 2, 5): of values and of maxima: weights above each of TAIL_LEVELS, and of all


def plan(anchors: list[int], noise: float) -> Plan:
    """``noise``: the standard deviation that chance alone gives a count (``protocol.count_noise``)."""
    horizons = [*anchors, *(h for h in anchors if h > 1)]
    experts = [EXPERTS] * len(anchors) + [PEAK_EXPERTS] * (len(horizons) - len(anchors))
    strides = [-(-h // MOST_SLOTS) for h in horizons]
    depth = [-(-h // stride) for h, stride in zip(horizons, strides, strict=True)]
    priors = [residuals.prior(1 if g < len(anchors) else h) for g, h in enumerate(horizons)]
    return Plan(
        horizons=np.array(horizons, np.int64),
        strides=np.array(strides, np.int64),
        slots=np.cumsum([0, *depth[:-1]]).astype(np.int64),
        depth=np.array(depth, np.int64),
        streams=np.cumsum([0, *experts[:-1]]).astype(np.int64),
        experts=np.array(experts, np.int64),
        weights=np.array(
            [min(stride * h**-OVERLAP, 1.0) for h, stride in zip(horizons, strides, strict=True)]
        ),
        prior=np.stack([bins for bins, _ in priors]),
        lift=np.array([lift for _, lift in priors]),
        share=PRIOR_SHARE,
        noise=noise,
    )


def fresh(plan: Plan, n_series: int) -> State:
    """Series of which nothing is known yet."""
    targets, streams = len(plan.horizons), int(plan.experts.sum())
    return State(
        pending=np.full((n_series, int(plan.depth.sum()), FIELDS), np.nan, np.float32),
        bins=_rows(n_series, np.repeat(plan.prior, plan.experts, axis=0)),
        size=np.zeros((n_series, streams, 2), np.float32),
        trust=np.zeros((n_series, streams, GROUPS, aggregation.FIELDS), np.float32),
        typical=np.zeros((n_series, targets, 2), np.float32),
        adapted=_rows(n_series, np.tile(conformal.LEVELS, (targets, 1))),
        tail=_rows(n_series, np.tile(tails.prior(), (targets, 2, 1))),
        volatility=np.zeros((n_series, 4), np.float32),
        score=np.zeros((n_series, 4), np.float32),
        exceeded=np.zeros((n_series, 2, len(TAIL_LEVELS) + 1), np.float32),
    )


def _rows(n_series: int, one: Array) -> Small:
    return np.repeat(one[None].astype(np.float32), n_series, axis=0)


@njit(cache=True)
def settle(plan: Plan, state: State, step: int, truth: Array) -> None:
    """What awaited ``step`` meets its ``truth`` (n,), NaN for a gap."""
    anchors = (len(plan.horizons) + 1) // 2
    for i in range(len(truth)):
        for g in range(anchors, len(plan.horizons)):
            _join_maxima(plan, state.pending[i], g, truth[i])
        for g in range(len(plan.horizons)):
            origin = step - plan.horizons[g]
            if origin % plan.strides[g] != 0:
                continue
            slot = state.pending[i, plan.slots[g] + (origin // plan.strides[g]) % plan.depth[g]]
            actual = float(np.float32(truth[i]))  # as what was issued: equal stays equal
            if g >= anchors:
                known = slot[_GAPS] <= 0.1 * plan.horizons[g]
                actual = float(slot[_SO_FAR]) if known else np.nan
            if not np.isnan(actual) and not np.isnan(slot[_SCALE]):
                _settle(plan, state, i, g, slot, actual)
            slot[:] = np.nan


@njit(cache=True)
def _join_maxima(plan: Plan, pending: Small, g: int, truth: float) -> None:
    for s in range(plan.slots[g], plan.slots[g] + plan.depth[g]):
        if np.isnan(truth):
            pending[s, _GAPS] += 1
        else:
            pending[s, _SO_FAR] = max(pending[s, _SO_FAR], truth)


@njit(cache=True)
def _settle(plan: Plan, state: State, i: int, g: int, slot: Small, actual: float) -> None:
    experts, first, weight = plan.experts[g], plan.streams[g], plan.weights[g]
    is_value = g < (len(plan.horizons) + 1) // 2
    found, share = np.empty((EXPERTS, TOP + 1)), np.empty((GROUPS, EXPERTS))
    awake, scales = np.zeros(EXPERTS, np.bool_), np.ones(EXPERTS)
    for e in range(experts):
        awake[e] = not np.isnan(slot[_POINT + e])
        if awake[e]:
            scales[e] = _scale(plan, state.size[i, first + e], g, slot[_POINT]) * (
                slot[_VOLATILITY] if e == MIXTURE else 1.0
            )
            residuals.quantiles(state.bins[i, first + e], GRID, found[e])
            for q in range(TOP + 1):
                found[e, q] = slot[_POINT + e] + scales[e] * found[e, q]
    _shares(plan, state.trust[i], g, awake, share)

    # The average's quantiles, its loss and the naive's, and everybody's regret.
    ours, naive = 0.0, 0.0
    regret = np.zeros((GROUPS, EXPERTS))
    for q in range(TOP + 1):
        average = 0.0
        for e in range(experts):
            if awake[e]:
                average += share[GROUP[q], e] * found[e, q]
        slope = (1.0 if actual < average else 0.0) - GRID[q]
        ours += slope * (average - actual) / (TOP + 1)
        naive += max(GRID[q] * (actual - found[NAIVE, q]), (GRID[q] - 1) * (actual - found[NAIVE, q])) / (
            TOP + 1
        )
        for e in range(experts):
            if awake[e]:
                regret[GROUP[q], e] += slope * (average - found[e, q])
    typical = state.typical[i, g]
    typical[0] = typical[0] * (1 - 1 / LOSS_STEPS) + ours
    typical[1] = typical[1] * (1 - 1 / LOSS_STEPS) + 1
    usual = max(typical[0] / typical[1], 1e-9)
    for e in range(experts):
        if awake[e]:
            for k in range(GROUPS):
                size = 7 if k == 1 else 6
                aggregation.charge(state.trust[i, first + e, k], regret[k, e] / size / usual, weight)
            _learn(state, i, first + e, actual - slot[_POINT + e], scales[e], weight, slot, e == MIXTURE)

    # What was issued.
    lowest, highest = slot[_ISSUED], slot[_ISSUED + len(conformal.LEVELS) - 1]
    conformal.adapt(state.adapted[i, g], slot[_ISSUED:_TAIL], actual, weight)
    if actual > highest:
        tails.add(state.tail[i, g, 1], (actual - highest) / slot[_SCALE], weight)
    elif actual < lowest:
        tails.add(state.tail[i, g, 0], (lowest - actual) / slot[_SCALE], weight)
    exceeded = state.exceeded[i, 0 if is_value else 1]
    for level in range(len(TAIL_LEVELS)):
        above = weight if actual > slot[_TAIL + level] else 0.0
        exceeded[level] = exceeded[level] * (1 - weight / EXCEED_STEPS) + above
    exceeded[len(TAIL_LEVELS)] = exceeded[len(TAIL_LEVELS)] * (1 - weight / EXCEED_STEPS) + weight
    if is_value:
        score = state.score[i]
        for k in range(4):
            score[k] *= 1 - 1 / SCORE_STEPS
        score[INSIDE] += 1.0 if lowest <= actual <= highest else 0.0
        score[LOSS] += ours
        score[NAIVE_LOSS] += naive if awake[NAIVE] else ours
        score[SETTLED] += 1
    if g == 0:
        volatility = state.volatility[i]
        error = abs(actual - slot[_POINT])
        usual_error = volatility[2] / volatility[3] if volatility[3] > 0 else error
        volatility[0] = volatility[0] * (1 - 1 / FAST) + min(error, MOST_FAST * usual_error)
        volatility[1] = volatility[1] * (1 - 1 / FAST) + 1
        volatility[2] = volatility[2] * (1 - 1 / MEMORY) + error
        volatility[3] = volatility[3] * (1 - 1 / MEMORY) + 1


@njit(cache=True)
def _learn(
    state: State, i: int, stream: int, residual: float, scale: float, weight: float, slot: Small, moves: bool
) -> None:
    """One more residual of an expert; ``scale`` is what it is measured in, the volatility included if it ``moves``."""
    residuals.add(state.bins[i, stream], residual / scale, 1 - weight / MEMORY, weight)
    size, volatility = state.size[i, stream], slot[_VOLATILITY] if moves else 1.0
    bounded = min(abs(residual), MOST_SIZE * scale) / volatility
    size[0] = size[0] * (1 - weight / MEMORY) + weight * bounded
    size[1] = size[1] * (1 - weight / MEMORY) + weight


@njit(cache=True)
def _scale(plan: Plan, size: Small, g: int, level: float) -> float:
    """Mean absolute residual: what chance and growth make likely, and evidence."""
    chance, growth = PRIOR_NOISE * plan.noise, PRIOR_GROWTH * level
    likely = plan.lift[g] * math.sqrt(chance * chance + growth * growth * plan.horizons[g])
    scale: float = (PRIOR_STEPS * likely + size[0]) / (PRIOR_STEPS + size[1])
    return scale


@njit(cache=True)
def _volatility(plan: Plan, kept: Small, level: float) -> float:
    """Recent over long-run volatility, damped; about 1."""
    chance, growth = PRIOR_NOISE * plan.noise, PRIOR_GROWTH * level
    usual = (kept[2] + math.sqrt(chance * chance + growth * growth)) / (kept[3] + 1)
    recent = (kept[0] + FAST_PRIOR * usual) / (kept[1] + FAST_PRIOR)
    ratio: float = (recent / usual) ** FOLLOW
    return ratio


@njit(cache=True)
def _shares(plan: Plan, trust: Small, g: int, awake: Mask, share: Array) -> None:
    first, experts = plan.streams[g], plan.experts[g]
    for k in range(GROUPS):
        aggregation.weigh(
            trust[first : first + experts, k],
            plan.share[:experts],
            awake[:experts],
            share[k],
        )


class Offsets(NamedTuple):
    """Of every target at an origin, one row: what is averaged and what lies around it."""

    share: Array  # (G, GROUPS, EXPERTS)
    around: Array  # (G, 19): quantiles of the average less the average of the points
    scale: Array  # (G,) of the excesses
    tail: Array  # (G, 2, 2): scale and shape of the lower and the upper tail


@njit(cache=True)
def _offsets(plan: Plan, state: State, i: int, points: Array, last: int) -> tuple[Offsets, float]:
    """``points`` (EXPERTS, horizon) of one series. Also its volatility. Only targets before ``last`` are filled."""
    targets = len(plan.horizons)
    anchors = (targets + 1) // 2
    found = Offsets(
        np.zeros((targets, GROUPS, EXPERTS)),
        np.zeros((targets, TOP + 1)),
        np.ones(targets),
        np.ones((targets, 2, 2)),
    )
    asked, one, awake = np.empty(TOP + 1), np.empty(TOP + 1), np.zeros(EXPERTS, np.bool_)
    volatility = _volatility(plan, state.volatility[i], points[MIXTURE, 0])
    for g in range(last):
        first, h = plan.streams[g], plan.horizons[g]
        level = points[MIXTURE, h - 1] if g < anchors else np.max(points[MIXTURE, :h])
        for e in range(plan.experts[g]):
            awake[e] = not np.isnan(points[e, h - 1])
        _shares(plan, state.trust[i], g, awake, found.share[g])
        conformal.asked(state.adapted[i, g], GRID, asked)
        total = 0.0
        for e in range(plan.experts[g]):
            if awake[e]:
                scale = _scale(plan, state.size[i, first + e], g, level) * (
                    volatility if e == MIXTURE else 1.0
                )
                residuals.quantiles(state.bins[i, first + e], asked, one)
                for q in range(TOP + 1):
                    found.around[g, q] += found.share[g, GROUP[q], e] * scale * one[q]
                total += found.share[g, GROUPS - 1, e] * scale
        found.scale[g] = max(total, 1e-9)
        for side in range(2):
            spread, shape = tails.fit(state.tail[i, g, side])
            found.tail[g, side, 0], found.tail[g, side, 1] = spread * found.scale[g], shape
    return found, volatility


@njit(cache=True)
def _tops(points: Array) -> Array:
    """Running maxima of the experts that peaks are told by."""
    tops = np.full_like(points, np.nan)
    for e in range(PEAK_EXPERTS):
        highest = -np.inf
        for h in range(points.shape[1]):
            highest = max(highest, points[e, h])
            tops[e, h] = highest
    return tops


@njit(cache=True)
def _at(
    points: Array, h: int, low: Offsets, g: int, other: int, mix: float, grid: Array, tail: Array
) -> None:
    """Quantiles at ``GRID`` ``h`` steps ahead between targets ``g`` and ``other``, ascending, into ``grid``; the two tails
    into ``tail`` (2, 2)."""
    for k in range(GROUPS):
        point, total = 0.0, 0.0
        for e in range(EXPERTS):
            share = low.share[g, k, e] * (1 - mix) + low.share[other, k, e] * mix
            if share > 0 and not np.isnan(points[e, h - 1]):
                point += share * points[e, h - 1]
                total += share
        point = point / total if total > 0 else np.nan
        for q in range(TOP + 1):
            if GROUP[q] == k:
                grid[q] = point + low.around[g, q] * (1 - mix) + low.around[other, q] * mix
    for q in range(1, TOP + 1):
        grid[q] = max(grid[q], grid[q - 1])
    for side in range(2):
        for k in range(2):
            tail[side, k] = low.tail[g, side, k] * (1 - mix) + low.tail[other, side, k] * mix


@njit(cache=True)
def _quantile(grid: Array, tail: Array, level: float) -> float:
    found: float
    if level > tails.FROM:
        found = grid[TOP] + tail[1, 0] * tails.reach(level, tail[1, 1])
    elif level < 1 - tails.FROM:
        found = grid[0] - tail[0, 0] * tails.reach(1 - level, tail[0, 1])
    else:
        at = level * (TOP + 2) - 1
        q = min(int(at), TOP - 1)
        found = grid[q] + (at - q) * (grid[q + 1] - grid[q])
    return found


@njit(cache=True)
def issue(plan: Plan, state: State, step: int, points: Array) -> None:
    """Keep what is said at origin ``step`` until its truth comes. ``points`` (n, EXPERTS, horizon)."""
    targets = len(plan.horizons)
    anchors = (targets + 1) // 2
    grid, tail = np.empty(TOP + 1), np.empty((2, 2))
    for i in range(len(points)):
        if np.isnan(points[i, MIXTURE, 0]):
            continue
        tops = _tops(points[i])
        found, volatility = _offsets(plan, state, i, points[i], targets)
        for g in range(targets):
            if step % plan.strides[g] != 0:
                continue
            h, told = plan.horizons[g], points[i] if g < anchors else tops
            slot = state.pending[i, plan.slots[g] + (step // plan.strides[g]) % plan.depth[g]]
            for e in range(plan.experts[g]):
                slot[_POINT + e] = told[e, h - 1]
            if g >= anchors:
                slot[_SO_FAR], slot[_GAPS] = -np.inf, 0
            slot[_VOLATILITY], slot[_SCALE] = volatility, found.scale[g]
            _at(told, h, found, g, g, 0.0, grid, tail)
            for j in range(len(conformal.LEVELS)):
                slot[_ISSUED + j] = _quantile(grid, tail, conformal.LEVELS[j])
            for j in range(len(TAIL_LEVELS)):
                slot[_TAIL + j] = _quantile(grid, tail, TAIL_LEVELS[j])


@njit(cache=True)
def forecast(plan: Plan, state: State, points: Array, levels: Array, values: Array, peaks: Array) -> None:
    """Quantiles at ``levels`` of the values and of the maxima, for every step ahead, into ``values`` and ``peaks`` of shape
    (n, horizon, Q). ``points`` (n, EXPERTS, horizon)."""
    anchors = (len(plan.horizons) + 1) // 2
    grid, tail = np.empty(TOP + 1), np.empty((2, 2))
    for i in range(len(points)):
        if np.isnan(points[i, MIXTURE, 0]):
            values[i] = np.nan
            peaks[i] = np.nan
            continue
        tops = _tops(points[i])
        found, _ = _offsets(plan, state, i, points[i], len(plan.horizons))
        a = 0
        for h in range(1, points.shape[2] + 1):
            while a < anchors - 2 and h >= plan.horizons[a + 1]:
                a += 1
            b, mix = min(a + 1, anchors - 1), 0.0
            if b > a:
                begin, end = math.sqrt(plan.horizons[a]), math.sqrt(plan.horizons[b])
                mix = (math.sqrt(h) - begin) / (end - begin)
            _at(points[i], h, found, a, b, mix, grid, tail)
            for j in range(len(levels)):
                values[i, h - 1, j] = _quantile(grid, tail, levels[j])
            if h > 1:
                # The maximum of one step is the value itself: between the first anchor and the second both are used.
                if a == 0:
                    _at(tops, h, found, anchors, anchors, 0.0, grid, tail)
                else:
                    _at(tops, h, found, anchors + a - 1, anchors + b - 1, mix, grid, tail)
            for j in range(len(levels)):
                peak = _quantile(grid, tail, levels[j])
                if a == 0 and h > 1:
                    peak = mix * peak + (1 - mix) * values[i, 0, j]
                # A maximum is at least each of its values, and never falls as more steps join it.
                peak = max(peak, values[i, h - 1, j])
                if h > 1:
                    peak = max(peak, peaks[i, h - 2, j])
                peaks[i, h - 1, j] = peak


@njit(cache=True)
def surprise(plan: Plan, state: State, points: Array, truth: Array, found: Array) -> None:
    """Of the next step, into ``found`` (n, 5): median, 0.001 and 0.999 quantiles, and the chances of a value as low and
    as high as ``truth`` (n,), 1 where that is NaN. ``points`` (n, EXPERTS, 1 or more)."""
    grid, tail = np.empty(TOP + 1), np.empty((2, 2))
    for i in range(len(points)):
        found[i, :3], found[i, 3:] = np.nan, 1.0
        if np.isnan(points[i, MIXTURE, 0]):
            continue
        around, _ = _offsets(plan, state, i, points[i], 1)
        _at(points[i], 1, around, 0, 0, 0.0, grid, tail)
        found[i, 0] = _quantile(grid, tail, 0.5)
        found[i, 1] = _quantile(grid, tail, 0.001)
        found[i, 2] = _quantile(grid, tail, 0.999)
        if not np.isnan(truth[i]):
            found[i, 3], found[i, 4] = _chances(grid, tail, truth[i])


@njit(cache=True)
def _chances(grid: Array, tail: Array, truth: float) -> tuple[float, float]:
    """Of a value as low as ``truth``, and of one as high."""
    if truth > grid[TOP]:
        high = tails.chance(truth - grid[TOP], tail[1, 0], tail[1, 1])
        return 1 - high, high
    if truth < grid[0]:
        low = tails.chance(grid[0] - truth, tail[0, 0], tail[0, 1])
        return low, 1 - low
    q = 0
    while q < TOP - 1 and truth >= grid[q + 1]:
        q += 1
    width = grid[q + 1] - grid[q]
    inside = (truth - grid[q]) / width if width > 0 else 0.5
    level = (q + 1 + inside) / (TOP + 2)
    return level, 1 - level
