"""The univariate detector where nothing is wrong, and what it costs.

Run: ``python benchmarks/models/detector.py [--steps 10000] [--rows 10] [--seed 0]``. Prints one JSON value.

- ``noise``: of each kind of seeded noise, alerts a series in all its steps and in the second half, and the share of steps
  with a state score of at least 0.5 (``strange``). Steps are 5 minutes apart.
- ``weeks``: alerts a service-week of the load generator's services without faults (``anomalies.CLEAN``, two of each kind,
  windows of a minute), by metric; and of these after the first day.
- ``speed``: 10,000 series of a daily wave: milliseconds a step on one core (median and largest of 60, after 600), and
  kilobytes a series.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from smartscale.clock import MICROS
from smartscale.ml.anomaly.detector import Detector
from smartscale.producer import scenario
from smartscale.producer.windows import windows

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.models.anomalies import CLEAN, clean

Floats = npt.NDArray[np.float64]

STEP_US: Final = 300 * MICROS
DAY: Final = 288
SERIES: Final = 10_000


def kinds(steps: int, rows: int, seed: int) -> dict[str, Floats]:
    """Series of shape (steps, rows) without any fault."""
    chance = np.random.default_rng(seed)
    normal = chance.normal(size=(steps, rows))
    day = np.sin(np.arange(steps) * 2 * np.pi / DAY)[:, None]
    return {
        "normal": normal,
        "Laplace": chance.laplace(size=(steps, rows)),
        "Student t, 3 degrees of freedom": chance.standard_t(3, (steps, rows)),
        "log-normal": np.exp(normal),
        "autoregressive, 0.9": autoregressive(normal, 0.9),
        "autoregressive, 0.99": autoregressive(normal, 0.99),
        "random walk": np.cumsum(normal, axis=0),
        "Poisson, mean 3": chance.poisson(3.0, (steps, rows)).astype(np.float64),
        "daily wave, Poisson, mean 1000": chance.poisson(1000 * (1 + day / 2), (steps, rows)).astype(
            np.float64
        ),
        "daily wave, normal": 5 * day + normal / 2,
    }


def autoregressive(noise: Floats, share: float) -> Floats:
    values = noise.copy()
    for step in range(1, len(values)):
        values[step] += share * values[step - 1]
    return values


def judged(values: Floats, step_us: int = STEP_US) -> tuple[Floats, Floats]:
    detector = Detector()
    state = detector.fresh(values.shape[1])
    scores = [
        detector.step(state, np.full(values.shape[1], step * step_us), row) for step, row in enumerate(values)
    ]
    return np.array([alert for alert, _ in scores]), np.array([strange for _, strange in scores])


def quiet(values: Floats) -> dict[str, float]:
    alert, strange = judged(values)
    told, half = alert >= 0.5, len(values) // 2
    return {
        "alerts": round(float(told.sum(axis=0).mean()), 1),
        "in_second_half": round(float(told[half:].sum(axis=0).mean()), 1),
        "strange": round(float((strange >= 0.5).mean()), 4),
    }


def weeks(seed: int) -> dict[str, tuple[float, float]]:
    minutes = windows(scenario.load_of(clean(seed, 2 * len(CLEAN), 7)), 60.0)
    metrics = {
        "rate": minutes.count.astype(np.float64),
        "latency p50": minutes.latency_ms[:, :, 0],
        "latency p99": minutes.latency_ms[:, :, 3],
        "error rate": minutes.errors / np.maximum(minutes.count, 1),
    }
    found = {}
    for metric, values in metrics.items():
        told = judged(values.T, 60 * MICROS)[0] >= 0.5
        found[metric] = (
            round(float(told.sum(axis=0).mean()), 1),
            round(float(told[1440:].sum(axis=0).mean()), 1),
        )
    return found


def speed() -> dict[str, float]:
    chance, detector = np.random.default_rng(0), Detector()
    state, took = detector.fresh(SERIES), []
    for step in range(660):
        values = 100 + 30 * np.sin(step * 2 * np.pi / DAY) + chance.normal(0, 4, SERIES)
        began = time.perf_counter()
        detector.step(state, np.full(SERIES, step * STEP_US), values)
        took.append(1e3 * (time.perf_counter() - began))
    size = sum(getattr(state, field.name).nbytes for field in fields(state))
    return {
        "ms_a_step": round(float(np.median(took[600:]))),
        "largest_ms": round(max(took[600:])),
        "kb_a_series": round(size / SERIES / 1e3, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found: dict[str, Any] = {
        kind: quiet(values) for kind, values in kinds(given.steps, given.rows, given.seed).items()
    }
    print(json.dumps({"noise": found, "weeks": weeks(given.seed), "speed": speed()}, indent=2))


if __name__ == "__main__":
    main()
