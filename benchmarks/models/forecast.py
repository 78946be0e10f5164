"""Forecasts of seeded series beside naive and seasonal naive. What they cost: ``service.py``.

Run: ``python benchmarks/models/forecast.py``. Prints one JSON object a line:

- ``accuracy/NAME``: pinball loss, mean over levels 0.05 to 0.99 and steps 1 to 30, divided by that of the naive and
  the seasonal naive forecast; both get the quantiles of their own past residuals per horizon, so the ratio compares
  distributions with distributions. ``coverage`` of the 90 % band; ``peak_95`` and ``peak_99``: share of maxima over 30 steps
  at or under that quantile.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from smartscale.ml.forecast.ensemble import LEVELS, Forecaster

Array = npt.NDArray[np.float64]
HORIZON, DAY, SERIES, STEP_S = 30, 144, 8, 600.0
STEPS = 12 * DAY
WARM = 4 * DAY


def daily(rng: np.random.Generator) -> Array:
    """A daily wave with noise that remembers, as most user traffic."""
    wave = 1 + 0.6 * np.sin(np.arange(STEPS) * 2 * np.pi / DAY)
    return np.asarray(wave[:, None] * np.exp(_remembering(rng, 0.9, 0.05)))


def walk(rng: np.random.Generator) -> Array:
    """No season: a random walk of the logarithm."""
    return np.asarray(np.exp(np.clip(np.cumsum(rng.normal(0, 0.02, (STEPS, SERIES)), axis=0), -2, 2)))


def bursts(rng: np.random.Generator) -> Array:
    """A steady level with bursts of three times that, six steps long, twice a day."""
    begin = rng.random((STEPS, SERIES)) < 2 / DAY
    on = sum(np.roll(begin, lag, axis=0) for lag in range(6)) > 0
    return np.where(on, 3.0, 1.0)


def steady(_rng: np.random.Generator) -> Array:
    """Nothing but chance."""
    return np.ones((STEPS, SERIES))


def _remembering(rng: np.random.Generator, memory: float, size: float) -> Array:
    noise = np.zeros((STEPS, SERIES))
    for step in range(1, STEPS):
        noise[step] = memory * noise[step - 1] + rng.normal(0, size, SERIES)
    return noise


SCENARIOS: dict[str, Callable[[np.random.Generator], Array]] = {
    "daily": daily,
    "walk": walk,
    "bursts": bursts,
    "steady": steady,
}


def pinball(quantiles: Array, truth: Array) -> float:
    """Mean pinball loss over the levels to 0.99 (Koenker and Bassett 1978)."""
    levels = LEVELS[:-1]
    difference = truth[..., None] - quantiles[..., :-1]
    return float(np.maximum(levels * difference, (levels - 1) * difference).mean())


def baseline(rates: Array, origin: int, period: int | None) -> Array:
    """The last value, or that of a period ago, with the quantiles of its residuals over the past two days.

    Shape (SERIES, HORIZON, Q)."""
    answer: list[Array] = []
    past = np.arange(origin - 2 * DAY, origin + 1)
    for h in range(1, HORIZON + 1):
        back = h if period is None else period
        offsets = np.quantile(rates[past] - rates[past - back], LEVELS, axis=0).T
        answer.append(np.asarray(rates[origin + h - back][:, None] + offsets, np.float64))
    return np.maximum(np.stack(answer, axis=1), 0.0)


def accuracy(name: str) -> dict[str, object]:
    """One scenario, 60 origins after the warm-up."""
    rng = np.random.default_rng(sorted(SCENARIOS).index(name))
    rates = rng.poisson(SCENARIOS[name](rng) * 20 * STEP_S) / STEP_S
    plan = Forecaster(STEP_S, HORIZON, 8 * DAY)
    state = plan.fresh(SERIES)
    origins = set(np.linspace(WARM, STEPS - HORIZON - 1, 60).astype(int).tolist())
    ours, naive, seasonal, inside, peaks = [], [], [], [], []
    for step in range(STEPS):
        plan.learn(state, step, rates[step])
        if step not in origins:
            continue
        truth = rates[step + 1 : step + 1 + HORIZON].T
        found = plan.forecast(state, state.memory, step)
        ours.append(pinball(found.values, truth))
        naive.append(pinball(baseline(rates, step, None), truth))
        seasonal.append(pinball(baseline(rates, step, DAY), truth))
        inside.append(((truth >= found.values[:, :, 0]) & (truth <= found.values[:, :, 6])).mean())
        peaks.append((truth.max(axis=1)[:, None] <= found.peaks[:, -1, 6:8]).mean(axis=0))
    return {
        "id": f"accuracy/{name}",
        "to_naive": round(float(np.mean(ours) / np.mean(naive)), 3),
        "to_seasonal_naive": round(float(np.mean(ours) / np.mean(seasonal)), 3),
        "coverage": round(float(np.mean(inside)), 3),
        "peak_95": round(float(np.mean(peaks, axis=0)[0]), 3),
        "peak_99": round(float(np.mean(peaks, axis=0)[1]), 3),
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None).parse_args()
    print(json.dumps([accuracy(name) for name in SCENARIOS], indent=2))


if __name__ == "__main__":
    main()
