"""The scores of quantile forecasts, and how they are put together.

With truths y over origins and steps, and quantiles q(tau) forecast for them:

- pinball loss (Koenker and Bassett 1978): ``max(tau * (y - q), (tau - 1) * (y - q))``, least when q is the true quantile;
- weighted quantile loss, at a level ``2 * sum(pinball) / sum(|y|)``, and WQL its mean over ``LEVELS`` (Park et al. 2022,
  "Learning quantile functions without quantile crossing"; the form of GluonTS and of most published tables);
- MASE (Hyndman and Koehler 2006): mean absolute error of the median over that of the naive one-step forecast within the
  warm-up;
- coverage: share of truths in ``[q05, q95]``, bounds included;
- exceedance: share of truths above a quantile, wanted ``1 - tau``; of the values, and of the maxima over a lead time.

Truths that are gaps are left out.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

LEVELS: Final = np.array([*(round(0.05 * i, 2) for i in range(1, 20)), 0.99])
"""Of WQL, and of the CSV of forecasts."""
TAIL: Final = np.array([0.999, 0.9995])
"""Only counted by how often they are exceeded."""
ALL_LEVELS: Final = np.concatenate([LEVELS, TAIL])
_LOW, _HIGH = (int(np.searchsorted(LEVELS, level)) for level in (0.05, 0.95))
_MEDIAN = int(np.searchsorted(LEVELS, 0.5))


class Scores(msgspec.Struct, frozen=True):
    """Of one method over steps 1 to a horizon. None where there is nothing to divide by."""

    truths: int
    wql: float | None
    mase: float | None
    quantile_loss: dict[str, float | None]
    """Weighted quantile loss at each level."""
    coverage_90: float | None
    exceeded: dict[str, float | None]
    peak_exceeded: dict[str, float | None]


def score(values: Array, peaks: Array, truth: Array, scale: float | None) -> Scores:
    """Scores of quantiles at ``ALL_LEVELS``: ``values`` (origins, steps, levels) and ``peaks`` (origins, levels) of the
    maximum over the steps, against ``truth`` (origins, steps). ``scale`` is the naive error of MASE."""
    known = ~np.isnan(truth)
    y, q = truth[known], values[known]
    loss = pinball(q[:, : len(LEVELS)], y, LEVELS).sum(axis=0)
    size = float(np.abs(y).sum())
    weighted = [_divided(2 * float(one), size) for one in loss]
    whole = [one for one in weighted if one is not None]
    top = truth.max(axis=1)
    whole_top = ~np.isnan(top)
    return Scores(
        truths=len(y),
        wql=float(np.mean(whole)) if whole else None,
        mase=_divided(float(np.abs(y - q[:, _MEDIAN]).sum()), (scale or 0.0) * len(y)),
        quantile_loss=dict(zip(names(LEVELS), weighted, strict=True)),
        coverage_90=_share((y >= q[:, _LOW]) & (y <= q[:, _HIGH])),
        exceeded=_exceeded(q, y),
        peak_exceeded=_exceeded(peaks[whole_top], top[whole_top]),
    )


def pinball(quantiles: Array, truth: Array, levels: Array) -> Array:
    """Loss of each truth (n,) at each level, (n, levels).

    >>> pinball(np.array([[2.0, 2.0]]), np.array([3.0]), np.array([0.5, 0.9])).tolist()
    [[0.5, 0.9]]
    """
    over = truth[:, None] - quantiles
    loss: Array = np.maximum(levels * over, (levels - 1) * over)
    return loss


def naive_error(values: Array, until: int) -> float | None:
    """Mean absolute difference of neighbouring known values of steps 0 to ``until``; None without any."""
    apart = np.abs(np.diff(values[: until + 1]))
    apart = apart[~np.isnan(apart)]
    return float(apart.mean()) if len(apart) and apart.mean() > 0 else None


def geometric_mean(ratios: list[float]) -> float | None:
    """None of none; 0 if one is 0.

    >>> geometric_mean([0.5, 2.0]), geometric_mean([])
    (1.0, None)
    """
    if not ratios:
        return None
    return float(np.exp(np.log(ratios).mean())) if min(ratios) > 0 else 0.0


def names(levels: Array) -> list[str]:
    """Levels as keys.

    >>> names(np.array([0.05, 0.9995]))
    ['0.05', '0.9995']
    """
    return [f"{level:g}" for level in levels]


def _exceeded(quantiles: Array, truth: Array) -> dict[str, float | None]:
    above = truth[:, None] > quantiles
    return {name: _share(above[:, k]) for k, name in enumerate(names(ALL_LEVELS))}


def _share(hits: npt.NDArray[np.bool_]) -> float | None:
    return float(hits.mean()) if len(hits) else None


def _divided(a: float, b: float) -> float | None:
    return a / b if b > 0 else None
