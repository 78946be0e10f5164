"""How rare is a value in the light of its own past: a running tail for every row and feature.

Features come as scores in units of their own spread. The upper tail beyond a running quantile of level ``1 - OUTER`` is a
generalised Pareto distribution (peaks over threshold, Pickands 1975; streaming as in Siffer et al. 2017, "Anomaly
detection in streams with extreme value theory"), fitted by moments (Hosking and Wallis 1987): with mean m and
variance v of the excesses, shape = (1 - m^2 / v) / 2 and scale = m (1 - shape). What is not yet known is taken from a
prior heavier than normal. Four numbers a tail, whatever the length of the past.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

OUTER: Final = 0.02
"""Share of values in the tail: of a day of 10 s, 170 values to fit it to."""
PRIOR_THRESHOLD: Final = 2.05
"""The normal's quantile of ``1 - OUTER``."""
PRIOR_EXCESS: Final = 0.5
"""Mean excess at first, in spreads; the normal's there is 0.37, and operations data is heavier."""
PRIOR_WEIGHT: Final = 20.0
"""Excesses that the prior counts for."""
MEMORY: Final = 400.0
"""Excesses remembered, at most: the tail looks back two or three days of 10 s."""
GAIN: Final = 0.05
"""Of the running threshold (stochastic approximation, Robbins and Monro 1951), in spreads a step."""
LARGEST_SHAPE: Final = 0.2
"""A heavier tail would need more excesses than are remembered to be told from chance."""
LARGEST_EXCESS: Final = 4.0
"""Excesses are learned up to this many mean excesses: the first step of a fault must not silence a feature for days."""
WIDTH: Final = 4
"""Numbers a tail: threshold, mean excess, mean squared excess, excesses counted."""


def fresh(*shape: int) -> Array:
    """Tails of which nothing is known, of that shape and a last axis of ``WIDTH``."""
    one = np.array([PRIOR_THRESHOLD, PRIOR_EXCESS, 2 * PRIOR_EXCESS**2, PRIOR_WEIGHT])
    return np.broadcast_to(one, (*shape, WIDTH)).copy()


def rarity(tails: Array, scores: Array) -> Array:
    """Chance of a score as high, same shape as ``scores``; 1 for NaN and for scores up to 0.

    >>> rarity(fresh(4), np.array([0.0, 2.05, 5.0, 9.0])).round(6).tolist()
    [1.0, 0.02, 5.5e-05, 0.0]
    """
    threshold, mean, square, _ = np.moveaxis(tails, -1, 0)
    known = np.nan_to_num(scores, nan=0.0)
    shape, scale = _pareto(mean, square)
    excess = np.maximum(known - threshold, 0.0) / scale
    heavy = np.exp(-np.log1p(shape * excess) / np.where(shape > 0, shape, 1.0))
    beyond = OUTER * np.where(shape > 0, heavy, np.exp(-np.minimum(excess, 700.0)))
    inside = np.exp(np.log(OUTER) * np.clip(known / np.maximum(threshold, 1e-9), 0.0, 1.0))
    return np.asarray(np.where(known > threshold, beyond, inside), np.float64)


def edge(tails: Array, chance: float) -> Array:
    """The score that is exceeded with that chance (below ``OUTER``), shape of ``tails`` without the last axis."""
    threshold, mean, square, _ = np.moveaxis(tails, -1, 0)
    shape, scale = _pareto(mean, square)
    log = np.log(OUTER / chance)
    safe = np.where(shape > 0, shape, 1.0)
    return np.asarray(threshold + scale * np.where(shape > 0, np.expm1(shape * log) / safe, log), np.float64)


def learn(tails: Array, scores: Array, rows: Mask, pace: Array) -> Array:
    """The tails after one more score each, (n, features); only ``rows`` (n,) learn, and only what is no NaN.

    ``pace`` (features,): for how many independent scores one counts, at most 1."""
    threshold, mean, square, count = np.moveaxis(tails, -1, 0)
    known = rows[:, None] & ~np.isnan(scores)
    value = np.where(known, scores, 0.0)
    over = known & (value > threshold)
    excess = np.clip(value - threshold, 0.0, LARGEST_EXCESS * mean)
    gain = np.where(over, pace / (count + 1), 0.0)
    moved = np.stack(
        [
            np.maximum(threshold + GAIN * pace * (over - OUTER) * known, 0.5),
            mean + gain * (excess - mean),
            square + gain * (excess**2 - square),
            np.minimum(count + over * pace, MEMORY),
        ],
        axis=-1,
    )
    return np.asarray(moved, np.float64)


def _pareto(mean: Array, square: Array) -> tuple[Array, Array]:
    """Shape and scale by moments."""
    variance = np.maximum(square - mean**2, 1e-12)
    shape = np.clip((1 - mean**2 / variance) / 2, 0.0, LARGEST_SHAPE)
    shape = np.where(shape < 1e-3, 0.0, shape)
    return shape, mean * (1 - shape)
