"""Weights of the methods, learned on line: ML-Poly, with gradients.

Polynomially weighted averages with a learning rate for each method (ML-Poly: Gaillard, Stoltz and van Erven 2014, "A
second-order bound with excess losses", algorithm 2). With r(t, k) how much less method k lost at t than the mixture,

    weight(k)  ~  prior(k) * max(sum of r(., k), 0) / (1 + sum of r(., k)^2)

Its theorem 5: with losses in units of their range, after T truths the mixture is behind method k, for every k at once, by
at most ``sqrt(K * (1 + ln(1 + T)) * (1 + sum of r(., k)^2))``: no rate has to be tuned, and a method that is much like the
mixture costs nothing. Differences:

- The losses are linearised at the mixture: r(t, k) = slope of the loss at the mixture * (mixture - forecast(k)). As the
  loss is convex, the bound then holds against every fixed *average* of the methods, not only against the best one
  (Cesa-Bianchi and Lugosi 2006, section 2.5).
- The loss is Huber's (1964) with its corner at ``CORNER`` typical errors of the mixture: nearly the pinball loss at the
  median, but an error smaller than usual says little about who was right. In units of the typical error, so scale does
  not matter; one surprise counts as ``MOST`` typical errors at most.
- Sums fade (``fade``): the bound holds for discounted regret, as if old losses had been smaller. Forecasts far ahead are
  judged only when their truth comes; a delay of h steps multiplies such bounds by at most sqrt(h) (Joulani, Gyorgy and
  Szepesvari 2013).
- A method that has nothing to say sleeps: its sums stay as they are, and it joins without a handicap (Freund, Schapire,
  Singer and Warmuth 1997): what it has not seen is neither for nor against it, and with little seen its learning rate
  is high.
- As long as no method is ahead of the mixture, the first one awake (the naive) speaks alone: thin evidence favours it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[np.float64]
Small = npt.NDArray[np.float32]

CORNER: Final = 1.0
MOST: Final = 10.0
START: Final = 3.0
"""The 1 in the formula: more of it makes the first truths count for less."""
MEMORY_STEPS: Final = 2000.0
"""Sums fade by 1/e in this many steps (as the regression forgets), plus ``MEMORY_HORIZONS`` horizons."""
MEMORY_HORIZONS: Final = 60.0
LEAST: Final = 1e-6
"""A typical error is never taken smaller than this share of the value: rounding is no evidence."""


def fade(horizon: int) -> float:
    """What remains of a sum after one step, for forecasts ``horizon`` steps ahead."""
    return float(np.exp(-1 / (MEMORY_STEPS + MEMORY_HORIZONS * horizon)))


@njit(cache=True, nogil=True, error_model="numpy")
def charge(points: Small, truth: Array, keep: float, regret: Array, squares: Array, usual: Array) -> None:
    """Every method of every series is charged for one forecast, now that its truth is known.

    ``points`` (n, K + 1): what each method said, NaN if it slept, and last the mixture; ``truth`` (n,). Changed in place:
    ``regret`` and ``squares`` (n, K), the sums of r and of its squares; ``usual`` (n, 2), the sums of the mixture's absolute
    errors and of their weights. ``keep`` is the ``fade``. Rows without a truth or a forecast are left as they are."""
    last = regret.shape[1]
    for i in range(len(truth)):
        mixture = np.float64(points[i, last])
        error = mixture - truth[i]
        if np.isnan(error):
            continue
        usual[i, 0] = keep * usual[i, 0] + abs(error)
        usual[i, 1] = keep * usual[i, 1] + 1
        unit = max(usual[i, 0] / usual[i, 1], LEAST * abs(truth[i]), 1e-30)
        slope = min(max(error / (CORNER * unit), -1.0), 1.0)
        for k in range(last):
            if np.isnan(points[i, k]):
                continue
            ahead = min(max(slope * (mixture - points[i, k]) / unit, -MOST), MOST)
            regret[i, k] = keep * regret[i, k] + ahead
            squares[i, k] = keep * keep * squares[i, k] + ahead * ahead


@njit(cache=True, nogil=True, error_model="numpy")
def weights(regret: Array, squares: Array, awake: npt.NDArray[np.bool_], prior: Array, share: Array) -> None:
    """Weights of one series' methods into ``share`` (K,): they sum to 1 over those awake, 0 if all sleep."""
    total, first = 0.0, -1
    for k in range(len(share)):
        share[k] = 0.0
        if awake[k]:
            first = k if first < 0 else first
            share[k] = prior[k] * max(regret[k], 0.0) / (START + squares[k])
            total += share[k]
    if total > 0:
        for k in range(len(share)):
            share[k] /= total
    elif first >= 0:
        share[first] = 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def mix(
    paths: Array,
    at: npt.NDArray[np.int64],
    between: Array,
    prior: Array,
    regret: Array,
    squares: Array,
    mixture: Array,
    shares: Array,
) -> None:
    """The mixture of ``paths`` (K, n, h) into ``mixture`` (n, h), and each method's mean share of it into ``shares`` (n, K).

    ``regret`` and ``squares`` (n, A, K) belong to the anchor horizons ``at``, (A,); ``between`` (>= h, A) are the shares of
    the anchors at each step. A method awake at an anchor but not at a step leaves its share to the others there."""
    n_methods, n_series, horizon = paths.shape
    n_anchors = len(at)
    at_anchors = np.empty((n_anchors, n_methods))
    awake = np.empty(n_methods, np.bool_)
    share = np.empty(n_methods)
    for i in range(n_series):
        for a in range(n_anchors):
            step = min(at[a], horizon) - 1
            for k in range(n_methods):
                awake[k] = not np.isnan(paths[k, i, step])
            weights(regret[i, a], squares[i, a], awake, prior, at_anchors[a])
        shares[i] = 0.0
        for j in range(horizon):
            total, first, value = 0.0, -1, 0.0
            for k in range(n_methods):
                share[k] = 0.0
                if np.isnan(paths[k, i, j]):
                    continue
                first = k if first < 0 else first
                for a in range(n_anchors):
                    share[k] += between[j, a] * at_anchors[a, k]
                total += share[k]
                value += share[k] * paths[k, i, j]
            if total > 0:
                mixture[i, j] = value / total
                for k in range(n_methods):
                    shares[i, k] += share[k] / (total * horizon)
            elif first >= 0:
                mixture[i, j] = paths[first, i, j]
                shares[i, first] += 1.0 / horizon
            else:
                mixture[i, j] = np.nan
