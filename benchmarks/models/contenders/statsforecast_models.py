"""Forecasts by statsforecast, for ``load_traces.py``, in an environment of its own: it needs another pandas.

Each line of stdin is ``{"model", "values", "season", "horizon"}``; each line of stdout the quantiles, a list of ``horizon``
lists at the levels 0.05, 0.1 … 0.95 and 0.99, or ``{"error"}``.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from statsforecast.models import MSTL, AutoARIMA, AutoETS, AutoTheta

INTERVALS = [*range(10, 100, 10), 98]
"""Percent; the bounds of 90 % are the quantiles 0.05 and 0.95."""

MODELS: dict[str, Callable[[int], Any]] = {
    "AutoETS": lambda season: AutoETS(season_length=season),
    "AutoTheta": lambda season: AutoTheta(season_length=season),
    # A seasonal search of orders takes minutes at every origin: STL takes the season out first.
    "AutoARIMA": lambda season: (
        AutoARIMA(season_length=1)
        if season == 1
        else MSTL(season_length=season, trend_forecaster=AutoARIMA(season_length=1))
    ),
    "MSTL": lambda season: MSTL(season_length=season),
}


def quantiles(model: str, values: list[float], season: int, horizon: int) -> list[list[float]]:
    """Quantiles of the steps after ``values``, never below zero."""
    made = MODELS[model](season).forecast(y=np.array(values), h=horizon, level=INTERVALS)
    rows = [
        *(made[f"lo-{level}"] for level in reversed(INTERVALS[:-1])),
        made["mean"],
        *(made[f"hi-{level}"] for level in INTERVALS),
    ]
    found: list[list[float]] = np.maximum(np.stack([np.asarray(row, float) for row in rows], 1), 0.0).tolist()
    return found


def main() -> None:
    warnings.filterwarnings("ignore")
    for line in sys.stdin:
        try:
            answer: object = quantiles(**json.loads(line))
        except Exception as error:  # noqa: BLE001 (a model that fails is told; the others go on)
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
