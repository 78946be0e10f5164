"""Weights of the methods, learned on line.

The exponentially weighted average forecaster (Hedge: Freund and Schapire 1997; Cesa-Bianchi and Lugosi 2006,
section 2.2): each method's weight is ``exp(-eta * its loss so far)``, so that the mixture's loss stays within
``log(K) / eta + eta * T / 8`` of the best method's. Losses are discounted, so the comparison is with the best
method *lately* (Cesa-Bianchi and Lugosi, section 2.11). A method that has nothing to say sleeps: it is
charged the mixture's loss (Freund, Schapire, Singer and Warmuth 1997) and joins without a handicap.

The loss is the pinball loss at the median, in units of what a typical method lost lately: scale does not matter.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

ETA = 0.3
"""Softness: chosen because averaging several near-equal methods beats picking one (``benchmarks/models``)."""
MEMORY_STEPS = 60.0
"""Losses fade by 1/e in this many steps, plus three horizons (losses of long horizons overlap)."""


def fade(horizon: int) -> float:
    """What remains of a loss after one step, for forecasts ``horizon`` steps ahead."""
    return float(np.exp(-1 / (MEMORY_STEPS + 3 * horizon)))


def charge(lost: Array, points: Array, mixture: Array, truth: Array, horizon: int) -> Array:
    """Discounted losses after one more truth.

    ``lost`` and ``points`` have shape (n_series, n_methods); ``mixture`` and ``truth`` (n_series,). Rows
    without a truth or without a forecast are left as they are."""
    forecast = np.where(np.isnan(points), mixture[:, None], points)
    loss = 0.5 * np.abs(truth[:, None] - forecast)
    learned = fade(horizon) * lost + loss
    charged: Array = np.where(np.isnan(loss), lost, learned)
    return charged


def weights(lost: Array, awake: npt.NDArray[np.bool_], horizon: int) -> Array:
    """Weights over the last axis that sum to 1 (0 for methods asleep; all 0 if every method sleeps).

    ``lost`` has shape (..., n_methods), as ``awake``."""
    typical = lost.mean(axis=-1, keepdims=True) * (1 - fade(horizon))
    regret = (lost - lost.min(axis=-1, keepdims=True)) / np.maximum(typical, 1e-12)
    raw = np.where(awake, np.exp(-ETA * regret / np.sqrt(horizon)), 0.0)
    total = raw.sum(axis=-1, keepdims=True)
    share: Array = np.divide(raw, total, out=np.zeros_like(raw), where=total > 0)
    return share
