"""From a point to calibrated quantiles: residuals, a tail, and adaptive conformal levels.

For every target (a value some steps ahead, or the maximum until then) the last ``RING`` residuals are kept. Places
not yet filled are taken by a prior sample, quantiles of Student's t with 5 degrees of freedom (heavier than
normal, as operations data is) times a spread that is learned much faster than a distribution: evidence takes
over from the prior at its own pace. The residuals themselves are never rescaled: a band is never wider than
what was really seen, where residuals in units of a moving scale multiply one burst by the next.

- Inside, a quantile is the ring's. Beyond the outer tenth it follows the exponential tail fitted to the excesses
  there (peaks over threshold, Pickands 1975, with shape 0), which 64 residuals can support and 0.999 needs.
- The level asked of the ring is moved by adaptive conformal inference (Gibbs and Candès 2021, equation 2):
  ``level += GAMMA * (target - hit)``, so that in the long run the share of hits is the target whatever
  the data do.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

Array = npt.NDArray[np.float64]
Ring = npt.NDArray[np.float32]

RING: Final = 64
"""Residuals kept a target: sorting them for 10,000 series is a fraction of a second."""
GAMMA: Final = 0.01
"""Gibbs and Candès use 0.005; twice that forgets a bad day in a few hundred steps."""
OUTER: Final = 0.1
"""Share of residuals that the tail is fitted to."""
LEVEL_MARGIN: Final = 0.0005
"""Adapted levels stay this far inside (0, 1)."""
LEAST_TAIL: Final = 0.1
"""Mean excess of a tail at least, in spreads: even equal residuals are no proof that nothing else can be."""


def prior() -> Ring:
    """The prior sample, shape (RING,), in a fixed shuffled order so that replacing it favours no side."""
    sample = special.stdtrit(5, (np.arange(RING) + 0.5) / RING) / np.sqrt(5 / 3)
    return np.random.default_rng(5).permutation(sample).astype(np.float32)


PRIOR: Final = prior()


def peak_shift(steps: int) -> float:
    """Median of the maximum of so many independent standard normal draws: by how much chance alone lifts it.

    >>> round(peak_shift(1), 9), round(peak_shift(10), 2)
    (0.0, 1.5)
    """
    return float(special.ndtri(0.5 ** (1 / steps)))


def fill(ring: Ring, spread: Array, shift: Array) -> Ring:
    """The ring with its empty (NaN) places taken by the prior around ``shift``.

    ``ring`` (..., RING), ``spread`` (...), ``shift`` broadcast to it."""
    center = np.broadcast_to(shift, spread.shape)[..., None].astype(np.float32)
    return np.where(np.isnan(ring), PRIOR * spread[..., None].astype(np.float32) + center, ring)


def quantiles(ring: Ring, levels: Array, spread: Array) -> Array:
    """Quantiles of each filled ring at its own levels.

    ``ring`` has shape (..., RING), ``levels`` (..., n_levels) in (0, 1), ``spread`` (...); the answer has the
    shape of ``levels``."""
    ordered = np.sort(ring, axis=-1).astype(np.float64)
    position = np.clip(levels * RING - 0.5, 0, RING - 1)
    below = np.minimum(position.astype(np.int64), RING - 2)
    left = np.take_along_axis(ordered, below, axis=-1)
    right = np.take_along_axis(ordered, below + 1, axis=-1)
    inner = left + (position - below) * (right - left)
    tails = _tails(ordered, spread)
    upper = tails.high[..., None] + tails.high_mean[..., None] * np.log(OUTER / np.maximum(1 - levels, 1e-12))
    lower = tails.low[..., None] - tails.low_mean[..., None] * np.log(OUTER / np.maximum(levels, 1e-12))
    tail_from = OUTER / 2
    return np.where(levels > 1 - tail_from, upper, np.where(levels < tail_from, lower, inner))


class Tails(NamedTuple):
    """Where the outer tenths begin, and the mean excess beyond, each of shape (...)."""

    low: Array
    low_mean: Array
    high: Array
    high_mean: Array


def _tails(ordered: Array, spread: Array) -> Tails:
    outer = round(OUTER * RING)
    low, high = ordered[..., outer], ordered[..., RING - 1 - outer]
    least = LEAST_TAIL * spread
    return Tails(
        low,
        np.maximum(low - ordered[..., :outer].mean(axis=-1), least),
        high,
        np.maximum(ordered[..., RING - outer :].mean(axis=-1) - high, least),
    )


def tail_probabilities(ring: Ring, z: Array, spread: Array) -> tuple[Array, Array]:
    """Chance of a residual as low as ``z``, and of one as high, for filled rings (n, RING), ``z`` and ``spread`` (n,).

    At least ``OUTER`` inside, following the exponential tails outside; NaN gives 1."""
    ordered = np.sort(ring, axis=-1).astype(np.float64)
    tails = _tails(ordered, spread)
    rank_low = np.clip((ordered <= z[:, None]).mean(axis=1), OUTER, 1.0)
    rank_high = np.clip((ordered >= z[:, None]).mean(axis=1), OUTER, 1.0)
    low = np.where(z < tails.low, OUTER * np.exp((z - tails.low) / tails.low_mean), rank_low)
    high = np.where(z > tails.high, OUTER * np.exp((tails.high - z) / tails.high_mean), rank_high)
    known = ~np.isnan(z)
    return np.where(known, low, 1.0), np.where(known, high, 1.0)


def adapt(
    levels: Array, targets: Array, hit: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_], horizon: int
) -> Array:
    """Levels after one more truth. ``hit``: the truth was at or below the quantile. Shapes (n, n_levels); ``known`` (n,).

    Truths of neighbouring origins share all but a ``horizon``-th of their way, so each counts for that much."""
    moved = levels + GAMMA / horizon * (targets - hit)
    return np.where(known[:, None], np.clip(moved, LEVEL_MARGIN, 1 - LEVEL_MARGIN), levels)
