"""From a point to calibrated quantiles: scaled residuals, a tail, and adaptive conformal levels.

For every target (a value some steps ahead, or the maximum until then) the last ``RING`` residuals, divided by a
running scale, are kept. The ring starts full of a prior sample, quantiles of Student's t with 5 degrees of
freedom (heavier than normal, as operations data is), and each true residual replaces one of it: evidence takes
over from the prior at its own pace.

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
MAX_Z: Final = 12.0
"""Residuals are clipped to this many scales: one absurd value must not own the tail for an hour."""


def prior(peak_of: int = 1) -> Ring:
    """The prior sample, shape (RING,), in a fixed shuffled order so that replacing it favours no side.

    ``peak_of``: sample of the maximum of so many independent draws, ``F(x) ** peak_of``."""
    levels = ((np.arange(RING) + 0.5) / RING) ** (1 / peak_of)
    sample = special.stdtrit(5, levels) / np.sqrt(5 / 3)
    return np.random.default_rng(5).permutation(sample).astype(np.float32)


def quantiles(ring: Ring, levels: Array) -> Array:
    """Quantiles of each ring at its own levels.

    ``ring`` has shape (..., RING), ``levels`` (..., n_levels) in (0, 1); the answer has the shape of ``levels``.
    """
    ordered = np.sort(ring, axis=-1).astype(np.float64)
    position = np.clip(levels * RING - 0.5, 0, RING - 1)
    below = np.minimum(position.astype(np.int64), RING - 2)
    left = np.take_along_axis(ordered, below, axis=-1)
    right = np.take_along_axis(ordered, below + 1, axis=-1)
    inner = left + (position - below) * (right - left)
    tails = _tails(ordered)
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


def _tails(ordered: Array) -> Tails:
    outer = round(OUTER * RING)
    low, high = ordered[..., outer], ordered[..., RING - 1 - outer]
    least = 0.1  # of the scale: a ring of equal residuals still has a tail
    return Tails(
        low,
        np.maximum(low - ordered[..., :outer].mean(axis=-1), least),
        high,
        np.maximum(ordered[..., RING - outer :].mean(axis=-1) - high, least),
    )


def tail_probabilities(ring: Ring, z: Array) -> tuple[Array, Array]:
    """Chance of a residual as low as ``z``, and of one as high, for rings (n, RING) and ``z`` (n,).

    Not below 1 / RING inside, following the exponential tails outside; NaN gives 1."""
    ordered = np.sort(ring, axis=-1).astype(np.float64)
    tails = _tails(ordered)
    rank_low = np.clip((ordered <= z[:, None]).mean(axis=1), OUTER, 1.0)
    rank_high = np.clip((ordered >= z[:, None]).mean(axis=1), OUTER, 1.0)
    low = np.where(z < tails.low, OUTER * np.exp((z - tails.low) / tails.low_mean), rank_low)
    high = np.where(z > tails.high, OUTER * np.exp((tails.high - z) / tails.high_mean), rank_high)
    known = ~np.isnan(z)
    return np.where(known, low, 1.0), np.where(known, high, 1.0)


def adapt(levels: Array, targets: Array, hit: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]) -> Array:
    """Levels after one more truth. ``hit``: the truth was at or below the quantile. Shapes (n, n_levels); ``known`` (n,)."""
    moved = levels + GAMMA * (targets - hit)
    return np.where(known[:, None], np.clip(moved, LEVEL_MARGIN, 1 - LEVEL_MARGIN), levels)
